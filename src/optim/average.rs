//! An exponential moving average of everything that a model learns: timm's ModelEmaV2, torch's get_ema_avg_fn.
//!
//! mean = decay·mean + (1-decay)·values after each step of the optimizer; it begins as the values are at the run's beginning.

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};
use crate::ops::average::{average_into, swap};
use crate::ops::storage::{update, values, zeros};

/// Averages of flat buffers: trained values, and running statistics where a model has them.
pub struct MovingAverage {
    decay: f64,
    /// f32, each as long as what it averages.
    means: Vec<Tensor>,
}

impl MovingAverage {
    /// Of `buffers` as they are now.
    pub fn new(decay: f64, buffers: &[Tensor]) -> Result<MovingAverage> {
        let copy = |buffer: &Tensor| {
            let mean = zeros(buffer.elem_count(), DType::F32, buffer.device())?;
            let now = values(buffer)?;
            update(&mean, |mean| mean.copy_from_slice(&now))?;
            Ok(mean)
        };
        Ok(MovingAverage {
            decay,
            means: buffers.iter().map(copy).collect::<Result<_>>()?,
        })
    }

    /// Takes the buffers in, which are those that it began with; on a GPU not if `apply` [1] is 0 there.
    pub fn update(&self, buffers: &[Tensor], apply: Option<&Tensor>) -> Result<()> {
        self.means
            .iter()
            .zip(buffers)
            .try_for_each(|(mean, buffer)| average_into(mean, buffer, self.decay, apply))
    }

    /// Exchanges averages and buffers; once more, and all is as before.
    pub fn swap(&self, buffers: &[Tensor]) -> Result<()> {
        self.means
            .iter()
            .zip(buffers)
            .try_for_each(|(mean, buffer)| swap(mean, buffer))
    }

    /// In the order of the buffers.
    pub fn means(&self) -> &[Tensor] {
        &self.means
    }

    /// Takes over what a checkpoint holds. Errors: it has no averages, or those of another model.
    pub fn restore(&self, kept: &[&[f32]]) -> Result<()> {
        for (mean, kept) in self.means.iter().zip(kept) {
            if mean.elem_count() != kept.len() {
                return Err(Error::usage(
                    format!(
                        "the checkpoint has an average of {} values, not {}",
                        kept.len(),
                        mean.elem_count()
                    ),
                    "resume from a checkpoint of the same run",
                ));
            }
            update(mean, |mean| mean.copy_from_slice(kept))?;
        }
        Ok(())
    }
}
