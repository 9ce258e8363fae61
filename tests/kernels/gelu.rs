//! `kernels/gelu.cu` against `ops::gelu`.

use dtrain::ops::{gelu, launch};

use super::case::{Arg, Case, Format, Tolerance};
use super::values::{normal, tensor, values};

/// Both sides approximate Φ to 2e-7 absolutely; GELU multiplies that by |x| < 6, and rounds in f32 at that size.
const ARITHMETIC: f64 = 1.5e-6;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in Format::REAL {
        for (n, d) in [(0, 8), (1, 1), (3, 5), (2, 24), (7, 1000), (1, 2048), (129, 16)] {
            for bias in [false, true] {
                cases.push(forward(format, n, d, bias));
            }
            cases.push(backward(format, n, d));
        }
        cases.push(forward(format, 9, 16, true).misaligned());
        cases.push(backward(format, 9, 16).misaligned());
        cases.push(extremes(format));
    }
    cases
}

fn forward(format: Format, n: usize, d: usize, with_bias: bool) -> Case {
    let mut case = Case::new(format!("gelu_forward {format:?} {n}x{d} bias {with_bias}"));
    let x: Vec<f32> = normal(format, n * d, 1)
        .iter()
        .map(|x| format.rounded(2.0 * x))
        .collect();
    let bias = normal(Format::F32, d, 2);
    let pre: Vec<f32> = x
        .iter()
        .enumerate()
        .map(|(i, x)| match with_bias {
            true => format.rounded(x + bias[i % d]),
            false => *x,
        })
        .collect();
    let y = values(&gelu::gelu(&tensor(&pre, &[n, d])).unwrap());
    let (y_out, bias_in) = (case.output(format, n * d), case.input(Format::F32, bias));
    let count = Arg::U64((n * d) as u64);
    let width = Arg::U32(d as u32);
    let kernel = format!("gelu_forward_{}", format.suffix());
    // Without a bias x is kept already; with one, half of the widths work in place.
    let launch = launch::eights(n * d);
    if !with_bias {
        let x = case.input(format, x);
        case.step(
            kernel,
            launch,
            vec![y_out.clone(), Arg::Null, x, Arg::Null, count, width],
        );
    } else if d.is_multiple_of(2) {
        let x = case.state(format, x);
        case.step(
            kernel,
            launch,
            vec![y_out.clone(), x.clone(), x.clone(), bias_in, count, width],
        );
        case.expect(&x, pre, Tolerance::EXACT);
    } else {
        let (x, kept) = (case.input(format, x), case.output(format, n * d));
        case.step(
            kernel,
            launch,
            vec![y_out.clone(), kept.clone(), x, bias_in, count, width],
        );
        case.expect(&kept, pre, Tolerance::EXACT);
    }
    case.expect(&y_out, y, Tolerance::arithmetic(ARITHMETIC, format));
    case
}

fn backward(format: Format, n: usize, d: usize) -> Case {
    let mut case = Case::new(format!("gelu_backward {format:?} {n}x{d}"));
    let x: Vec<f32> = normal(format, n * d, 3)
        .iter()
        .map(|x| format.rounded(2.0 * x))
        .collect();
    let dy = normal(format, n * d, 4);
    let dx = tensor(&dy, &[n, d]);
    gelu::gelu_backward(&dx, &tensor(&x, &[n, d])).unwrap();
    let (g, pre) = (case.state(format, dy), case.input(format, x));
    case.step(
        format!("gelu_backward_{}", format.suffix()),
        launch::eights(n * d),
        vec![g.clone(), g.clone(), pre, Arg::U64((n * d) as u64)],
    );
    case.expect(&g, values(&dx), Tolerance::arithmetic(ARITHMETIC, format));
    case
}

/// Infinities and NaN, and the ends of the format's range.
fn extremes(format: Format) -> Case {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let mut case = Case::new(format!("gelu at infinity {format:?}"));
    let x = case.input(format, [inf, -inf, nan, 60000.0, -60000.0, 0.0]);
    let (y, slope) = (case.output(format, 6), case.state(format, [1.0; 6]));
    let launch = launch::eights(6);
    case.step(
        format!("gelu_forward_{}", format.suffix()),
        launch,
        vec![y.clone(), Arg::Null, x.clone(), Arg::Null, Arg::U64(6), Arg::U32(6)],
    );
    case.step(
        format!("gelu_backward_{}", format.suffix()),
        launch,
        vec![slope.clone(), slope.clone(), x, Arg::U64(6)],
    );
    let large = format.rounded(60000.0);
    case.expect(&y, [inf, nan, nan, large, 0.0, 0.0], Tolerance::EXACT);
    let half = Tolerance {
        absolute: 1e-6,
        relative: 0.0,
    };
    case.expect(&slope, [1.0, 0.0, nan, 1.0, 0.0, 0.5], half);
    case
}
