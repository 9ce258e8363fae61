//! The CUDA side of ops::dropout (kernels/dropout.cu).

use std::sync::{Arc, MutexGuard};

use candle_core::{DType, Device, Tensor};

use super::memory::{Operand, contiguous, operand, upload, uploaded, zeros};
use super::{Gpu, Output, failed};
use crate::error::Result;
use crate::ops::dropout::{Dropout, DropoutNames};
use crate::ops::launch;
use crate::rng::Purpose;

pub fn dropout(x_bsd: &Tensor, dropout: Dropout, names: &DropoutNames) -> Result<Tensor> {
    let gpu = Gpu::of(x_bsd.device())?;
    let x = operand(x_bsd)?;
    let (b, s, d) = x_bsd.dims3()?;
    let y = Output::new(&gpu, b * s * d, x.dtype)?;
    mask("dropout", &gpu, y.address(), x.address(), x_bsd, &x, dropout, names)?;
    Ok(y.into_tensor((b, s, d)))
}

pub fn add_dropped(dx_bsd: &Tensor, dy_bsd: &Tensor, dropout: Dropout, names: &DropoutNames) -> Result<()> {
    let gpu = Gpu::of(dx_bsd.device())?;
    let (dx, dy) = (operand(dx_bsd)?, contiguous(dy_bsd)?);
    if dy_bsd.elem_count() != dx_bsd.elem_count() || dy.dtype != dx.dtype {
        return Err(failed(
            "add_dropped",
            format!("{:?} to {:?}", dy_bsd.shape(), dx_bsd.shape()),
        ));
    }
    mask(
        "add_dropped",
        &gpu,
        dx.address(),
        dy.address(),
        dx_bsd,
        &dx,
        dropout,
        names,
    )
}

/// Calls either kernel; `apart` is the operand whose images may lie apart.
#[allow(clippy::too_many_arguments)]
fn mask(
    kernel: &str,
    gpu: &Gpu,
    to: u64,
    from: u64,
    apart: &Tensor,
    apart_at: &Operand,
    dropout: Dropout,
    names: &DropoutNames,
) -> Result<()> {
    let (b, s, d) = apart.dims3()?;
    let dense = apart.stride()[2] == 1 && (s == 1 || apart.stride()[1] == d);
    if names.samples.len() != b || !dense {
        return Err(failed(
            kernel,
            format!("{:?} for {} samples", apart.layout(), names.samples.len()),
        ));
    }
    let (block, stride) = (s * d, if b == 1 { s * d } else { apart.stride()[0] });
    let there = gpu.dropout_names(names)?;
    let (threshold, keep) = (dropout.threshold(), dropout.keep());
    let call = gpu
        .kernel(kernel, apart_at.dtype)?
        .arg(to)
        .arg(from)
        .args(there.samples_and_epoch()?);
    let call = call.arg(names.seed).arg(Purpose::Dropout(dropout.module).code());
    let call = call.arg(threshold).arg(keep).arg(block as u64).arg(stride as u64);
    // SAFETY: dropout_T(y, x, …) or add_dropped_T(dx, dy, …), both (…, samples, epoch, seed, purpose, threshold, keep,
    // block, stride), on b images.
    unsafe { call.launch(launch::dropout(b, block)) }
}

impl Dropout {
    /// 16 random bits below it drop a value.
    pub(super) fn threshold(self) -> u32 {
        (self.probability * 65536.0).round() as u32
    }

    /// What the others are multiplied by.
    pub(super) fn keep(self) -> f32 {
        (1.0 / (1.0 - self.probability)) as f32
    }
}

/// Names of a micro-batch's masks on the device.
#[derive(Clone)]
pub(super) struct NamesThere {
    /// The epoch, then the samples; eight bytes each, there is no dtype of 64 unsigned bits.
    words: Tensor,
}

impl NamesThere {
    /// Addresses, as kernels take them.
    pub(super) fn samples_and_epoch(&self) -> Result<[u64; 2]> {
        let epoch = operand(&self.words)?.address();
        Ok([epoch + 8, epoch])
    }
}

/// Names in memory that stays, for work that is recorded.
pub(super) struct FixedNames {
    device: Device,
    there: NamesThere,
}

/// As long as it lives, ops find some names in fixed memory.
pub(super) struct Standing(Arc<Gpu>);

impl FixedNames {
    pub(super) fn new(device: &Device, samples: usize) -> Result<FixedNames> {
        Ok(FixedNames {
            device: device.clone(),
            there: NamesThere {
                words: zeros(8 * (samples + 1), DType::U8, device)?,
            },
        })
    }

    pub(super) fn fill(&self, names: &DropoutNames) -> Result<()> {
        let bytes = bytes_of(names);
        if bytes.len() != self.there.words.elem_count() {
            return Err(failed("names of another number of samples", names.samples.len()));
        }
        upload(&*Gpu::of(&self.device)?, operand(&self.there.words)?.address(), &bytes)
    }

    /// Ops that are asked for `names` read them here.
    pub(super) fn stand_for(&self, names: &DropoutNames) -> Result<Standing> {
        let gpu = Gpu::of(&self.device)?;
        *lock(&gpu) = Some(LastNames {
            samples: names.samples.to_vec(),
            epoch: names.epoch,
            there: self.there.clone(),
        });
        Ok(Standing(gpu))
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        *lock(&self.0) = None;
    }
}

impl Gpu {
    /// The names on the device; uploaded once for all layers of a micro-batch.
    pub(super) fn dropout_names(&self, names: &DropoutNames) -> Result<NamesThere> {
        let mut last = lock(self);
        if let Some(last) = last.as_ref().filter(|last| last.are(names)) {
            return Ok(last.there.clone());
        }
        let bytes = bytes_of(names);
        let there = NamesThere {
            words: uploaded(self, &bytes, DType::U8)?.into_tensor(bytes.len()),
        };
        *last = Some(LastNames {
            samples: names.samples.to_vec(),
            epoch: names.epoch,
            there: there.clone(),
        });
        Ok(there)
    }
}

/// What was uploaded last.
pub(super) struct LastNames {
    samples: Vec<u64>,
    epoch: u32,
    there: NamesThere,
}

impl LastNames {
    fn are(&self, names: &DropoutNames) -> bool {
        self.samples == names.samples && self.epoch == names.epoch
    }
}

fn lock(gpu: &Gpu) -> MutexGuard<'_, Option<LastNames>> {
    gpu.names.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn bytes_of(names: &DropoutNames) -> Vec<u8> {
    let words = std::iter::once(u64::from(names.epoch)).chain(names.samples.iter().copied());
    words.flat_map(u64::to_le_bytes).collect()
}
