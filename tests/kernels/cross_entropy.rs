//! `kernels/cross_entropy.cu` against `ops::cross_entropy`.

use dtrain::ops::{cross_entropy as op, launch};

use super::case::{Arg, Case, Format, Tolerance};
use super::values::{normal, tensor, values, widened};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in Format::REAL {
        for (b, c, stride) in [
            (0, 3, 3),
            (1, 1, 1),
            (3, 2, 8),
            (5, 101, 104),
            (2, 256, 256),
            (7, 1000, 1000),
        ] {
            for smoothing in [0.0, 0.1] {
                cases.push(training(format, b, c, stride, smoothing, Size::Ordinary));
            }
        }
        cases.push(training(format, 4, 33, 40, 0.1, Size::Large));
        cases.push(training(format, 4, 33, 40, 0.0, Size::Ordinary).misaligned());
        cases.push(strange(format));
    }
    cases.push(totals());
    cases
}

#[derive(Clone, Copy, Debug)]
enum Size {
    Ordinary,
    /// Far beyond what exp can take.
    Large,
}

fn training(format: Format, b: usize, c: usize, stride: usize, smoothing: f64, size: Size) -> Case {
    let mut case = Case::new(format!(
        "cross_entropy {format:?} {b}x{c} of {stride} smoothing {smoothing} {size:?}"
    ));
    let factor = match size {
        Size::Ordinary => 3.0,
        Size::Large => 3000.0,
    };
    let logits: Vec<f32> = normal(format, b * c, 1)
        .iter()
        .map(|x| format.rounded(factor * x))
        .collect();
    let labels: Vec<u32> = (0..b).map(|i| (i * 37 % c) as u32).collect();
    let (scale, per_sample, loss_scale) = (1.0 / 3.0, 0.125, 1024.0);
    let expected = op::cross_entropy(
        &tensor(&logits, &[b, c]),
        &labels,
        smoothing,
        scale * per_sample * loss_scale,
    )
    .unwrap();
    let gradient = values(&expected.dlogits_bc);
    let wide = widened(&logits, c, stride, f32::NAN); // nobody may read the columns behind the classes
    let wide_gradient = widened(&gradient, c, stride, 0.0);
    let best = logits.chunks_exact(c).map(|row| {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter().position(|x| *x == largest).expect("a largest logit") as u32
    });
    let (losses, predicted) = (case.output(Format::F32, b), case.output(Format::U32, b));
    let dlogits = case.output(format, b * stride);
    let args = vec![
        losses.clone(),
        predicted.clone(),
        dlogits.clone(),
        case.input(format, wide),
        case.input(Format::U32, labels),
        Arg::U32(c as u32),
        Arg::U32(stride as u32),
        Arg::F32(smoothing as f32),
        Arg::F32(scale as f32),
        case.input(Format::F32, [per_sample]),
        case.input(Format::F32, [loss_scale]),
    ];
    case.step(
        format!("cross_entropy_{}", format.suffix()),
        launch::cross_entropy(b),
        args,
    );
    // f32 against f64: sums of up to 1000 exponentials; the gradient is multiplied by 1024/24.
    let close = Tolerance {
        absolute: 3e-6,
        relative: 1e-6,
    };
    case.expect(&losses, expected.losses, close);
    case.expect(&predicted, best, Tolerance::EXACT);
    case.expect(&dlogits, wide_gradient, Tolerance::arithmetic(2e-5, format));
    case
}

/// Infinite and missing numbers, a tie, a label that is none; without gradient, predictions of a row each.
fn strange(format: Format) -> Case {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let rows = [
        ([1.0, -inf, 1.0], 0, (2f32).ln(), 0),
        ([0.0, inf, 0.0], 1, nan, 1),
        ([0.0, 5.0, nan], 1, nan, 2),
        ([0.0, 0.0, -1e4], 3, nan, 0),
        ([-2.0, -1.0, 0.0], 2, (1f32 + (-1f32).exp() + (-2f32).exp()).ln(), 2),
    ];
    let mut case = Case::new(format!("cross_entropy {format:?} strange rows"));
    let (losses, predicted) = (case.output(Format::F32, 5), case.output(Format::U32, 5));
    let args = vec![
        losses.clone(),
        predicted.clone(),
        Arg::Null,
        case.input(format, rows.iter().flat_map(|row| row.0)),
        case.input(Format::U32, rows.map(|row| row.1 as u32)),
        Arg::U32(3),
        Arg::U32(3),
        Arg::F32(0.0),
        Arg::F32(1.0),
        Arg::Null,
        Arg::Null,
    ];
    case.step(
        format!("cross_entropy_{}", format.suffix()),
        launch::cross_entropy(5),
        args,
    );
    case.expect(
        &losses,
        rows.map(|row| row.2),
        Tolerance {
            absolute: 1e-6,
            relative: 0.0,
        },
    );
    case.expect(&predicted, rows.map(|row| row.3 as u32), Tolerance::EXACT);
    case
}

fn totals() -> Case {
    let b = 1001;
    let mut case = Case::new("cross_entropy_totals");
    let losses: Vec<f32> = (0..b).map(|i| (i % 50) as f32 * 0.125).collect();
    let sum: f64 = losses.iter().map(|x| *x as f64).sum();
    let totals = case.state(Format::F64, [10.0, 20.0, 30.0]);
    let args = vec![
        totals.clone(),
        case.input(Format::F32, losses),
        case.input(Format::U32, (0..b).map(|i| i as u32 % 7)),
        case.input(Format::U32, (0..b).map(|i| i as u32 % 14)),
        Arg::U32(b as u32),
    ];
    case.step("cross_entropy_totals", launch::single_block(), args);
    let hits = (0..b).filter(|i| i % 14 < 7).count();
    case.expect(
        &totals,
        [10.0 + sum, 20.0 + hits as f64, 30.0 + b as f64],
        Tolerance::EXACT,
    );
    case
}
