//! The CUDA sides of what is done value by value: GELU, scaling, casts, zeros (kernels/gelu.cu, kernels/elementwise.cu).

use candle_core::{DType, Tensor};

use super::memory::{clear, contiguous};
use super::{Gpu, NULL, Output, failed};
use crate::error::Result;
use crate::ops::launch::eights;

pub fn gelu(z: &Tensor) -> Result<Tensor> {
    let gpu = Gpu::of(z.device())?;
    let from = contiguous(z)?;
    let count = z.elem_count();
    let y = Output::new(&gpu, count, from.dtype)?;
    let width = z.dims().last().copied().unwrap_or(1);
    let call = gpu.kernel("gelu_forward", from.dtype)?;
    let call = call
        .arg(&y)
        .arg(NULL)
        .arg(&from)
        .arg(NULL)
        .arg(count as u64)
        .arg(width as u32);
    // SAFETY: gelu_forward_T(y, pre, x, bias, count, d), without pre and bias.
    unsafe { call.launch(eights(count)) }?;
    Ok(y.into_tensor(z.shape()))
}

pub fn gelu_backward(gradient: &Tensor, z: &Tensor) -> Result<()> {
    let gpu = Gpu::of(z.device())?;
    let (g, z_at) = (contiguous(gradient)?, contiguous(z)?);
    let count = z.elem_count();
    if gradient.elem_count() != count || g.dtype != z_at.dtype {
        return Err(failed("gelu_backward", "operands differ"));
    }
    let call = gpu.kernel("gelu_backward", g.dtype)?;
    // SAFETY: gelu_backward_T(dx, dy, pre, count); dx may be dy.
    unsafe { call.arg(&g).arg(&g).arg(&z_at).arg(count as u64).launch(eights(count)) }
}

pub fn scale(x: &Tensor, factor: f32) -> Result<()> {
    let gpu = Gpu::of(x.device())?;
    let at = contiguous(x)?;
    let count = x.elem_count();
    let call = gpu.kernel("scale", at.dtype)?;
    // SAFETY: scale_T(x, factor, on_device, count), without a factor on the device.
    unsafe {
        call.arg(&at)
            .arg(factor)
            .arg(NULL)
            .arg(count as u64)
            .launch(eights(count))
    }
}

pub fn set_zero(x: &Tensor) -> Result<()> {
    let gpu = Gpu::of(x.device())?;
    let at = contiguous(x)?;
    // +0 is all zero bits in every format.
    clear(&gpu, at.address(), x.elem_count() * at.dtype.size_in_bytes())
}

/// x in another format, rounded to nearest; one of the two is f32.
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let y = Output::new(&*Gpu::of(x.device())?, x.elem_count(), dtype)?.into_tensor(x.shape());
    cast_into(&y, x)?;
    Ok(y)
}

/// y = x, rounded to y's format.
pub fn cast_into(y: &Tensor, x: &Tensor) -> Result<()> {
    let gpu = Gpu::of(x.device())?;
    let (to, from) = (contiguous(y)?, contiguous(x)?);
    let count = x.elem_count();
    let call = match (from.dtype, to.dtype) {
        _ if y.elem_count() != count => return Err(failed("cast", "operands differ")),
        (DType::F32, half) => gpu.kernel("cast_f32_to", half)?,
        (half, DType::F32) => gpu.exact_kernel(&format!("cast_{}_to_f32", super::gpu::suffix(half)?))?,
        (from, to) => return Err(failed("cast", format!("from {from:?} to {to:?}"))),
    };
    // SAFETY: cast_T_to_U(y, x, count).
    unsafe { call.arg(&to).arg(&from).arg(count as u64).launch(eights(count)) }
}
