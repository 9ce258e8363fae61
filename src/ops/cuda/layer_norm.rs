//! The CUDA side of ops::layer_norm (kernels/layer_norm.cu). Weights and moments are f32, tokens of any format.

use candle_core::{DType, Tensor};

use super::memory::{contiguous, operand};
use super::{Gpu, NULL, Output, failed};
use crate::error::Result;
use crate::ops::launch::{self, RowSums};
use crate::ops::layer_norm::Moments;
use crate::ops::matmul::Form;

/// The result lies in rows of `width` ≥ d, of which the rest is left as it is.
pub fn forward(x_nd: &Tensor, w_d: &Tensor, b_d: &Tensor, eps: f64, width: usize) -> Result<(Tensor, Moments)> {
    let gpu = Gpu::of(x_nd.device())?;
    let (n, d) = rows(x_nd, w_d)?;
    if width < d {
        return Err(failed("layer_norm", format!("rows of {width} for {:?}", x_nd.shape())));
    }
    let (x, w, b) = (contiguous(x_nd)?, contiguous(w_d)?, contiguous(b_d)?);
    let y = Output::new(&gpu, n * width, x.dtype)?;
    let mean = Output::new(&gpu, n, DType::F32)?;
    let rstd = Output::new(&gpu, n, DType::F32)?;
    let call = gpu.kernel("layer_norm_forward", x.dtype)?;
    let call = call.arg(NULL).arg(&y).arg(&mean).arg(&rstd).arg(&x).arg(NULL).arg(NULL);
    let call = call.arg(&w).arg(&b).arg(n as u32).arg(d as u32).arg(width as u32);
    // SAFETY: layer_norm_forward_T(x_out, y, mean, rstd, a, b, bias, w, w_bias, n, d, y_stride, eps) on n rows of width d.
    unsafe { call.arg(eps as f32).launch(launch::rows(n)) }?;
    let moments = Moments {
        mean_n: mean.into_tensor(n),
        rstd_n: rstd.into_tensor(n),
    };
    let mut shape = x_nd.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = width;
    }
    Ok((y.into_tensor(shape), moments))
}

pub fn again(x_nd: &Tensor, moments: &Moments, w_d: &Tensor, b_d: &Tensor) -> Result<Tensor> {
    let gpu = Gpu::of(x_nd.device())?;
    let (n, d) = rows(x_nd, w_d)?;
    let (x, w, b) = (contiguous(x_nd)?, contiguous(w_d)?, contiguous(b_d)?);
    let (mean, rstd) = (contiguous(&moments.mean_n)?, contiguous(&moments.rstd_n)?);
    let y = Output::new(&gpu, n * d, x.dtype)?;
    let call = gpu.kernel("layer_norm_again", x.dtype)?;
    let call = call.arg(&y).arg(&x).arg(&mean).arg(&rstd).arg(&w).arg(&b);
    // SAFETY: layer_norm_again_T(y, x, mean, rstd, w, w_bias, n, d) on n rows of width d.
    unsafe { call.arg(n as u32).arg(d as u32).launch(launch::rows(n)) }?;
    Ok(y.into_tensor(x_nd.shape()))
}

pub fn backward(dx_nd: &Tensor, dy_nd: &Tensor, x_nd: &Tensor, moments: &Moments, w_d: &Tensor) -> Result<()> {
    let gpu = Gpu::of(x_nd.device())?;
    let (n, d) = rows(x_nd, w_d)?;
    let (dx, dy, x, w) = (contiguous(dx_nd)?, operand(dy_nd)?, contiguous(x_nd)?, contiguous(w_d)?);
    let dy_form = Form::of(dy_nd)?;
    let dy_stride = if dy_form.rows == 1 { d } else { dy_form.row_stride };
    if [dx_nd, dy_nd]
        .iter()
        .any(|t| t.elem_count() != n * d || t.dtype() != x.dtype)
        || dy_form.column_stride != 1
        || dy_stride < d
    {
        return Err(failed("layer_norm_backward", "operands differ"));
    }
    let (mean, rstd) = (contiguous(&moments.mean_n)?, contiguous(&moments.rstd_n)?);
    let call = gpu.kernel("layer_norm_backward", x.dtype)?;
    let call = call.arg(&dx).arg(&dy).arg(&x).arg(&mean).arg(&rstd).arg(&w);
    let call = call.arg(&dx).arg(1u32).arg(n as u32).arg(d as u32);
    // SAFETY: layer_norm_backward_T(dx, dy, x, mean, rstd, w, residual, every, n, d, dy_stride); the residual may be dx.
    unsafe { call.arg(dy_stride as u32).launch(launch::rows(n)) }
}

pub fn backward_weights(gw_d: &Tensor, gb_d: &Tensor, dy_nd: &Tensor, x_nd: &Tensor, moments: &Moments) -> Result<()> {
    let gpu = Gpu::of(x_nd.device())?;
    let (n, d) = rows(x_nd, gw_d)?;
    let (gw, gb, dy, x) = (
        contiguous(gw_d)?,
        contiguous(gb_d)?,
        contiguous(dy_nd)?,
        contiguous(x_nd)?,
    );
    if dy_nd.elem_count() != n * d || dy.dtype != x.dtype {
        return Err(failed("layer_norm_backward_weights", "operands differ"));
    }
    let (mean, rstd) = (contiguous(&moments.mean_n)?, contiguous(&moments.rstd_n)?);
    let sums = RowSums::new(n, d);
    let partial = Output::new(&gpu, 2 * sums.parts as usize * d, DType::F32)?;
    let call = gpu.kernel("layer_norm_weights_partial", x.dtype)?;
    let call = call.arg(&partial).arg(&dy).arg(&x).arg(&mean).arg(&rstd);
    // SAFETY: layer_norm_weights_partial_T(partial, dy, x, mean, rstd, rows, n, d).
    unsafe { call.arg(sums.rows).arg(n as u32).arg(d as u32).launch(sums.launch) }?;
    let call = gpu.exact_kernel("layer_norm_weights_finish")?;
    // SAFETY: layer_norm_weights_finish(dw, db, partial, parts, d).
    unsafe {
        call.arg(&gw)
            .arg(&gb)
            .arg(&partial)
            .arg(sums.parts)
            .arg(d as u32)
            .launch(launch::columns(d))
    }
}

/// Rows and width; the weights must have that width.
fn rows(x_nd: &Tensor, w_d: &Tensor) -> Result<(usize, usize)> {
    match x_nd.dims().last() {
        Some(&d) if d > 0 && d == w_d.elem_count() => Ok((x_nd.elem_count() / d, d)),
        _ => Err(failed(
            "layer_norm",
            format!("{:?} with weights {:?}", x_nd.shape(), w_d.shape()),
        )),
    }
}
