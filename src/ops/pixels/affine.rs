//! Affine maps of a picture with the nearest pixel: shears, translations and rotations.
//!
//! The matrices are those that torchvision (shears) and Pillow (rotations) compute in f64, step by step; pixels are found in
//! Pillow's 16-bit fixed point.

use std::io::Write;
use std::ops::Range;

const FRACTION_BITS: u32 = 16;

/// The pixel at (x, y) is that of the old picture at (a x + b y + c, d x + e y + f), both at the middle of a pixel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Affine {
    a: f64,
    b: f64,
    c: f64,
    d: f64,
    e: f64,
    f: f64,
}

const IDENTITY: Affine = Affine {
    a: 1.0,
    b: 0.0,
    c: 0.0,
    d: 0.0,
    e: 1.0,
    f: 0.0,
};

impl Affine {
    /// Around the upper left corner. torchvision goes through the angle.
    pub fn shear_x(level: f64) -> Affine {
        let angle = level.atan().to_degrees().to_radians();
        Affine {
            b: angle.tan(),
            ..IDENTITY
        }
    }

    pub fn shear_y(level: f64) -> Affine {
        let angle = level.atan().to_degrees().to_radians();
        Affine {
            d: angle.sin() / angle.cos(),
            ..IDENTITY
        }
    }

    pub fn translation(x: i64, y: i64) -> Affine {
        Affine {
            c: -x as f64,
            f: -y as f64,
            ..IDENTITY
        }
    }

    /// Around the middle of a picture of this size, counterclockwise.
    pub fn rotation(degrees: f64, width: usize, height: usize) -> Affine {
        let angle = -degrees.rem_euclid(360.0).to_radians();
        let (sin, cos) = (rounded(angle.sin()), rounded(angle.cos()));
        let (x, y) = (width as f64 / 2.0, height as f64 / 2.0);
        Affine {
            a: cos,
            b: sin,
            c: cos * -x + sin * -y + x,
            d: -sin,
            e: cos,
            f: -sin * -x + cos * -y + y,
        }
    }

    /// Writes what the map makes of `from`, both `[3, height, width]`.
    pub fn transform(&self, from_chw: &[u8], to_chw: &mut [u8], (width, height): (usize, usize)) {
        let Affine { a, b, c, d, e, f } = *self;
        let fixed = |value: f64| (value * f64::from(1 << FRACTION_BITS) + 0.5).floor() as i64;
        let [x_per_x, x_per_y, y_per_x, y_per_y] = [a, b, d, e].map(fixed);
        let x_start = fixed(c + a * 0.5 + b * 0.5);
        let y_start = fixed(f + d * 0.5 + e * 0.5);
        let plane = width * height;
        to_chw.fill(0);
        for row in 0..height {
            let x_first = x_start + x_per_y * row as i64;
            let y_first = y_start + y_per_y * row as i64;
            let known = inside(x_first, x_per_x, width, width);
            let known = intersection(known, inside(y_first, y_per_x, height, width));
            if known.is_empty() {
                continue;
            }
            let at = |column: usize| {
                let x = (x_first + x_per_x * column as i64) >> FRACTION_BITS;
                let y = (y_first + y_per_x * column as i64) >> FRACTION_BITS;
                y as usize * width + x as usize
            };
            for channel in 0..3 {
                let from = &from_chw[channel * plane..][..plane];
                let to = &mut to_chw[channel * plane + row * width..][..width][known.clone()];
                if x_per_x == 1 << FRACTION_BITS && y_per_x == 0 {
                    to.copy_from_slice(&from[at(known.start)..][..known.len()]);
                    continue;
                }
                for (to, column) in to.iter_mut().zip(known.clone()) {
                    *to = from[at(column)];
                }
            }
        }
    }
}

/// To 15 decimals, as Python's `round` does it: through the exact decimal text.
fn rounded(value: f64) -> f64 {
    let mut text = [0; 24];
    let mut rest = &mut text[..];
    write!(rest, "{value:.15}").expect("24 bytes hold a sine");
    let left = rest.len();
    let text = &text[..text.len() - left];
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .expect("a number")
}

/// The columns below `columns` whose `first + step * column` is in the fixed-point range 0..size.
fn inside(first: i64, step: i64, size: usize, columns: usize) -> Range<usize> {
    let end = (size as i64) << FRACTION_BITS;
    // Of values that grow: the first column at or above `bound`.
    let reaches = |first: i64, step: i64, bound: i64| -(first - bound).div_euclid(step);
    let (low, high) = match step {
        0 if (0..end).contains(&first) => (0, columns as i64),
        0 => (0, 0),
        1.. => (reaches(first, step, 0), reaches(first, step, end)),
        // From above: -first grows; inside is above -end, up to 0.
        _ => (reaches(-first, -step, 1 - end), reaches(-first, -step, 1)),
    };
    let clamped = |column: i64| column.clamp(0, columns as i64) as usize;
    clamped(low)..clamped(high)
}

fn intersection(a: Range<usize>, b: Range<usize>) -> Range<usize> {
    a.start.max(b.start)..a.end.min(b.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_inside_are_those_that_are() {
        for step in [-70_000, -65_536, -9_000, -1, 0, 1, 9_000, 65_536, 70_000] {
            for first in (-9..9).map(|k| k * 40_000 + k) {
                let is_inside = |column: &usize| (0..5 << 16).contains(&(first + step * *column as i64));
                let expected: Vec<usize> = (0..12).filter(is_inside).collect();
                let found: Vec<usize> = inside(first, step, 5, 12).collect();
                assert_eq!(found, expected, "{first} + {step} column");
            }
        }
    }

    #[test]
    fn rounding_is_pythons() {
        // round(math.cos(math.radians(17)), 15), round(math.sin(-math.radians(30)), 15)
        assert_eq!(rounded(17f64.to_radians().cos()), 0.956304755963035);
        assert_eq!(rounded((-30f64.to_radians()).sin()), -0.5);
        assert_eq!(rounded(1.0), 1.0);
    }
}
