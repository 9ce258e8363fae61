//! `kernels/tokens.cu` against `ops::patches` and `ops::residual`.

use dtrain::ops::{launch, patches, residual};

use super::case::{Arg, Case, Format, Tolerance};
use super::values::{normal, tensor, values};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in Format::REAL {
        for (b, c, h, w, p) in [
            (1, 1, 2, 2, 2),
            (2, 3, 32, 16, 16),
            (1, 3, 16, 24, 8),
            (2, 2, 9, 6, 3),
            (1, 3, 8, 12, 4),
        ] {
            cases.push(cut(format, b, c, h, w, p));
        }
        for (b, s, d) in [(1, 2, 1), (2, 5, 24), (3, 2, 7), (1, 17, 264)] {
            cases.push(tokens(format, b, s, d));
            cases.push(first(format, b, s, d));
        }
        cases.push(cut(format, 1, 3, 16, 16, 8).misaligned());
        cases.push(tokens(format, 2, 5, 24).misaligned());
        cases.push(first(format, 2, 5, 24).misaligned());
    }
    cases
}

fn cut(format: Format, b: usize, c: usize, h: usize, w: usize, p: usize) -> Case {
    let mut case = Case::new(format!("patches {format:?} {b}x{c}x{h}x{w} by {p}"));
    let count = b * c * h * w;
    let x = normal(format, count, 1);
    let expected = values(&patches::patches(&tensor(&x, &[b, c, h, w]), p).unwrap());
    let (y, x) = (case.output(format, count), case.input(format, x));
    let mut args = vec![y.clone(), x];
    args.extend([c, h, w, p].map(|n| Arg::U32(n as u32)));
    args.push(Arg::U64(count as u64));
    case.step(format!("patches_{}", format.suffix()), launch::eights(count), args);
    case.expect(&y, expected, Tolerance::EXACT);
    case
}

fn tokens(format: Format, b: usize, s: usize, d: usize) -> Case {
    let mut case = Case::new(format!("tokens {format:?} {b}x{s}x{d}"));
    let (y, dx) = (normal(format, b * (s - 1) * d, 1), normal(format, b * s * d, 2));
    let (cls, position) = (normal(Format::F32, d, 3), normal(Format::F32, s * d, 4));
    let (cls_t, position_t) = (tensor(&cls, &[d]), tensor(&position, &[s, d]));
    let x = values(&patches::tokens(&tensor(&y, &[b, s - 1, d]), &cls_t, &position_t).unwrap());
    let dy = patches::tokens_backward(&tensor(&dx, &[b, s, d]), &cls_t, &position_t).unwrap();
    let (width, length) = (Arg::U32(d as u32), Arg::U32(s as u32));
    let x_out = case.output(format, b * s * d);
    let args = vec![
        x_out.clone(),
        case.input(format, y),
        case.input(Format::F32, cls.clone()),
        case.input(Format::F32, position.clone()),
        length.clone(),
        width.clone(),
        Arg::U64((b * s * d) as u64),
    ];
    case.step(format!("tokens_{}", format.suffix()), launch::eights(b * s * d), args);
    let (dposition, dcls) = (case.state(Format::F32, position), case.state(Format::F32, cls));
    let dx = case.input(format, dx);
    case.step(
        format!("tokens_backward_{}", format.suffix()),
        launch::eights(s * d),
        vec![
            dposition.clone(),
            dcls.clone(),
            dx.clone(),
            Arg::U32(b as u32),
            length.clone(),
            width.clone(),
        ],
    );
    let rest = case.output(format, b * (s - 1) * d);
    case.step(
        format!("rest_tokens_{}", format.suffix()),
        launch::eights(b * (s - 1) * d),
        vec![rest.clone(), dx, length, width, Arg::U64((b * (s - 1) * d) as u64)],
    );
    case.expect(&x_out, x.iter().map(|x| format.rounded(*x)), Tolerance::EXACT);
    case.expect(&rest, values(&dy), Tolerance::EXACT);
    // The CPU adds each image to the total, the kernel the images' sum.
    let close = Tolerance {
        absolute: 1e-6,
        relative: 0.0,
    };
    case.expect(&dposition, values(&position_t), close);
    case.expect(&dcls, values(&cls_t), close);
    case
}

fn first(format: Format, b: usize, s: usize, d: usize) -> Case {
    let mut case = Case::new(format!("first_tokens {format:?} {b}x{s}x{d}"));
    let x = normal(format, b * s * d, 1);
    let first: Vec<f32> = x.chunks_exact(s * d).flat_map(|image| &image[..d]).copied().collect();
    let spread = values(&residual::first_tokens(&tensor(&first, &[b, 1, d]), s).unwrap());
    let (y, back, x) = (
        case.output(format, b * d),
        case.output(format, b * s * d),
        case.input(format, x),
    );
    let how = |to: &Arg, from: &Arg, count: usize| {
        let numbers = [Arg::U32(s as u32), Arg::U32(d as u32), Arg::U64(count as u64)];
        [to.clone(), from.clone()]
            .into_iter()
            .chain(numbers)
            .collect::<Vec<_>>()
    };
    let kernel = format!("first_tokens_{}", format.suffix());
    case.step(kernel.clone(), launch::eights(b * d), how(&y, &x, b * d));
    case.step(
        format!("spread_{kernel}"),
        launch::eights(b * s * d),
        how(&back, &y, b * s * d),
    );
    case.expect(&y, first, Tolerance::EXACT);
    case.expect(&back, spread, Tolerance::EXACT);
    case
}
