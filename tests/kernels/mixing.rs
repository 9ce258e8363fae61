//! `kernels/mixing.cu` against `ops::mixing`.

use dtrain::ops::jpeg::Rect;
use dtrain::ops::launch;
use dtrain::ops::mixing::{Blend, mix};

use super::case::{Arg, Case, Format, Tolerance};
use super::values::{normal, tensor, values};

pub fn cases() -> Vec<Case> {
    let shapes = [(1, 1, 1, 1), (4, 3, 5, 7), (3, 3, 33, 29), (2, 1, 64, 40)];
    let mut cases: Vec<Case> = shapes.into_iter().map(mixed).collect();
    cases.push(mixed((4, 3, 5, 7)).misaligned());
    cases
}

/// Sums, rectangles, both and neither, of pictures in any order; fewer results than pictures.
fn mixed((n, c, height, width): (usize, usize, usize, usize)) -> Case {
    let mut case = Case::new(format!("mix {n}x{c}x{height}x{width}"));
    let x = normal(Format::F32, n * c * height * width, 1);
    let cut = |x: usize, y: usize, right: usize, bottom: usize| Rect {
        x,
        y,
        width: right - x,
        height: bottom - y,
    };
    let nowhere = cut(0, 0, 0, 0);
    let blends: Vec<Blend> = [
        (0.3, nowhere),
        (1.0, cut(width / 3, height / 4, width, height / 2)),
        (1.0, nowhere),
        (0.875, cut(0, 0, width, height)),
        (0.0, cut(0, height / 2, width.div_ceil(2), height)),
    ]
    .into_iter()
    .enumerate()
    .map(|(i, (share, cut))| Blend {
        own: (n - 1) - i % n,
        partner: i * 2 % n,
        share,
        cut,
    })
    .collect();
    let expected = values(&mix(&tensor(&x, &[n, c, height, width]), &blends).unwrap());
    let place = |blend: &Blend| {
        let cut = blend.cut;
        [blend.own, blend.partner, cut.x, cut.y, cut.right(), cut.bottom()].map(|number| number as u32)
    };
    let len = c * height * width;
    let y = case.output(Format::F32, blends.len() * len);
    let args = vec![
        y.clone(),
        case.input(Format::F32, x),
        case.input(Format::U32, blends.iter().flat_map(place)),
        case.input(Format::F32, blends.iter().map(|blend| blend.share)),
        Arg::U32(height as u32),
        Arg::U32(width as u32),
        Arg::U32(len as u32),
    ];
    case.step("mix_f32", launch::images(blends.len(), len), args);
    case.expect(&y, expected, Tolerance::EXACT);
    case
}
