//! The inverse cosine transform at a half, a quarter or an eighth of the size: N x N samples of a block, out of its N x N lowest
//! coefficients.
//!
//! A cosine of low frequency is sampled at fewer places, so the picture is what the whole block gives without its high
//! frequencies, at the centres of 2 x 2, 4 x 4 or 8 x 8 pixels. libjpeg scales in this way, too, with other weights for the
//! frequencies in between; nothing here has to equal it. The loops go over all blocks of a group, for vectors' sake.

use super::super::scan::Block;
use super::{BLOCKS_AT_ONCE, Steps};

const CONSTANT_BITS: u32 = 13;
const PASS_BITS: u32 = 2;
/// sqrt(2) cos(pi/8) and sqrt(2) cos(3 pi/8).
const F1306: i32 = 10703;
const F0541: i32 = 4433;

const LANES: usize = 4 * BLOCKS_AT_ONCE;

type Group = [Block; BLOCKS_AT_ONCE];

/// Blocks to `size` (4, 2, 1) rows of `size` samples each, side by side.
#[inline(always)]
pub(super) fn transform(blocks: &[Group], steps: &Steps, size: usize, samples: &mut [u8], stride: usize) {
    for (at, group) in blocks.iter().enumerate() {
        let samples = &mut samples[at * size * BLOCKS_AT_ONCE..];
        match size {
            4 => four(group, steps, samples, stride),
            2 => two(group, steps, samples, stride),
            _ => one(group, steps, samples),
        }
    }
}

/// # Safety
/// The processor must have AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn transform_avx2(blocks: &[Group], steps: &Steps, size: usize, samples: &mut [u8], stride: usize) {
    transform(blocks, steps, size, samples, stride);
}

#[inline(always)]
fn coefficient(block: &Block, steps: &Steps, at: usize) -> i32 {
    block[at].wrapping_mul(steps.0[at]) as i32
}

#[inline(always)]
fn sample(value: i32) -> u8 {
    (value.clamp(-128, 127) + 128) as u8
}

#[inline(always)]
fn four(group: &Group, steps: &Steps, samples: &mut [u8], stride: usize) {
    // Lane 4 b + x: column x of block b.
    let mut rows = [[0i32; LANES]; 4];
    for (y, row) in rows.iter_mut().enumerate() {
        for (lane, value) in row.iter_mut().enumerate() {
            *value = coefficient(&group[lane / 4], steps, y * 8 + lane % 4);
        }
    }
    let halfway = one_direction(rows, CONSTANT_BITS - PASS_BITS);
    // Lane 4 b + y: row y of block b.
    let mut columns = [[0i32; LANES]; 4];
    for (x, column) in columns.iter_mut().enumerate() {
        for (lane, value) in column.iter_mut().enumerate() {
            *value = halfway[lane % 4][lane / 4 * 4 + x];
        }
    }
    let columns = one_direction(columns, CONSTANT_BITS + PASS_BITS + 3);
    for y in 0..4 {
        let row = &mut samples[y * stride..][..LANES];
        for (at, to) in row.iter_mut().enumerate() {
            *to = sample(columns[at % 4][at / 4 * 4 + y]);
        }
    }
}

/// Four values, in all lanes.
#[inline(always)]
fn one_direction(x: [[i32; LANES]; 4], shift: u32) -> [[i32; LANES]; 4] {
    let mut y = [[0; LANES]; 4];
    for lane in 0..LANES {
        let [x0, x1, x2, x3] = [x[0][lane], x[1][lane], x[2][lane], x[3][lane]];
        let rounding = 1i32 << (shift - 1);
        let even0 = (x0.wrapping_add(x2) << CONSTANT_BITS).wrapping_add(rounding);
        let even1 = (x0.wrapping_sub(x2) << CONSTANT_BITS).wrapping_add(rounding);
        let odd0 = x1.wrapping_mul(F1306).wrapping_add(x3.wrapping_mul(F0541));
        let odd1 = x1.wrapping_mul(F0541).wrapping_sub(x3.wrapping_mul(F1306));
        y[0][lane] = even0.wrapping_add(odd0) >> shift;
        y[1][lane] = even1.wrapping_add(odd1) >> shift;
        y[2][lane] = even1.wrapping_sub(odd1) >> shift;
        y[3][lane] = even0.wrapping_sub(odd0) >> shift;
    }
    y
}

/// sqrt(2) cos(pi/4) is 1: nothing is multiplied.
#[inline(always)]
fn two(group: &Group, steps: &Steps, samples: &mut [u8], stride: usize) {
    for (b, block) in group.iter().enumerate() {
        let [a, b1, c, d] = [0, 1, 8, 9].map(|at| coefficient(block, steps, at));
        for (y, [even, odd]) in [[a + c, b1 + d], [a - c, b1 - d]].into_iter().enumerate() {
            let row = &mut samples[y * stride + 2 * b..][..2];
            row[0] = sample((even + odd + 4) >> 3);
            row[1] = sample((even - odd + 4) >> 3);
        }
    }
}

#[inline(always)]
fn one(group: &Group, steps: &Steps, samples: &mut [u8]) {
    for (to, block) in samples.iter_mut().zip(group) {
        *to = sample((coefficient(block, steps, 0) + 4) >> 3);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition in floating point.
    fn cosines(block: &Block, steps: &Steps, size: usize) -> Vec<f64> {
        let basis = |k: usize, i: usize| match k {
            0 => 1.0,
            _ => 2f64.sqrt() * ((2 * i + 1) as f64 * k as f64 * std::f64::consts::PI / (2 * size) as f64).cos(),
        };
        let mut values = Vec::new();
        for y in 0..size {
            for x in 0..size {
                let terms = (0..size * size).map(|at| {
                    let (v, u) = (at / size, at % size);
                    coefficient(block, steps, v * 8 + u) as f64 * basis(v, y) * basis(u, x)
                });
                values.push(terms.sum::<f64>() / 8.0);
            }
        }
        values
    }

    #[test]
    fn blocks_are_sampled_at_fewer_places() {
        let mut state = 5u32;
        let mut random = |range: i32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as i32 % (2 * range + 1) - range
        };
        let steps = Steps(std::array::from_fn(|at| 1 + at as i16 % 7));
        for _ in 0..200 {
            let group: Group = std::array::from_fn(|_| {
                std::array::from_fn(|at| match at {
                    0 => random(900) as i16,
                    1..64 => random(60 / (1 + at as i32 / 8)) as i16,
                    _ => 0,
                })
            });
            for size in [4, 2, 1] {
                let stride = 4 * size + 3;
                let mut samples = vec![7u8; stride * size + 16];
                transform(&[group], &steps, size, &mut samples, stride);
                for (b, block) in group.iter().enumerate() {
                    for (at, expected) in cosines(block, &steps, size).into_iter().enumerate() {
                        let got = samples[at / size * stride + b * size + at % size] as f64;
                        let expected = (expected + 128.0).clamp(0.0, 255.0);
                        // Rounded to half a level, and before that between the directions.
                        assert!((got - expected).abs() < 0.75, "{size}: {got} for {expected}");
                    }
                }
                assert!(
                    samples[size * stride..]
                        .iter()
                        .all(|&untouched| untouched == 7 || size == 1)
                );
            }
        }
    }
}
