//! Batch normalisation of feature maps over images and pixels, forward and backward (Ioffe, Szegedy 2015), with what
//! residual networks put around it: an addition and a rectifier in the same pass.
//!
//! Sums are taken over fixed blocks of lines in f32, of differences from a value in their midst, and added in f64 in the
//! order of the blocks: no number of threads changes a bit, and no mean that is large against the deviation spoils them.

mod backward;
mod lanes;

use std::ops::Range;

use rayon::prelude::*;

use super::maps::{Maps, MapsShape};
use super::simd::vectorized;
use super::storage::{refused, values};
use crate::error::Result;

pub use backward::{Passes, batch_norm_backward, gradient_sums, rectified_gradient_sums};

/// Σ 1, then Σ x and Σ x² of each channel, [1 + 2c]: what ranks add up to normalise together.
pub type Sums = Vec<f64>;

/// Mean and reciprocal deviation of each channel.
#[derive(Clone, Debug)]
pub struct Moments {
    /// How many values each channel has.
    pub count: f64,
    pub mean_c: Vec<f32>,
    /// Mean of squared differences from the mean.
    pub variance_c: Vec<f64>,
    pub rstd_c: Vec<f32>,
}

/// y = x·scale + shift, for each channel.
#[derive(Clone, Debug)]
pub struct Affine {
    pub scale_c: Vec<f32>,
    pub shift_c: Vec<f32>,
}

/// What is added to the normalised values.
#[derive(Clone, Copy)]
pub enum Beside<'a> {
    Nothing,
    Maps(&'a Maps),
    /// These maps, normalised, too.
    Normalized(&'a Maps, &'a Affine),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Rectified,
    AsItIs,
}

/// Pixels of a block of sums.
const BLOCK: usize = 112;

/// The sums over all pixels of x.
pub fn sums(x: &Maps) -> Result<Sums> {
    let shape = x.shape();
    let c = shape.channels;
    let values = values(x.values())?;
    let pivot: Vec<f32> = match shape.all_pixels() {
        0 => vec![0.0; c],
        _ => values[x.line(0)][..c].to_vec(),
    };
    let partial = over_blocks(shape, |lines, sum, square| {
        let (sum, square) = (&mut sum[..c], &mut square[..c]);
        vectorized(
            #[inline(always)]
            || {
                for line in lines.clone() {
                    for pixel in values[x.line(line)].chunks_exact(c) {
                        let sums = sum.iter_mut().zip(square.iter_mut());
                        for ((sum, square), (x, pivot)) in sums.zip(pixel.iter().zip(&pivot)) {
                            let difference = x - pivot;
                            *sum += difference;
                            *square = difference.mul_add(difference, *square);
                        }
                    }
                }
            },
        )
    });
    let n = shape.all_pixels() as f64;
    let mut sums = vec![0.0; 1 + 2 * c];
    sums[0] = n;
    for (channel, pivot) in pivot.iter().enumerate() {
        let pivot = f64::from(*pivot);
        let (sum, square) = (partial[channel], partial[c + channel]);
        sums[1 + channel] = sum + n * pivot;
        sums[1 + c + channel] = square + 2.0 * pivot * sum + n * pivot * pivot;
    }
    Ok(sums)
}

impl Moments {
    /// Of all values that were summed up.
    pub fn of(sums: &Sums, eps: f64) -> Moments {
        let c = sums.len() / 2;
        let count = sums[0];
        let mean = |channel: usize| sums[1 + channel] / count;
        let variance_c: Vec<f64> = (0..c)
            .map(|channel| (sums[1 + c + channel] / count - mean(channel) * mean(channel)).max(0.0))
            .collect();
        Moments {
            count,
            mean_c: (0..c).map(|channel| mean(channel) as f32).collect(),
            rstd_c: variance_c.iter().map(|v| (1.0 / (v + eps).sqrt()) as f32).collect(),
            variance_c,
        }
    }

    /// Of the running statistics.
    pub fn running(mean_c: &[f32], variance_c: &[f32], eps: f64) -> Moments {
        let variance_c: Vec<f64> = variance_c.iter().map(|v| f64::from(*v)).collect();
        Moments {
            count: 0.0,
            mean_c: mean_c.to_vec(),
            rstd_c: variance_c.iter().map(|v| (1.0 / (v + eps).sqrt()) as f32).collect(),
            variance_c,
        }
    }

    /// What normalises with weight and bias.
    pub fn affine(&self, weight_c: &[f32], bias_c: &[f32]) -> Affine {
        let scale_c: Vec<f32> = weight_c.iter().zip(&self.rstd_c).map(|(w, r)| w * r).collect();
        let shifts = bias_c.iter().zip(self.mean_c.iter().zip(&scale_c));
        Affine {
            shift_c: shifts.map(|(b, (mean, scale))| b - mean * scale).collect(),
            scale_c,
        }
    }
}

/// then(x·scale + shift + beside), inside of a new margin.
pub fn normalized(x: &Maps, affine: &Affine, beside: Beside, then: Then, margin: usize) -> Result<Maps> {
    let shape = x.shape();
    let c = shape.channels;
    let other = match beside {
        Beside::Nothing => None,
        Beside::Maps(maps) | Beside::Normalized(maps, _) => Some(maps),
    };
    if affine.scale_c.len() != c || other.is_some_and(|other| other.shape() != shape) {
        return Err(refused(format!("{shape:?} normalised with other shapes")));
    }
    let input = values(x.values())?;
    let added = other.map(|other| values(other.values())).transpose()?;
    let floor = match then {
        Then::Rectified => 0.0,
        Then::AsItIs => f32::NEG_INFINITY,
    };
    let (scale, shift) = (&affine.scale_c[..c], &affine.shift_c[..c]);
    Maps::written(shape, margin, |line, y| {
        let x = &input[x.line(line)];
        let added = match (other, &added) {
            (Some(other), Some(added)) => &added[other.line(line)],
            _ => &[],
        };
        vectorized(
            #[inline(always)]
            || {
                for (at, (y, x)) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)).enumerate() {
                    let pixel = at * c..(at + 1) * c;
                    let values = y.iter_mut().zip(x.iter().zip(scale.iter().zip(shift)));
                    match beside {
                        Beside::Nothing => {
                            for (y, (x, (scale, shift))) in values {
                                *y = at_least(x.mul_add(*scale, *shift), floor);
                            }
                        }
                        Beside::Maps(_) => {
                            for ((y, (x, (scale, shift))), added) in values.zip(&added[pixel]) {
                                *y = at_least(x.mul_add(*scale, *shift) + added, floor);
                            }
                        }
                        Beside::Normalized(_, affine) => {
                            let added = added[pixel].iter().zip(affine.scale_c.iter().zip(&affine.shift_c));
                            for ((y, (x, (scale, shift))), (added, (scale_2, shift_2))) in values.zip(added) {
                                let added = added.mul_add(*scale_2, *shift_2);
                                *y = at_least(x.mul_add(*scale, *shift) + added, floor);
                            }
                        }
                    }
                }
            },
        )
    })
}

/// Not below `floor`; what is no number stays so.
#[inline(always)]
fn at_least(x: f32, floor: f32) -> f32 {
    if x < floor { floor } else { x }
}

/// Adds up what `add` sums over each block of lines, [2c]. It gets room for two sums a channel, filled up to whole vectors.
fn over_blocks(shape: MapsShape, add: impl Fn(Range<usize>, &mut [f32], &mut [f32]) + Sync) -> Vec<f64> {
    let blocks = Blocks::of(shape);
    let partial: Vec<BlockSums> = (0..blocks.count)
        .into_par_iter()
        .map(|block| {
            let mut sums = BlockSums::new(shape.channels);
            add(blocks.lines(block), &mut sums.first, &mut sums.second);
            sums
        })
        .collect();
    total(shape.channels, &partial)
}

/// Fixed blocks of lines, whose sums are added in order.
struct Blocks {
    lines: usize,
    at_a_time: usize,
    count: usize,
}

impl Blocks {
    fn of(shape: MapsShape) -> Blocks {
        let (lines, at_a_time) = (shape.images * shape.lines, BLOCK.div_ceil(shape.pixels.max(1)));
        Blocks {
            lines,
            at_a_time,
            count: lines.div_ceil(at_a_time),
        }
    }

    fn lines(&self, block: usize) -> Range<usize> {
        let first = block * self.at_a_time;
        first..(first + self.at_a_time).min(self.lines)
    }
}

/// Two sums of each channel.
struct BlockSums {
    first: Vec<f32>,
    second: Vec<f32>,
}

impl BlockSums {
    fn new(channels: usize) -> BlockSums {
        let width = lanes::filled(channels);
        BlockSums {
            first: vec![0.0; width],
            second: vec![0.0; width],
        }
    }
}

/// First sums of all channels, then second ones, [2c].
fn total(channels: usize, partial: &[BlockSums]) -> Vec<f64> {
    let mut total = vec![0f64; 2 * channels];
    let (first, second) = total.split_at_mut(channels);
    let add = |totals: &mut [f64], sums: &[f32]| {
        totals
            .iter_mut()
            .zip(sums)
            .for_each(|(total, sum)| *total += f64::from(*sum));
    };
    for sums in partial {
        add(first, &sums.first);
        add(second, &sums.second);
    }
    total
}
