//! Random erasing's last step: a rectangle of a normalized sample gets other values.

use crate::ops::jpeg::Rect;
use crate::rng::Stream;

/// What an erased rectangle is filled with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Filling {
    /// 0 everywhere.
    Zero,
    /// A normal deviate per channel.
    Channels(Stream),
    /// A normal deviate per channel and pixel.
    Pixels(Stream),
}

/// A rectangle that is filled.
#[derive(Clone, Debug, PartialEq)]
pub struct Erased {
    pub rect: Rect,
    /// None: 0 everywhere; one a channel; or `[3, height, width]` of the rectangle.
    pub values: Vec<f32>,
}

impl Filling {
    /// For a rectangle of so many pixels.
    fn values(&self, area: usize) -> Vec<f32> {
        let draw = |stream: &Stream, count: usize| (0..count as u32).map(|i| stream.normal(i) as f32).collect();
        match self {
            Filling::Zero => Vec::new(),
            Filling::Channels(stream) => draw(stream, 3),
            Filling::Pixels(stream) => draw(stream, 3 * area),
        }
    }
}

impl Erased {
    pub fn new(rect: Rect, filling: Filling) -> Erased {
        Erased {
            rect,
            values: filling.values(rect.width * rect.height),
        }
    }

    /// Fills the rectangle of `sample_chw`, `[3, height, width]`, which contains it.
    pub fn apply(&self, sample_chw: &mut [f32], (width, height): (usize, usize)) {
        let Rect { x, y, .. } = self.rect;
        let area = self.rect.width * self.rect.height;
        for (channel, plane) in sample_chw.chunks_exact_mut(width * height).enumerate() {
            let rows = plane.chunks_exact_mut(width).skip(y).take(self.rect.height);
            for (row, number) in rows.zip(0..) {
                let row = &mut row[x..x + self.rect.width];
                match self.values.as_slice() {
                    [] => row.fill(0.0),
                    [_, _, _] => row.fill(self.values[channel]),
                    pixels => row.copy_from_slice(&pixels[channel * area + number * row.len()..][..row.len()]),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Purpose;

    #[test]
    fn the_rectangle_is_filled_and_nothing_else() {
        let stream = Stream::new(1, 2, 3, Purpose::Augment(2));
        let rect = Rect {
            x: 2,
            y: 1,
            width: 3,
            height: 2,
        };
        for filling in [Filling::Zero, Filling::Channels(stream), Filling::Pixels(stream)] {
            let mut sample = vec![9.0; 3 * 4 * 6];
            Erased::new(rect, filling).apply(&mut sample, (6, 4));
            let mut erased = Vec::new();
            for (at, &value) in sample.iter().enumerate() {
                let (y, x) = (at / 6 % 4, at % 6);
                match (1..3).contains(&y) && (2..5).contains(&x) {
                    true => erased.push(value),
                    false => assert_eq!(value, 9.0, "{filling:?} at {at}"),
                }
            }
            let normal = |index: usize| stream.normal(index as u32) as f32;
            let expected: Vec<f32> = match filling {
                Filling::Zero => vec![0.0; 18],
                Filling::Channels(_) => (0..18).map(|at| normal(at / 6)).collect(),
                Filling::Pixels(_) => (0..18).map(normal).collect(),
            };
            assert_eq!(erased, expected, "{filling:?}");
        }
    }
}
