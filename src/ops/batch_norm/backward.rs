//! Gradients of batch normalisation, and of a rectifier behind it.

use rayon::prelude::*;

use super::{Affine, Moments, over_blocks};
use crate::error::Result;
use crate::ops::maps::Maps;
use crate::ops::simd::vectorized;
use crate::ops::storage::{Values, refused, update, values};

/// Which gradients of a result reach its normalised value.
#[derive(Clone, Copy)]
pub enum Passes<'a> {
    All,
    /// Those where x·scale + shift is positive: a rectifier follows.
    Positive(&'a Affine),
}

/// g = 0 wherever `y` is not positive, in place: the gradient before a rectifier whose result is y.
pub fn rectify_backward(g: &Maps, y: &Maps) -> Result<()> {
    let shape = y.shape();
    if g.shape() != shape || g.margin() != 0 {
        return Err(refused(format!("gradients {:?} of {shape:?}", g.shape())));
    }
    let results = values(y.values())?;
    update(g.values(), |g| {
        let width = (shape.pixels * shape.channels).max(1);
        g.par_chunks_mut(width)
            .enumerate()
            .with_min_len(4)
            .for_each(|(line, g)| {
                for (g, y) in g.iter_mut().zip(&results[y.line(line)]) {
                    *g = if *y > 0.0 { *g } else { 0.0 };
                }
            })
    })
}

/// Σ g and Σ g·(x - mean) of each channel, [2c].
pub fn gradient_sums(g: &Maps, x: &Maps, moments: &Moments, passes: Passes) -> Result<Vec<f64>> {
    let shape = x.shape();
    let c = shape.channels;
    let (gradients, input) = operands(g, x)?;
    let mean = &moments.mean_c[..c];
    let (scale, shift) = rectifier(passes, c);
    let (scale, shift) = (&scale[..c], &shift[..c]);
    Ok(over_blocks(
        shape,
        #[inline(always)]
        |lines, sums| {
            let (sum, product) = sums.split_at_mut(c);
            for line in lines {
                let pixels = gradients[g.line(line)]
                    .chunks_exact(c)
                    .zip(input[x.line(line)].chunks_exact(c));
                for (g, x) in pixels {
                    for channel in 0..c {
                        let open = x[channel].mul_add(scale[channel], shift[channel]) > 0.0;
                        let g = if open { g[channel] } else { 0.0 };
                        sum[channel] += g;
                        product[channel] = g.mul_add(x[channel] - mean[channel], product[channel]);
                    }
                }
            }
        },
    ))
}

/// The gradient with respect to x, inside of a new margin, from [`gradient_sums`] over all values that were normalised
/// together.
///
/// dx = w·rstd·(g - Σg/n - (x - mean)·rstd²·Σg(x - mean)/n)
pub fn batch_norm_backward(
    g: &Maps,
    x: &Maps,
    moments: &Moments,
    weight_c: &[f32],
    sums: &[f64],
    passes: Passes,
    margin: usize,
) -> Result<Maps> {
    let shape = x.shape();
    let c = shape.channels;
    let (gradients, input) = operands(g, x)?;
    let n = moments.count;
    let mean = &moments.mean_c[..c];
    let factor = |channel: usize| f64::from(weight_c[channel]) * f64::from(moments.rstd_c[channel]);
    let of_g: Vec<f32> = (0..c).map(|channel| factor(channel) as f32).collect();
    let constant: Vec<f32> = (0..c)
        .map(|channel| (factor(channel) * sums[channel] / n) as f32)
        .collect();
    let of_x: Vec<f32> = (0..c)
        .map(|channel| {
            let rstd = f64::from(moments.rstd_c[channel]);
            (factor(channel) * rstd * rstd * sums[c + channel] / n) as f32
        })
        .collect();
    let (of_g, constant, of_x) = (&of_g[..c], &constant[..c], &of_x[..c]);
    let (scale, shift) = rectifier(passes, c);
    let (scale, shift) = (&scale[..c], &shift[..c]);
    Maps::written(shape, margin, |line, dx| {
        let (g, x) = (&gradients[g.line(line)], &input[x.line(line)]);
        vectorized(
            #[inline(always)]
            || {
                let pixels = g.chunks_exact(c).zip(x.chunks_exact(c));
                for (dx, (g, x)) in dx.chunks_exact_mut(c).zip(pixels) {
                    for channel in 0..c {
                        let open = x[channel].mul_add(scale[channel], shift[channel]) > 0.0;
                        let g = if open { g[channel] } else { 0.0 };
                        let rest = (x[channel] - mean[channel]).mul_add(of_x[channel], constant[channel]);
                        dx[channel] = of_g[channel].mul_add(g, -rest);
                    }
                }
            },
        )
    })
}

/// Scale and shift whose result is positive where gradients pass.
fn rectifier(passes: Passes, c: usize) -> (Vec<f32>, Vec<f32>) {
    match passes {
        Passes::All => (vec![0.0; c], vec![1.0; c]),
        Passes::Positive(affine) => (affine.scale_c.clone(), affine.shift_c.clone()),
    }
}

fn operands<'a>(g: &'a Maps, x: &'a Maps) -> Result<(Values<'a>, Values<'a>)> {
    if g.shape() != x.shape() {
        return Err(refused(format!("gradients {:?} of {:?}", g.shape(), x.shape())));
    }
    Ok((values(g.values())?, values(x.values())?))
}
