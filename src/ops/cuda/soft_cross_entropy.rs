//! The CUDA side of the cross-entropy against weighted and mixed targets (kernels/soft_cross_entropy.cu).

use candle_core::{DType, Tensor};

use super::memory::{Operand, contiguous, uploaded};
use super::{Gpu, NULL, Output};
use crate::error::Result;
use crate::ops::launch;
use crate::ops::soft_cross_entropy::{Factors, MixedThere, Targets, TargetsThere};

/// Losses of all rows [b] f32, and the gradient of scale·Σ losses.
pub fn soft_cross_entropy(logits_bc: &Tensor, targets: &Targets, scale: f64) -> Result<(Tensor, Tensor)> {
    let gpu = Gpu::of(logits_bc.device())?;
    let words =
        |values: &[u32]| -> Result<Tensor> { Ok(uploaded(&gpu, values, DType::U32)?.into_tensor(values.len())) };
    let floats =
        |values: &[f32]| -> Result<Tensor> { Ok(uploaded(&gpu, values, DType::F32)?.into_tensor(values.len())) };
    let there = TargetsThere {
        labels_b: words(targets.labels)?,
        mixed: match targets.mixed {
            Some(mixed) => Some(MixedThere {
                second_labels_b: words(mixed.second_labels)?,
                shares_b: floats(mixed.shares)?,
            }),
            None => None,
        },
        weights_c: targets.weights.map(floats).transpose()?,
        smoothing: targets.smoothing,
    };
    rows(logits_bc, &there, scale, [NULL; 2])
}

/// The same of targets and factors that lie on the GPU.
pub fn soft_cross_entropy_there(
    logits_bc: &Tensor,
    targets: &TargetsThere,
    factors: &Factors,
) -> Result<(Tensor, Tensor)> {
    let (per_sample, loss_scale) = (contiguous(&factors.per_sample)?, contiguous(&factors.loss_scale)?);
    rows(logits_bc, targets, 1.0, [per_sample.address(), loss_scale.address()])
}

fn rows(logits_bc: &Tensor, targets: &TargetsThere, scale: f64, factors: [u64; 2]) -> Result<(Tensor, Tensor)> {
    let gpu = Gpu::of(logits_bc.device())?;
    let (b, c) = logits_bc.dims2()?;
    let (logits, labels) = (contiguous(logits_bc)?, contiguous(&targets.labels_b)?);
    let mixed = targets.mixed.as_ref();
    let operand = |tensor: Option<&'_ Tensor>| -> Result<u64> {
        Ok(tensor
            .map(contiguous)
            .transpose()?
            .as_ref()
            .map_or(NULL, Operand::address))
    };
    let losses = Output::new(&gpu, b, DType::F32)?;
    let dlogits = Output::new(&gpu, b * c, logits.dtype)?;
    let call = gpu
        .kernel("soft_cross_entropy", logits.dtype)?
        .arg(&losses)
        .arg(&dlogits)
        .arg(&logits)
        .arg(&labels)
        .arg(operand(mixed.map(|mixed| &mixed.second_labels_b))?)
        .arg(operand(mixed.map(|mixed| &mixed.shares_b))?)
        .arg(operand(targets.weights_c.as_ref())?)
        .arg(c as u32)
        .arg(c as u32)
        .arg(targets.smoothing as f32)
        .arg(scale as f32)
        .args(factors);
    // SAFETY: soft_cross_entropy_T(losses, dlogits, logits, labels, second, shares, weights, c, stride, smoothing, scale,
    // per_sample, loss_scale), of which second to weights and the factors may be null; lengths are checked by
    // ops::soft_cross_entropy.
    unsafe { call.launch(launch::cross_entropy(b)) }?;
    Ok((losses.into_tensor(b), dlogits.into_tensor((b, c))))
}
