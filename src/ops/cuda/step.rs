//! The CUDA sides of a step's end and of its loss: norm, column sums, AdamW, cross-entropy (kernels/adamw.cu,
//! column_sums.cu, cross_entropy.cu).

use candle_core::{DType, Tensor};

use super::memory::{contiguous, download, uploaded};
use super::{Gpu, NULL, Output, failed};
use crate::error::Result;
use crate::ops::launch::{self, RowSums};
use crate::ops::soft_cross_entropy::{Factors, TargetsThere};

/// Σ x² in f64, infinite or NaN if some x is. SYNC: for benchmarks and tests; a run's steps have `step_state`.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    let gpu = Gpu::of(x.device())?;
    let at = contiguous(x)?;
    let n = x.elem_count();
    let launch = launch::gradient_norm(n);
    let parts = launch.grid[0] as usize;
    let squares = Output::new(&gpu, parts, DType::F64)?;
    let strange = Output::new(&gpu, parts, DType::U32)?;
    if at.dtype != DType::F32 {
        return Err(failed("sum_of_squares", format!("of {:?}", at.dtype)));
    }
    let call = gpu.exact_kernel("sum_of_squares_partial")?;
    // SAFETY: sum_of_squares_partial(squares, strange, g, n) of f32.
    unsafe { call.arg(&squares).arg(&strange).arg(&at).arg(n as u64).launch(launch) }?;
    Ok(download(&gpu, squares.address(), parts, 0f64)?.iter().sum())
}

pub fn add_column_sums(sums_d: &Tensor, x_nd: &Tensor) -> Result<()> {
    let gpu = Gpu::of(x_nd.device())?;
    let (sums, x) = (contiguous(sums_d)?, contiguous(x_nd)?);
    let d = sums_d.elem_count();
    let n = x_nd.elem_count() / d.max(1);
    let shape = RowSums::new(n, d);
    let partial = Output::new(&gpu, shape.parts as usize * d, DType::F32)?;
    let call = gpu.kernel("column_sums_partial", x.dtype)?.arg(&partial).arg(&x);
    // SAFETY: column_sums_partial_T(partial, x, rows, n, d).
    unsafe { call.arg(shape.rows).arg(n as u32).arg(d as u32).launch(shape.launch) }?;
    let call = gpu.exact_kernel("column_sums_finish")?.arg(&sums).arg(&partial);
    // SAFETY: column_sums_finish(sums, partial, parts, d).
    unsafe { call.arg(shape.parts).arg(d as u32).launch(launch::columns(d)) }
}

/// `constants` as kernels/adamw.cu lists them; `decayed` a bit for every value.
pub fn adamw(buffers: [&Tensor; 4], decayed: &Tensor, constants: [f32; 9], epsilon: f32) -> Result<()> {
    let [values, gradients, first, second] = buffers;
    let gpu = Gpu::of(values.device())?;
    let n = values.elem_count();
    let (p, g, m, v) = (
        contiguous(values)?,
        contiguous(gradients)?,
        contiguous(first)?,
        contiguous(second)?,
    );
    let bits = contiguous(decayed)?;
    let constants = uploaded(&gpu, &constants, DType::F32)?;
    let call = gpu
        .kernel("adamw", DType::F32)?
        .arg(&p)
        .arg(&m)
        .arg(&v)
        .arg(NULL)
        .arg(&g)
        .arg(&bits);
    // SAFETY: adamw_T(p, m, v, copy, g, decayed, constants, epsilon, n), without a copy; lengths are checked by ops::adamw.
    unsafe {
        call.arg(&constants)
            .arg(epsilon)
            .arg(n as u64)
            .launch(launch::eights(n))
    }
}

/// Losses of all rows [b] f32, and the gradient of scale·Σ losses.
pub fn cross_entropy(logits_bc: &Tensor, labels: &[u32], smoothing: f64, scale: f64) -> Result<(Tensor, Tensor)> {
    let labels = uploaded(&*Gpu::of(logits_bc.device())?, labels, DType::U32)?;
    rows(logits_bc, labels.address(), smoothing, scale, [NULL; 2])
}

/// The same of labels and factors that lie on the GPU.
pub fn cross_entropy_there(logits_bc: &Tensor, targets: &TargetsThere, factors: &Factors) -> Result<(Tensor, Tensor)> {
    let labels = contiguous(&targets.labels_b)?;
    let (per_sample, loss_scale) = (contiguous(&factors.per_sample)?, contiguous(&factors.loss_scale)?);
    let there = [per_sample.address(), loss_scale.address()];
    rows(logits_bc, labels.address(), targets.smoothing, 1.0, there)
}

fn rows(logits_bc: &Tensor, labels: u64, smoothing: f64, scale: f64, factors: [u64; 2]) -> Result<(Tensor, Tensor)> {
    let gpu = Gpu::of(logits_bc.device())?;
    let (b, c) = logits_bc.dims2()?;
    let logits = contiguous(logits_bc)?;
    let losses = Output::new(&gpu, b, DType::F32)?;
    let dlogits = Output::new(&gpu, b * c, logits.dtype)?;
    let call = gpu
        .kernel("cross_entropy", logits.dtype)?
        .arg(&losses)
        .arg(NULL)
        .arg(&dlogits)
        .arg(&logits)
        .arg(labels)
        .arg(c as u32)
        .arg(c as u32)
        .arg(smoothing as f32)
        .arg(scale as f32)
        .args(factors);
    // SAFETY: cross_entropy_T(losses, predicted, dlogits, logits, labels, c, stride, smoothing, scale, per_sample, loss_scale),
    // without predictions; the factors may be null.
    unsafe { call.launch(launch::cross_entropy(b)) }?;
    Ok((losses.into_tensor(b), dlogits.into_tensor((b, c))))
}
