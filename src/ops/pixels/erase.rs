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

/// Fills `rect` of `sample_chw`, `[3, height, width]`, which contains it.
pub fn erase(sample_chw: &mut [f32], (width, height): (usize, usize), rect: Rect, filling: Filling) {
    let mut drawn = 0;
    let mut draw = |stream: Stream| {
        drawn += 1;
        stream.normal(drawn - 1) as f32
    };
    for plane in sample_chw.chunks_exact_mut(width * height) {
        let of_channel = match filling {
            Filling::Channels(stream) => draw(stream),
            Filling::Zero | Filling::Pixels(_) => 0.0,
        };
        for row in plane.chunks_exact_mut(width).skip(rect.y).take(rect.height) {
            let row = &mut row[rect.x..rect.right()];
            match filling {
                Filling::Zero | Filling::Channels(_) => row.fill(of_channel),
                Filling::Pixels(stream) => row.fill_with(|| draw(stream)),
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
            erase(&mut sample, (6, 4), rect, filling);
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
