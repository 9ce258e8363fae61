//! GELU with the exact normal distribution (Hendrycks, Gimpel 2016), forward and backward.

use candle_core::Tensor;
use rayon::prelude::*;

use super::math;
use super::simd::vectorized;
use super::storage::{refused, tensor, unwritten, update, values};
use crate::error::Result;

const BLOCK: usize = 16 * 1024;

/// z·Φ(z), element by element.
pub fn gelu(z: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if z.device().is_cuda() {
        return super::cuda::elementwise::gelu(z);
    }
    let from = values(z)?;
    let mut to = unwritten(from.len());
    to.par_chunks_mut(BLOCK)
        .zip(from.par_chunks(BLOCK))
        .for_each(|(to, from)| {
            vectorized(
                #[inline(always)]
                || {
                    for (to, z) in to.iter_mut().zip(from) {
                        *to = math::gelu(*z);
                    }
                },
            )
        });
    tensor(to, z.shape().clone())
}

/// Turns the gradient with respect to GELU's output into that with respect to its input z, in place.
pub fn gelu_backward(gradient: &Tensor, z: &Tensor) -> Result<()> {
    #[cfg(feature = "cuda")]
    if z.device().is_cuda() {
        return super::cuda::elementwise::gelu_backward(gradient, z);
    }
    let z = values(z)?;
    if gradient.elem_count() != z.len() || !gradient.is_contiguous() {
        return Err(refused("gelu_backward: operands differ in shape".into()));
    }
    update(gradient, |gradient| {
        gradient
            .par_chunks_mut(BLOCK)
            .zip(z.par_chunks(BLOCK))
            .for_each(|(g, z)| {
                vectorized(
                    #[inline(always)]
                    || {
                        for (g, z) in g.iter_mut().zip(z) {
                            *g *= math::gelu_derivative(*z);
                        }
                    },
                )
            })
    })
}
