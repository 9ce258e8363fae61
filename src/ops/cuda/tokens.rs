//! The CUDA sides of ops::patches and ops::residual (kernels/tokens.cu).

use candle_core::Tensor;

use super::memory::{contiguous, operand};
use super::{Gpu, Output, failed};
use crate::error::Result;
use crate::ops::launch::eights;

pub fn patches(x_bchw: &Tensor, p: usize) -> Result<Tensor> {
    let gpu = Gpu::of(x_bchw.device())?;
    let (b, c, h, w) = x_bchw.dims4()?;
    let x = contiguous(x_bchw)?;
    let count = x_bchw.elem_count();
    let y = Output::new(&gpu, count, x.dtype)?;
    let call = gpu.kernel("patches", x.dtype)?.arg(&y).arg(&x);
    let call = call
        .arg(c as u32)
        .arg(h as u32)
        .arg(w as u32)
        .arg(p as u32)
        .arg(count as u64);
    // SAFETY: patches_T(y, x, c, h, w, p, count); ops::patches has seen that p divides h and w.
    unsafe { call.launch(eights(count)) }?;
    Ok(y.into_tensor((b, (h / p) * (w / p), c * p * p)))
}

pub fn tokens(y_btd: &Tensor, cls_d: &Tensor, position_sd: &Tensor) -> Result<Tensor> {
    let gpu = Gpu::of(y_btd.device())?;
    let (b, t, d) = y_btd.dims3()?;
    let (y, cls, position) = (contiguous(y_btd)?, contiguous(cls_d)?, contiguous(position_sd)?);
    if cls_d.elem_count() != d || position_sd.elem_count() != (t + 1) * d {
        return Err(failed(
            "tokens",
            format!("{:?} for {:?}", position_sd.shape(), y_btd.shape()),
        ));
    }
    let count = b * (t + 1) * d;
    let x = Output::new(&gpu, count, y.dtype)?;
    let call = gpu.kernel("tokens", y.dtype)?.arg(&x).arg(&y).arg(&cls).arg(&position);
    // SAFETY: tokens_T(x, y, cls, position, s, d, count).
    unsafe {
        call.arg((t + 1) as u32)
            .arg(d as u32)
            .arg(count as u64)
            .launch(eights(count))
    }?;
    Ok(x.into_tensor((b, t + 1, d)))
}

pub fn tokens_backward(dx_bsd: &Tensor, gcls_d: &Tensor, gposition_sd: &Tensor) -> Result<Tensor> {
    let gpu = Gpu::of(dx_bsd.device())?;
    let (b, s, d) = dx_bsd.dims3()?;
    let (dx, gcls, gposition) = (contiguous(dx_bsd)?, contiguous(gcls_d)?, contiguous(gposition_sd)?);
    if gcls_d.elem_count() != d || gposition_sd.elem_count() != s * d {
        return Err(failed(
            "tokens_backward",
            format!("{:?} for {:?}", gposition_sd.shape(), dx_bsd.shape()),
        ));
    }
    let call = gpu
        .kernel("tokens_backward", dx.dtype)?
        .arg(&gposition)
        .arg(&gcls)
        .arg(&dx);
    // SAFETY: tokens_backward_T(dposition, dcls, dx, b, s, d).
    unsafe { call.arg(b as u32).arg(s as u32).arg(d as u32).launch(eights(s * d)) }?;
    let count = b * (s - 1) * d;
    let dy = Output::new(&gpu, count, dx.dtype)?;
    let call = gpu.kernel("rest_tokens", dx.dtype)?.arg(&dy).arg(&dx);
    // SAFETY: rest_tokens_T(dy, dx, s, d, count).
    unsafe { call.arg(s as u32).arg(d as u32).arg(count as u64).launch(eights(count)) }?;
    Ok(dy.into_tensor((b, s - 1, d)))
}

/// [b,s,d] with x[b,1,d] as first tokens and zeros elsewhere.
pub fn first_tokens(x_b1d: &Tensor, s: usize) -> Result<Tensor> {
    let gpu = Gpu::of(x_b1d.device())?;
    let (b, _, d) = x_b1d.dims3()?;
    let x = contiguous(x_b1d)?;
    let count = b * s * d;
    let y = Output::new(&gpu, count, x.dtype)?;
    let call = gpu.kernel("spread_first_tokens", x.dtype)?.arg(&y).arg(&x);
    // SAFETY: spread_first_tokens_T(dx, dy, s, d, count).
    unsafe { call.arg(s as u32).arg(d as u32).arg(count as u64).launch(eights(count)) }?;
    Ok(y.into_tensor((b, s, d)))
}

/// x + bias[d], whose images may lie apart if only first tokens are asked for.
pub fn with_bias(x_bqd: &Tensor, bias_d: Option<&Tensor>) -> Result<Tensor> {
    let gpu = Gpu::of(x_bqd.device())?;
    let (b, q, d) = x_bqd.dims3()?;
    let x = operand(x_bqd)?;
    let bias = bias_d.map(contiguous).transpose()?;
    if let Some(bias_d) = bias_d.filter(|bias_d| bias_d.elem_count() != d) {
        return Err(failed("a bias", format!("{:?} for width {d}", bias_d.shape())));
    }
    let count = b * q * d;
    let y = Output::new(&gpu, count, x.dtype)?;
    let mut from = x.address();
    if !x_bqd.is_contiguous() {
        if q != 1 || !x_bqd.stride()[0].is_multiple_of(d) {
            return Err(failed("a residual", format!("{:?}", x_bqd.layout())));
        }
        let call = gpu.kernel("first_tokens", x.dtype)?.arg(&y).arg(&x);
        let s = x_bqd.stride()[0] / d;
        // SAFETY: first_tokens_T(y, x, s, d, count): images lie s·d values apart.
        unsafe { call.arg(s as u32).arg(d as u32).arg(count as u64).launch(eights(count)) }?;
        from = y.address();
    }
    let call = gpu
        .kernel("add", x.dtype)?
        .arg(&y)
        .arg(from)
        .arg(super::NULL)
        .arg(bias.as_ref());
    // SAFETY: add_T(y, a, b, bias, count, d); y may be a.
    unsafe { call.arg(count as u64).arg(d as u32).launch(eights(count)) }?;
    Ok(y.into_tensor((b, q, d)))
}
