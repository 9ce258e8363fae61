//! `kernels/dropout.cu` against `ops::dropout`: the same masks, bit for bit.

use candle_core::Tensor;
use dtrain::ops::dropout::{Dropout, DropoutNames, add_dropped, dropout};
use dtrain::ops::launch;
use dtrain::rng::Purpose;

use super::case::{Arg, Case, Format, Tolerance};
use super::values::{normal, tensor};

const SEED: u64 = 0x1234_5678_9abc_def0;
const EPOCH: u32 = 3;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in Format::REAL {
        // Tokens used of tokens that there are.
        for (b, used, s, d) in [
            (0, 3, 3, 8),
            (1, 1, 1, 1),
            (2, 3, 3, 5),
            (3, 7, 7, 24),
            (2, 1, 5, 40),
            (1, 4, 4, 1000),
        ] {
            cases.push(both(format, b, used, s, d));
        }
        cases.push(both(format, 2, 3, 3, 16).misaligned());
    }
    cases
}

fn both(format: Format, b: usize, used: usize, s: usize, d: usize) -> Case {
    let mut case = Case::new(format!("dropout {format:?} {b}x{used} of {s}x{d}"));
    let samples: Vec<u64> = (0..b as u64).map(|i| i * 0x1_0000_0001 + 5).collect();
    let names = DropoutNames {
        seed: SEED,
        epoch: EPOCH,
        samples: &samples,
    };
    let module = Dropout {
        probability: 0.3,
        module: 11,
    };
    let (x, dy) = (normal(format, b * s * d, 1), normal(format, b * used * d, 2));
    let part = |t: &Tensor| t.narrow(1, 0, used).unwrap();
    let (y, total) = (Vec::new(), tensor(&x, &[b, s, d]));
    let mut y: Vec<f32> = y;
    if b > 0 {
        y = super::values::values(&dropout(&part(&total), module, &names).unwrap());
        add_dropped(&part(&total), &tensor(&dy, &[b, used, d]), module, &names).unwrap();
    }
    let (block, stride) = (used * d, s * d);
    let samples = case.input_u64(&samples);
    let epoch = case.input(Format::U32, [EPOCH]);
    let how = |to: &Arg, from: &Arg| {
        vec![
            to.clone(),
            from.clone(),
            samples.clone(),
            epoch.clone(),
            Arg::U64(SEED),
            Arg::U32(Purpose::Dropout(module.module).code()),
            Arg::U32((module.probability * 65536.0).round() as u32),
            Arg::F32((1.0 / (1.0 - module.probability)) as f32),
            Arg::U64(block as u64),
            Arg::U64(stride as u64),
        ]
    };
    let launch = launch::dropout(b, block);
    let (from, to) = (case.input(format, x.clone()), case.output(format, b * block));
    case.step(format!("dropout_{}", format.suffix()), launch, how(&to, &from));
    let (dx, dy) = (case.state(format, x), case.input(format, dy));
    case.step(format!("add_dropped_{}", format.suffix()), launch, how(&dx, &dy));
    case.expect(&to, y.iter().map(|x| format.rounded(*x)), Tolerance::EXACT);
    let total = super::values::values(&total);
    case.expect(&dx, total.iter().map(|x| format.rounded(*x)), Tolerance::EXACT);
    case
}
