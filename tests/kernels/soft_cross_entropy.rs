//! `kernels/soft_cross_entropy.cu` against `ops::soft_cross_entropy`.

use dtrain::ops::launch;
use dtrain::ops::soft_cross_entropy::{Mixed, Targets, soft_cross_entropy};

use super::case::{Arg, Case, Format, Tolerance};
use super::values::{normal, tensor, values, widened};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in Format::REAL {
        for (b, c, stride) in [(0, 3, 3), (1, 1, 1), (3, 2, 8), (5, 101, 104), (7, 1000, 1000)] {
            for (smoothing, with) in [
                (0.0, With::Weights),
                (0.1, With::Weights),
                (0.1, With::Mixing),
                (0.0, With::Both),
            ] {
                cases.push(training(format, b, c, stride, smoothing, with, 3.0));
            }
        }
        // Far beyond what exp can take.
        cases.push(training(format, 4, 33, 40, 0.1, With::Both, 3000.0));
        cases.push(training(format, 4, 33, 40, 0.0, With::Both, 3.0).misaligned());
        cases.push(strange(format));
    }
    cases
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum With {
    Weights,
    Mixing,
    Both,
}

fn training(format: Format, b: usize, c: usize, stride: usize, smoothing: f64, with: With, size: f32) -> Case {
    let mut case = Case::new(format!(
        "soft_cross_entropy {format:?} {b}x{c} of {stride} smoothing {smoothing} {with:?} {size}"
    ));
    let logits: Vec<f32> = normal(format, b * c, 1)
        .iter()
        .map(|x| format.rounded(size * x))
        .collect();
    let labels: Vec<u32> = (0..b).map(|i| (i * 37 % c) as u32).collect();
    // Some rows are mixed with a sample of the same class.
    let second: Vec<u32> = (0..b).map(|i| (i * 23 % c) as u32).collect();
    let shares: Vec<f32> = (0..b).map(|i| (i % 5) as f32 / 4.0).collect();
    let weights: Vec<f32> = (0..c).map(|class| 0.25 + (class % 7) as f32 / 2.0).collect();
    let (mixed, weighted) = (with != With::Weights, with != With::Mixing);
    let (scale, per_sample, loss_scale) = (1.0 / 3.0, 0.125, 1024.0);
    let targets = Targets {
        labels: &labels,
        mixed: mixed.then_some(Mixed {
            second_labels: &second,
            shares: &shares,
        }),
        smoothing,
        weights: weighted.then_some(&weights),
    };
    let expected = soft_cross_entropy(&tensor(&logits, &[b, c]), &targets, scale * per_sample * loss_scale).unwrap();
    let gradient = values(&expected.dlogits_bc);
    let wide = widened(&logits, c, stride, f32::NAN); // nobody may read the columns behind the classes
    let wide_gradient = widened(&gradient, c, stride, 0.0);
    let (losses, dlogits) = (case.output(Format::F32, b), case.output(format, b * stride));
    let mut args = vec![
        losses.clone(),
        dlogits.clone(),
        case.input(format, wide),
        case.input(Format::U32, labels.iter().copied()),
    ];
    args.extend(match mixed {
        true => [
            case.input(Format::U32, second.iter().copied()),
            case.input(Format::F32, shares.iter().copied()),
        ],
        false => [Arg::Null, Arg::Null],
    });
    args.push(match weighted {
        true => case.input(Format::F32, weights.iter().copied()),
        false => Arg::Null,
    });
    args.extend([
        Arg::U32(c as u32),
        Arg::U32(stride as u32),
        Arg::F32(smoothing as f32),
        Arg::F32(scale as f32),
        case.input(Format::F32, [per_sample]),
        case.input(Format::F32, [loss_scale]),
    ]);
    case.step(
        format!("soft_cross_entropy_{}", format.suffix()),
        launch::cross_entropy(b),
        args,
    );
    // f32 against f64: sums of up to 1000 products; the gradient is multiplied by 1024/24 and by weights of up to 3.25.
    let close = Tolerance {
        absolute: 1e-5,
        relative: 1e-6,
    };
    case.expect(&losses, expected.losses, close);
    case.expect(&dlogits, wide_gradient, Tolerance::arithmetic(6e-5, format));
    case
}

/// An impossible class without a share and with one, a missing number, labels that are none.
fn strange(format: Format) -> Case {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let rows = [
        ([1.0, -inf, 1.0], [0, 2], 2.0 * (2f32).ln()),
        ([1.0, -inf, 1.0], [0, 1], inf),
        ([0.0, 5.0, nan], [1, 1], nan),
        ([0.0, 0.0, -1e4], [3, 0], nan),
        ([0.0, 0.0, -1e4], [0, 3], nan),
    ];
    let mut case = Case::new(format!("soft_cross_entropy {format:?} strange rows"));
    let (losses, dlogits) = (case.output(Format::F32, 5), case.output(format, 15));
    let args = vec![
        losses.clone(),
        dlogits.clone(),
        case.input(format, rows.iter().flat_map(|row| row.0)),
        case.input(Format::U32, rows.map(|row| row.1[0] as u32)),
        case.input(Format::U32, rows.map(|row| row.1[1] as u32)),
        case.input(Format::F32, [0.5; 5]),
        case.input(Format::F32, [2.0; 3]),
        Arg::U32(3),
        Arg::U32(3),
        Arg::F32(0.0),
        Arg::F32(1.0),
        Arg::Null,
        Arg::Null,
    ];
    case.step(
        format!("soft_cross_entropy_{}", format.suffix()),
        launch::cross_entropy(5),
        args,
    );
    let close = Tolerance {
        absolute: 1e-6,
        relative: 0.0,
    };
    case.expect(&losses, rows.map(|row| row.2), close);
    let mut gradient = vec![0.0, 0.0, 0.0, 0.0, -1.0, 1.0];
    gradient.extend([nan; 9]);
    case.expect(&dlogits, gradient, close);
    case
}
