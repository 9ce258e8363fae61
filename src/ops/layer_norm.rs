//! Layer normalisation over the last dimension, forward and backward (Ba, Kiros, Hinton 2016).
//!
//! x̂ = (x - mean)·rstd, y = x̂·w + b, rstd = 1/√(var + eps) with the biased variance. The outputs are not kept for the
//! backward pass: mean and rstd of each row are enough to make them again.

use candle_core::Tensor;
use rayon::prelude::*;

use super::lanes;
use super::simd::vectorized;
use super::storage::{refused, tensor, unwritten, update, values};
use crate::error::Result;

/// Mean and reciprocal standard deviation of every row: both [n].
#[derive(Clone)]
pub struct Moments {
    pub mean_n: Tensor,
    pub rstd_n: Tensor,
}

const ROWS: usize = 32;

/// y[…,d] and the moments of x[…,d]'s rows.
pub fn layer_norm(x_nd: &Tensor, w_d: &Tensor, b_d: &Tensor, eps: f64) -> Result<(Tensor, Moments)> {
    #[cfg(feature = "cuda")]
    if x_nd.device().is_cuda() {
        return layer_norm_in_rows(x_nd, w_d, b_d, eps, w_d.elem_count());
    }
    let (x, w, b) = (values(x_nd)?, values(w_d)?, values(b_d)?);
    let d = width(x_nd, &w)?;
    let n = x.len() / d;
    let (mut y, mut mean, mut rstd) = (unwritten(x.len()), unwritten(n), unwritten(n));
    y.par_chunks_mut(ROWS * d)
        .zip(x.par_chunks(ROWS * d))
        .zip(mean.par_chunks_mut(ROWS).zip(rstd.par_chunks_mut(ROWS)))
        .for_each(|((y, x), (mean, rstd))| {
            vectorized(
                #[inline(always)]
                || {
                    let rows = y.chunks_exact_mut(d).zip(x.chunks_exact(d));
                    for ((y, x), (mean, rstd)) in rows.zip(mean.iter_mut().zip(rstd.iter_mut())) {
                        *mean = lanes::sum(x) / d as f32;
                        let variance = lanes::sum_of_squared_differences(x, *mean) / d as f32;
                        *rstd = 1.0 / (variance + eps as f32).sqrt();
                        normalize(y, x, *mean, *rstd, &w, &b);
                    }
                },
            )
        });
    let moments = Moments {
        mean_n: tensor(mean, n)?,
        rstd_n: tensor(rstd, n)?,
    };
    Ok((tensor(y, x_nd.shape().clone())?, moments))
}

/// The same in rows of `width` ≥ d, whose rest somebody else fills. GPUs only.
pub fn layer_norm_in_rows(
    x_nd: &Tensor,
    w_d: &Tensor,
    b_d: &Tensor,
    eps: f64,
    width: usize,
) -> Result<(Tensor, Moments)> {
    #[cfg(feature = "cuda")]
    if x_nd.device().is_cuda() {
        return super::cuda::layer_norm::forward(x_nd, w_d, b_d, eps, width);
    }
    let _ = (w_d, b_d, eps);
    Err(refused(format!("rows of {width} on {:?}", x_nd.device())))
}

/// The output of [`layer_norm`] once more, from the moments it gave.
pub fn layer_norm_again(x_nd: &Tensor, moments: &Moments, w_d: &Tensor, b_d: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x_nd.device().is_cuda() {
        return super::cuda::layer_norm::again(x_nd, moments, w_d, b_d);
    }
    let (x, w, b) = (values(x_nd)?, values(w_d)?, values(b_d)?);
    let (mean, rstd) = (values(&moments.mean_n)?, values(&moments.rstd_n)?);
    let d = width(x_nd, &w)?;
    let mut y = unwritten(x.len());
    y.par_chunks_mut(ROWS * d)
        .zip(x.par_chunks(ROWS * d))
        .zip(mean.par_chunks(ROWS).zip(rstd.par_chunks(ROWS)))
        .for_each(|((y, x), (mean, rstd))| {
            vectorized(
                #[inline(always)]
                || {
                    let rows = y.chunks_exact_mut(d).zip(x.chunks_exact(d));
                    for ((y, x), (mean, rstd)) in rows.zip(mean.iter().zip(rstd)) {
                        normalize(y, x, *mean, *rstd, &w, &b);
                    }
                },
            )
        });
    tensor(y, x_nd.shape().clone())
}

/// Adds the gradient with respect to x to `dx`, in place (the residual's gradient is there already). On a GPU the rows of dy
/// may lie apart.
///
/// dx = rstd·(g - mean(g) - x̂·mean(g·x̂)) with g = dy·w.
pub fn layer_norm_backward(
    dx_nd: &Tensor,
    dy_nd: &Tensor,
    x_nd: &Tensor,
    moments: &Moments,
    w_d: &Tensor,
) -> Result<()> {
    #[cfg(feature = "cuda")]
    if x_nd.device().is_cuda() {
        return super::cuda::layer_norm::backward(dx_nd, dy_nd, x_nd, moments, w_d);
    }
    let (dy, x, w) = (values(dy_nd)?, values(x_nd)?, values(w_d)?);
    let (mean, rstd) = (values(&moments.mean_n)?, values(&moments.rstd_n)?);
    let d = width(x_nd, &w)?;
    if dy.len() != x.len() || dx_nd.elem_count() != x.len() || !dx_nd.is_contiguous() {
        return Err(refused("layer_norm_backward: operands differ in shape".into()));
    }
    update(dx_nd, |dx| {
        dx.par_chunks_mut(ROWS * d)
            .zip(dy.par_chunks(ROWS * d).zip(x.par_chunks(ROWS * d)))
            .zip(mean.par_chunks(ROWS).zip(rstd.par_chunks(ROWS)))
            .for_each(|((dx, (dy, x)), (mean, rstd))| {
                vectorized(
                    #[inline(always)]
                    || {
                        let rows = dx.chunks_exact_mut(d).zip(dy.chunks_exact(d).zip(x.chunks_exact(d)));
                        for ((dx, (dy, x)), (mean, rstd)) in rows.zip(mean.iter().zip(rstd)) {
                            backward_row(dx, dy, x, &w, *mean, *rstd);
                        }
                    },
                )
            })
    })
}

/// Adds the gradients with respect to weight and bias: gw[d] += Σ dy·x̂, gb[d] += Σ dy.
pub fn layer_norm_backward_weights(
    gw_d: &Tensor,
    gb_d: &Tensor,
    dy_nd: &Tensor,
    x_nd: &Tensor,
    moments: &Moments,
) -> Result<()> {
    #[cfg(feature = "cuda")]
    if x_nd.device().is_cuda() {
        return super::cuda::layer_norm::backward_weights(gw_d, gb_d, dy_nd, x_nd, moments);
    }
    let (dy, x) = (values(dy_nd)?, values(x_nd)?);
    let (mean, rstd) = (values(&moments.mean_n)?, values(&moments.rstd_n)?);
    let d = gw_d.elem_count();
    // Partial sums over fixed blocks of rows, added in the order of the blocks: no thread count changes a bit.
    const BLOCK: usize = 256;
    let partial: Vec<Vec<f32>> = dy
        .par_chunks(BLOCK * d)
        .zip(x.par_chunks(BLOCK * d))
        .zip(mean.par_chunks(BLOCK).zip(rstd.par_chunks(BLOCK)))
        .map(|((dy, x), (mean, rstd))| {
            let mut sums = vec![0f32; 2 * d];
            vectorized(
                #[inline(always)]
                || {
                    let (gw, gb) = sums.split_at_mut(d);
                    let rows = dy.chunks_exact(d).zip(x.chunks_exact(d));
                    for ((dy, x), (mean, rstd)) in rows.zip(mean.iter().zip(rstd)) {
                        for ((gw, gb), (dy, x)) in gw.iter_mut().zip(gb.iter_mut()).zip(dy.iter().zip(x)) {
                            *gw = dy.mul_add((x - mean) * rstd, *gw);
                            *gb += dy;
                        }
                    }
                },
            );
            sums
        })
        .collect();
    let add = |to: &Tensor, from: std::ops::Range<usize>| {
        update(to, |to| {
            for sums in &partial {
                to.iter_mut().zip(&sums[from.clone()]).for_each(|(to, x)| *to += x);
            }
        })
    };
    add(gw_d, 0..d)?;
    add(gb_d, d..2 * d)
}

fn width(x_nd: &Tensor, w: &[f32]) -> Result<usize> {
    match x_nd.dims().last() {
        Some(&d) if d == w.len() && d > 0 => Ok(d),
        _ => Err(refused(format!(
            "layer_norm: {:?} against {} weights",
            x_nd.shape(),
            w.len()
        ))),
    }
}

#[inline(always)]
fn normalize(y: &mut [f32], x: &[f32], mean: f32, rstd: f32, w: &[f32], b: &[f32]) {
    for ((y, x), (w, b)) in y.iter_mut().zip(x).zip(w.iter().zip(b)) {
        *y = ((x - mean) * rstd).mul_add(*w, *b);
    }
}

#[inline(always)]
fn backward_row(dx: &mut [f32], dy: &[f32], x: &[f32], w: &[f32], mean: f32, rstd: f32) {
    const LANES: usize = 32;
    let mut sum_g = [0f32; LANES];
    let mut sum_gx = [0f32; LANES];
    let blocks = dy.chunks(LANES).zip(x.chunks(LANES)).zip(w.chunks(LANES));
    for ((dy, x), w) in blocks {
        for (lane, ((dy, x), w)) in dy.iter().zip(x).zip(w).enumerate() {
            let g = dy * w;
            sum_g[lane] += g;
            sum_gx[lane] = g.mul_add((x - mean) * rstd, sum_gx[lane]);
        }
    }
    let d = x.len() as f32;
    let mean_g = lanes::sum(&sum_g) / d;
    let mean_gx = lanes::sum(&sum_gx) / d;
    for ((dx, dy), (x, w)) in dx.iter_mut().zip(dy).zip(x.iter().zip(w)) {
        let x_hat = (x - mean) * rstd;
        let inner = dy.mul_add(*w, -mean_g) - x_hat * mean_gx;
        *dx = rstd.mul_add(inner, *dx);
    }
}
