//! A moving average of a flat buffer, in one pass, and its exchange with what is averaged.

use candle_core::Tensor;
use rayon::prelude::*;

use super::storage::{refused, update, values};
use crate::error::Result;

const BLOCK: usize = 16 * 1024;

/// mean = decay·mean + (1-decay)·x in place; products and their sum are rounded one by one, as torch and timm do it.
///
/// On a GPU it does nothing if `apply` [1] is 0 there: the step was skipped.
pub fn average_into(mean_n: &Tensor, x_n: &Tensor, decay: f64, apply: Option<&Tensor>) -> Result<()> {
    same_length(mean_n, x_n)?;
    let (decay, rest) = (decay as f32, (1.0 - decay) as f32);
    #[cfg(feature = "cuda")]
    if mean_n.device().is_cuda() {
        return super::cuda::average::average_into(mean_n, x_n, decay, rest, apply);
    }
    if apply.is_some() {
        return Err(refused("an average on a CPU that a GPU decides about".into()));
    }
    let x = values(x_n)?;
    update(mean_n, |mean| {
        mean.par_chunks_mut(BLOCK)
            .zip(x.par_chunks(BLOCK))
            .for_each(|(mean, x)| {
                for (mean, x) in mean.iter_mut().zip(x) {
                    *mean = decay * *mean + rest * x;
                }
            });
    })
}

/// Exchanges the values of two tensors that share no memory.
pub fn swap(a_n: &Tensor, b_n: &Tensor) -> Result<()> {
    same_length(a_n, b_n)?;
    #[cfg(feature = "cuda")]
    if a_n.device().is_cuda() {
        return super::cuda::average::swap(a_n, b_n);
    }
    update(a_n, |a| update(b_n, |b| a.swap_with_slice(b)))?
}

fn same_length(a_n: &Tensor, b_n: &Tensor) -> Result<()> {
    match a_n.elem_count() == b_n.elem_count() && a_n.is_contiguous() && b_n.is_contiguous() {
        true => Ok(()),
        false => Err(refused("an average and what is averaged differ in length".into())),
    }
}
