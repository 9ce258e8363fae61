//! `kernels/average.cu` against `ops::average`.

use dtrain::ops::average::average_into;
use dtrain::ops::launch;

use super::case::{Arg, Case, Format, Tolerance};
use super::values::{normal, tensor, values};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for n in [0, 1, 9, 4099] {
        cases.extend([average(n), swap(n)]);
    }
    cases.extend([average(24).misaligned(), swap(24).misaligned()]);
    cases
}

/// Once without a condition, once with one that holds, once with one that does not.
fn average(n: usize) -> Case {
    let mut case = Case::new(format!("average {n}"));
    let (mean, x) = (normal(Format::F32, n, 1), normal(Format::F32, n, 2));
    let decay = 0.9998;
    let expected = tensor(&mean, &[n]);
    for _ in 0..2 {
        average_into(&expected, &tensor(&x, &[n]), decay, None).unwrap();
    }
    let (mean, x) = (case.state(Format::F32, mean), case.input(Format::F32, x));
    let conditions = [
        Arg::Null,
        case.input(Format::F32, [1.0]),
        case.input(Format::F32, [0.0]),
    ];
    for apply in conditions {
        let args = vec![
            mean.clone(),
            x.clone(),
            Arg::F32(decay as f32),
            Arg::F32((1.0 - decay) as f32),
            apply,
            Arg::U64(n as u64),
        ];
        case.step("average_f32", launch::eights(n), args);
    }
    case.expect(&mean, values(&expected), Tolerance::EXACT);
    case
}

fn swap(n: usize) -> Case {
    let mut case = Case::new(format!("swap {n}"));
    let (a, b) = (normal(Format::F32, n, 1), normal(Format::F32, n, 2));
    let (at_a, at_b) = (case.state(Format::F32, a.clone()), case.state(Format::F32, b.clone()));
    let args = vec![at_a.clone(), at_b.clone(), Arg::U64(n as u64)];
    case.step("swap_f32", launch::eights(n), args);
    case.expect(&at_a, b, Tolerance::EXACT);
    case.expect(&at_b, a, Tolerance::EXACT);
    case
}
