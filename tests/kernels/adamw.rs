//! `kernels/adamw.cu` against `ops::adamw`, clipping against `ops::reduce`, the loss scale against GradScaler's rules.

use std::ops::Range;

use candle_core::Device;
use dtrain::ops::adamw::{AdamWStep, Decayed, adamw};
use dtrain::ops::{launch, reduce};

use super::case::{Arg, Case, Format, Tolerance};
use super::values::{normal, tensor, values};

const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;
const WEIGHT_DECAY: f64 = 0.1;
const RATES: [f64; 3] = [1e-3, 5e-3, 2e-3];
const GROWTH: (f64, f64, u32) = (2.0, 0.5, 3);

/// Where a run stands before the step: steps done, loss scale, good steps in a row.
#[derive(Clone, Copy, Debug)]
struct Before {
    steps: f64,
    loss_scale: f64,
    good: f64,
}

const FRESH: Before = Before {
    steps: 0.0,
    loss_scale: 1.0,
    good: 0.0,
};

pub fn cases() -> Vec<Case> {
    let mut cases = vec![losses(1), losses(300)];
    for format in Format::REAL {
        for n in [0, 1, 7, 8, 33, 2048, 4095, 12_345] {
            cases.push(step(format, n, FRESH, 0.0, Gradient::Finite));
        }
        cases.push(step(format, 100, FRESH, 0.0, Gradient::Finite).misaligned());
    }
    let scaled = |steps, good| Before {
        steps,
        loss_scale: 65536.0,
        good,
    };
    for before in [scaled(1.0, 0.0), scaled(2.0, 1.0), scaled(9.0, 2.0)] {
        for max_norm in [0.0, 1.0, 1e9] {
            for gradient in [Gradient::Finite, Gradient::Nan, Gradient::Infinite] {
                cases.push(step(Format::F16, 5000, before, max_norm, gradient));
            }
        }
    }
    // A scale that cannot grow any more.
    let largest = Before {
        loss_scale: 2f64.powi(127),
        ..scaled(3.0, 2.0)
    };
    cases.push(step(Format::F16, 10, largest, 0.0, Gradient::Finite));
    cases
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Gradient {
    Finite,
    Nan,
    Infinite,
}

/// Every third stretch of 50 values decays.
fn decayed(n: usize) -> Vec<Range<usize>> {
    (0..n).step_by(150).map(|start| start..(start + 50).min(n)).collect()
}

fn step(format: Format, n: usize, before: Before, max_norm: f64, kind: Gradient) -> Case {
    let mut case = Case::new(format!(
        "adamw {format:?} n {n} {before:?} max_norm {max_norm} {kind:?}"
    ));
    let (p, m) = (normal(Format::F32, n, 1), normal(Format::F32, n, 2));
    let v: Vec<f32> = normal(Format::F32, n, 3).iter().map(|x| x * x).collect();
    let unscaled = normal(Format::F32, n, 4);
    // A power of two: no digit is lost.
    let mut g: Vec<f32> = unscaled.iter().map(|x| x * before.loss_scale as f32 * 1e-3).collect();
    let unscaled: Vec<f32> = g.iter().map(|x| x / before.loss_scale as f32).collect();
    match kind {
        Gradient::Finite => {}
        Gradient::Nan => g[n - 1] = f32::NAN,
        Gradient::Infinite => g[0] = f32::NEG_INFINITY,
    }
    let skipped = kind != Gradient::Finite;
    let mut words = vec![0u32; n.div_ceil(32)];
    for i in decayed(n).into_iter().flatten() {
        words[i / 32] |= 1 << (i % 32);
    }

    // The CPU's way: clip, then AdamW.
    let (pt, mt, vt, gt) = (
        tensor(&p, &[n]),
        tensor(&m, &[n]),
        tensor(&v, &[n]),
        tensor(&unscaled, &[n]),
    );
    let mut norm = reduce::sum_of_squares(&gt).unwrap().sqrt();
    let clip = if max_norm > 0.0 {
        (max_norm / (norm + 1e-6)).min(1.0)
    } else {
        1.0
    };
    let rate = RATES[(before.steps as usize).min(RATES.len() - 1)];
    if skipped {
        norm = if kind == Gradient::Nan { f64::NAN } else { f64::INFINITY };
    } else {
        reduce::scale(&gt, clip as f32).unwrap();
        let constants = AdamWStep {
            learning_rate: rate,
            beta1: BETAS.0,
            beta2: BETAS.1,
            epsilon: EPSILON,
            weight_decay: WEIGHT_DECAY,
            step: before.steps as u64 + 1,
        };
        let decayed = Decayed::new(decayed(n), n, &Device::Cpu).unwrap();
        adamw(&pt, &gt, &mt, &vt, &decayed, constants).unwrap();
    }
    // GradScaler's way.
    let (growth, backoff, interval) = GROWTH;
    let (mut scale, mut good) = (before.loss_scale, before.good + 1.0);
    if skipped {
        (scale, good) = (scale * backoff, 0.0);
    } else if good == interval as f64 {
        good = 0.0;
        if ((scale * growth) as f32).is_finite() {
            scale *= growth;
        }
    }
    let scaling = before.loss_scale != 1.0;
    if !scaling {
        (scale, good) = (1.0, 0.0);
    }
    let factor = match kind {
        Gradient::Finite => clip,
        // min(1, max/NaN) is 1 here: nothing is multiplied by it.
        Gradient::Nan => 1.0,
        Gradient::Infinite if max_norm > 0.0 => 0.0,
        Gradient::Infinite => 1.0,
    } / before.loss_scale;
    let after = [
        before.steps + !skipped as u32 as f64,
        scale,
        good,
        norm,
        7.0 + skipped as u32 as f64,
        skipped as u32 as f64,
        rate,
        factor,
        0.0,
    ];

    let parts = launch::gradient_norm(n);
    let count = parts.grid[0] as usize;
    let (squares, strange) = (case.output(Format::F64, count), case.output(Format::U32, count));
    let start = [
        before.steps,
        before.loss_scale,
        before.good,
        0.0,
        7.0,
        0.0,
        0.0,
        0.0,
        2.0,
    ];
    let state = case.state(Format::F64, start);
    let constants = case.output(Format::F32, 9);
    let g = case.input(Format::F32, g);
    case.step(
        "sum_of_squares_partial",
        parts,
        vec![squares.clone(), strange.clone(), g.clone(), Arg::U64(n as u64)],
    );
    let args = vec![
        state.clone(),
        constants.clone(),
        squares,
        strange,
        Arg::U32(count as u32),
        case.input(Format::F64, RATES),
        Arg::U32(RATES.len() as u32),
        // Steps that were skipped do not count.
        Arg::U64(before.steps as u64 + 7),
        Arg::F64(max_norm),
        Arg::F64(BETAS.0),
        Arg::F64(BETAS.1),
        Arg::F64(WEIGHT_DECAY),
        Arg::F64(growth),
        Arg::F64(backoff),
        Arg::U32(if scaling { interval } else { 0 }),
    ];
    case.step("adamw_prepare", launch::single_block(), args);
    let [p, m, v] = [p, m, v].map(|values| case.state(Format::F32, values));
    let copy = match skipped {
        true => case.state(format, vec![3.0; n]),
        false => case.output(format, n),
    };
    let args = vec![
        p.clone(),
        m.clone(),
        v.clone(),
        if format == Format::F32 { Arg::Null } else { copy.clone() },
        g,
        case.input(Format::U32, words),
        constants,
        Arg::F32(EPSILON as f32),
        Arg::U64(n as u64),
    ];
    case.step(format!("adamw_{}", format.suffix()), launch::eights(n), args);
    // The sum of squares is added up in another order, in f64.
    case.expect(
        &state,
        after,
        Tolerance {
            absolute: 0.0,
            relative: 1e-14,
        },
    );
    // Without clipping the bits are the CPU's. The clip factor can be one rounding off.
    let close = match max_norm {
        1.0 => Tolerance {
            absolute: 1e-9,
            relative: 3e-7,
        },
        _ => Tolerance::EXACT,
    };
    let updated = values(&pt);
    if format != Format::F32 {
        let copied: Vec<f32> = updated
            .iter()
            .map(|x| if skipped { 3.0 } else { format.rounded(*x) })
            .collect();
        case.expect(
            &copy,
            copied,
            Tolerance {
                relative: 2.0 * format.epsilon(),
                ..close
            },
        );
    }
    case.expect(&p, updated, close);
    case.expect(&m, values(&mt), close);
    case.expect(&v, values(&vt), close);
    case
}

/// Three micro-batches of `b` samples in two places: the third has none.
fn losses(b: usize) -> Case {
    let mut case = Case::new(format!("step_loss of {b}"));
    let state = case.state(Format::F64, [0.0; 9]);
    let sums = case.output(Format::F64, 2);
    let given: Vec<Vec<f32>> = (0..3).map(|which| normal(Format::F32, b, which)).collect();
    for losses in &given {
        let losses = case.input(Format::F32, losses.clone());
        case.step(
            "step_loss",
            launch::single_block(),
            vec![state.clone(), sums.clone(), Arg::U32(2), losses, Arg::U32(b as u32)],
        );
    }
    let sum = |losses: &Vec<f32>| losses.iter().map(|loss| f64::from(*loss)).sum::<f64>();
    case.expect(
        &sums,
        given[..2].iter().map(sum).collect::<Vec<f64>>(),
        Tolerance {
            absolute: 1e-12,
            relative: 1e-12,
        },
    );
    let mut after = [0.0; 9];
    after[8] = 3.0;
    case.expect(&state, after, Tolerance::EXACT);
    case
}
