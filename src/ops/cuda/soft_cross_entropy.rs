//! The CUDA side of the cross-entropy against weighted and mixed targets (kernels/soft_cross_entropy.cu).

use candle_core::{DType, Tensor};

use super::memory::{contiguous, download, uploaded};
use super::{Gpu, NULL, Output};
use crate::error::Result;
use crate::ops::launch;
use crate::ops::soft_cross_entropy::Targets;

/// Losses of all rows, and the gradient of scale·Σ losses. SYNC: the trainer looks at the loss.
pub fn soft_cross_entropy(logits_bc: &Tensor, targets: &Targets, scale: f64) -> Result<(Vec<f32>, Tensor)> {
    let gpu = Gpu::of(logits_bc.device())?;
    let (b, c) = logits_bc.dims2()?;
    let logits = contiguous(logits_bc)?;
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
        .arg(NULL);
    // SAFETY: soft_cross_entropy_T(losses, dlogits, logits, labels, second, shares, weights, c, stride, smoothing, scale,
    // loss_scale), without a scale on the device; lengths are checked by ops::soft_cross_entropy.
    unsafe { call.launch(launch::cross_entropy(b)) }?;
    Ok((download(&gpu, losses.address(), b, 0f32)?, dlogits.into_tensor((b, c))))
}
