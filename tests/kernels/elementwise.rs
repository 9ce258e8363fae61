//! `kernels/elementwise.cu` against `ops::residual`, `ops::reduce` and the `half` crate.

use dtrain::ops::{launch, reduce, residual};

use super::case::{Arg, Case, Format, Tolerance};
use super::values::{normal, tensor, values};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in Format::REAL {
        for (n, d) in [(0, 8), (1, 1), (3, 5), (2, 24), (7, 300), (1, 2056)] {
            cases.push(add(format, n, d));
            cases.push(scale(format, n * d));
            cases.push(casts(format, n * d));
        }
        cases.push(add(format, 3, 16).misaligned());
        cases.push(scale(format, 24).misaligned());
        cases.push(casts(format, 24).misaligned());
    }
    cases
}

/// a + bias, then + b in place.
fn add(format: Format, n: usize, d: usize) -> Case {
    let mut case = Case::new(format!("add {format:?} {n}x{d}"));
    let (a, b, bias) = (
        normal(format, n * d, 1),
        normal(format, n * d, 2),
        normal(Format::F32, d, 3),
    );
    let sum = match n {
        0 => Vec::new(),
        _ => values(&residual::with_bias(&tensor(&a, &[1, n, d]), Some(&tensor(&bias, &[d]))).unwrap()),
    };
    let sum: Vec<f32> = sum.iter().map(|x| format.rounded(*x)).collect();
    let kernel = format!("add_{}", format.suffix());
    let (count, width, launch) = (Arg::U64((n * d) as u64), Arg::U32(d as u32), launch::eights(n * d));
    let (a, b_in, bias) = (
        case.input(format, a),
        case.input(format, b.clone()),
        case.input(Format::F32, bias),
    );
    let (once, twice) = (case.output(format, n * d), case.output(format, n * d));
    case.step(
        kernel.clone(),
        launch,
        vec![once.clone(), a, Arg::Null, bias, count.clone(), width.clone()],
    );
    case.step(
        kernel.clone(),
        launch,
        vec![
            twice.clone(),
            once.clone(),
            Arg::Null,
            Arg::Null,
            count.clone(),
            width.clone(),
        ],
    );
    case.step(
        kernel,
        launch,
        vec![twice.clone(), twice.clone(), b_in, Arg::Null, count, width],
    );
    case.expect(
        &twice,
        sum.iter().zip(&b).map(|(x, b)| format.rounded(x + b)),
        Tolerance::EXACT,
    );
    case.expect(&once, sum, Tolerance::EXACT);
    case
}

fn scale(format: Format, count: usize) -> Case {
    let mut case = Case::new(format!("scale {format:?} {count}"));
    let mut x = normal(format, count, 4);
    if let [first, second, third, ..] = &mut x[..] {
        (*first, *second, *third) = (f32::INFINITY, f32::NAN, -0.0);
    }
    let expected = tensor(&x, &[count]);
    if count > 0 {
        reduce::scale(&expected, 0.25 * 3.0).unwrap();
    }
    let x = case.state(format, x);
    let on_device = case.input(Format::F32, [3.0]);
    case.step(
        format!("scale_{}", format.suffix()),
        launch::eights(count),
        vec![x.clone(), Arg::F32(0.25), on_device, Arg::U64(count as u64)],
    );
    let expected = values(&expected);
    case.expect(&x, expected.iter().map(|x| format.rounded(*x)), Tolerance::EXACT);
    case
}

fn casts(format: Format, count: usize) -> Case {
    let mut case = Case::new(format!("cast {format:?} {count}"));
    if format == Format::F32 {
        return scale(format, count);
    }
    let mut x = normal(Format::F32, count, 5);
    if let [first, second, third, fourth, ..] = &mut x[..] {
        (*first, *second, *third, *fourth) = (f32::NEG_INFINITY, f32::NAN, 65519.9, 1e-30);
    }
    let narrow: Vec<f32> = x.iter().map(|x| format.rounded(*x)).collect();
    let (short, back) = (case.output(format, count), case.output(Format::F32, count));
    let x = case.input(Format::F32, x);
    let (launch, n) = (launch::eights(count), Arg::U64(count as u64));
    case.step(
        format!("cast_f32_to_{}", format.suffix()),
        launch,
        vec![short.clone(), x, n.clone()],
    );
    case.step(
        format!("cast_{}_to_f32", format.suffix()),
        launch,
        vec![back.clone(), short.clone(), n],
    );
    case.expect(&short, narrow.clone(), Tolerance::EXACT);
    case.expect(&back, narrow, Tolerance::EXACT);
    case
}
