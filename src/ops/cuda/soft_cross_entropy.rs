//! The CUDA side of the cross-entropy against weighted and mixed targets (kernels/soft_cross_entropy.cu).

use candle_core::{DType, Tensor};

use super::memory::{contiguous, uploaded};
use super::{Gpu, NULL, Output};
use crate::error::Result;
use crate::ops::launch;
use crate::ops::soft_cross_entropy::Targets;

/// Losses of all rows [b] f32, and the gradient of scale·loss_scale·Σ losses; the loss scale is [1] f32 on the GPU.
pub fn soft_cross_entropy(
    logits_bc: &Tensor,
    targets: &Targets,
    scale: f64,
    loss_scale: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    let gpu = Gpu::of(logits_bc.device())?;
    let (b, c) = logits_bc.dims2()?;
    let logits = contiguous(logits_bc)?;
    let loss_scale = loss_scale.map(contiguous).transpose()?;
    let labels = uploaded(&gpu, targets.labels, DType::U32)?;
    let mixed = match targets.mixed {
        Some(mixed) => Some((
            uploaded(&gpu, mixed.second_labels, DType::U32)?,
            uploaded(&gpu, mixed.shares, DType::F32)?,
        )),
        None => None,
    };
    let weights = match targets.weights {
        Some(weights) => Some(uploaded(&gpu, weights, DType::F32)?),
        None => None,
    };
    let address = |output: Option<&Output>| output.map_or(NULL, Output::address);
    let losses = Output::new(&gpu, b, DType::F32)?;
    let dlogits = Output::new(&gpu, b * c, logits.dtype)?;
    let call = gpu
        .kernel("soft_cross_entropy", logits.dtype)?
        .arg(&losses)
        .arg(&dlogits)
        .arg(&logits)
        .arg(&labels)
        .arg(address(mixed.as_ref().map(|(second, _)| second)))
        .arg(address(mixed.as_ref().map(|(_, shares)| shares)))
        .arg(address(weights.as_ref()))
        .arg(c as u32)
        .arg(c as u32)
        .arg(targets.smoothing as f32)
        .arg(scale as f32)
        .arg(loss_scale.as_ref());
    // SAFETY: soft_cross_entropy_T(losses, dlogits, logits, labels, second, shares, weights, c, stride, smoothing, scale,
    // loss_scale), which may be null; lengths are checked by ops::soft_cross_entropy.
    unsafe { call.launch(launch::cross_entropy(b)) }?;
    Ok((losses.into_tensor(b), dlogits.into_tensor((b, c))))
}
