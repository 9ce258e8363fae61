//! Sums over whole tensors and over rows, in fixed blocks so that no number of threads changes a bit.

use candle_core::Tensor;
use rayon::prelude::*;

use super::simd::vectorized;
use super::storage::{refused, update, values};
use crate::error::Result;

const BLOCK: usize = 16 * 1024;

/// Σ x², summed in f64.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return super::cuda::step::sum_of_squares(x);
    }
    let x = values(x)?;
    let partial: Vec<f64> = x
        .par_chunks(BLOCK)
        .map(|block| {
            vectorized(
                #[inline(always)]
                || {
                    let mut lanes = [0f64; 16];
                    let (whole, rest) = block.as_chunks::<16>();
                    for x in whole {
                        for lane in 0..16 {
                            lanes[lane] = (x[lane] as f64).mul_add(x[lane] as f64, lanes[lane]);
                        }
                    }
                    for (lane, x) in rest.iter().enumerate() {
                        lanes[lane] = (*x as f64).mul_add(*x as f64, lanes[lane]);
                    }
                    lanes.iter().sum::<f64>()
                },
            )
        })
        .collect();
    Ok(partial.iter().sum())
}

/// x *= factor, in place.
pub fn scale(x: &Tensor, factor: f32) -> Result<()> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return super::cuda::elementwise::scale(x, factor);
    }
    contiguous(x)?;
    update(x, |x| {
        x.par_chunks_mut(BLOCK)
            .for_each(|block| block.iter_mut().for_each(|x| *x *= factor))
    })
}

/// x = 0, in place.
pub fn set_zero(x: &Tensor) -> Result<()> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return super::cuda::elementwise::set_zero(x);
    }
    contiguous(x)?;
    update(x, |x| x.par_chunks_mut(BLOCK).for_each(|block| block.fill(0.0)))
}

/// sums[d] += Σ over the rows of x[…,d].
pub fn add_column_sums(sums_d: &Tensor, x_nd: &Tensor) -> Result<()> {
    #[cfg(feature = "cuda")]
    if x_nd.device().is_cuda() {
        return super::cuda::step::add_column_sums(sums_d, x_nd);
    }
    const ROWS: usize = 256;
    let x = values(x_nd)?;
    let d = sums_d.elem_count();
    if x_nd.dims().last() != Some(&d) {
        return Err(refused(format!("{d} sums of {:?}", x_nd.shape())));
    }
    let partial: Vec<Vec<f32>> = x
        .par_chunks(ROWS * d)
        .map(|rows| {
            let mut sums = vec![0f32; d];
            vectorized(
                #[inline(always)]
                || {
                    for row in rows.chunks_exact(d) {
                        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
                    }
                },
            );
            sums
        })
        .collect();
    update(sums_d, |total| {
        for sums in &partial {
            total.iter_mut().zip(sums).for_each(|(total, x)| *total += x);
        }
    })
}

fn contiguous(x: &Tensor) -> Result<()> {
    match x.is_contiguous() {
        true => Ok(()),
        false => Err(refused(format!("not contiguous: {:?}", x.layout()))),
    }
}
