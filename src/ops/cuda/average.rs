//! The CUDA side of moving averages (kernels/average.cu).

use candle_core::{DType, Tensor};

use super::Gpu;
use super::memory::contiguous;
use crate::error::Result;
use crate::ops::launch::eights;

/// mean = decay·mean + rest·x, unless `apply` [1] f32 is there and 0.
pub fn average_into(mean: &Tensor, x: &Tensor, decay: f32, rest: f32, apply: Option<&Tensor>) -> Result<()> {
    let gpu = Gpu::of(mean.device())?;
    let (to, from) = (contiguous(mean)?, contiguous(x)?);
    let apply = apply.map(contiguous).transpose()?;
    let count = x.elem_count();
    let call = gpu
        .kernel("average", DType::F32)?
        .arg(&to)
        .arg(&from)
        .arg(decay)
        .arg(rest)
        .arg(apply.as_ref())
        .arg(count as u64);
    // SAFETY: average_f32(mean, x, decay, rest, apply, count), where apply may be null; lengths are checked by ops::average.
    unsafe { call.launch(eights(count)) }
}

pub fn swap(a: &Tensor, b: &Tensor) -> Result<()> {
    let gpu = Gpu::of(a.device())?;
    let (a_at, b_at) = (contiguous(a)?, contiguous(b)?);
    let count = a.elem_count();
    let call = gpu.kernel("swap", DType::F32)?.arg(&a_at).arg(&b_at).arg(count as u64);
    // SAFETY: swap_f32(a, b, count); lengths are checked by ops::average.
    unsafe { call.launch(eights(count)) }
}
