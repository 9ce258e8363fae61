//! What decides about an optimizer step, kept where the gradients are, on a GPU: no step waits for the host.
//!
//! A CPU needs none of it: there the host itself has all numbers at once.

use candle_core::{Device, Tensor};

use crate::error::Result;
#[cfg(feature = "cuda")]
pub use crate::ops::cuda::step_state::{Reading, StepState};
#[cfg(not(feature = "cuda"))]
pub use nowhere::{Reading, StepState};

/// Everything that is the same for all steps, and where the run stands.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The learning rate of every step, by steps that were not skipped.
    pub rates: Vec<f64>,
    /// 0: no clipping.
    pub max_norm: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
    /// Factor and backoff of the loss scale, and after how many clean steps it grows; 0: never.
    pub growth: (f64, f64, u32),
    /// 1 if losses are not scaled.
    pub loss_scale: f32,
    pub clean_steps: u32,
    pub skipped: u64,
    /// Updates done.
    pub updates: u64,
    /// Of a step, at most.
    pub micro_batches: usize,
}

/// What an update reads and writes, all [n].
pub struct Update<'a> {
    pub values: &'a Tensor,
    pub gradients: &'a Tensor,
    pub first_moments: &'a Tensor,
    pub second_moments: &'a Tensor,
    /// A bit for each value.
    pub decayed: &'a Tensor,
    /// Where the new values are written once more, rounded; None: nobody wants them.
    pub rounded: Option<&'a Tensor>,
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// Of the step after it.
    pub loss_scale: f32,
    /// Before clipping.
    pub norm: f64,
    /// Some gradient is no number, and nothing was moved.
    pub is_skipped: bool,
    pub learning_rate: f64,
    /// Σ of each micro-batch.
    pub losses: Vec<f64>,
}

/// None on a CPU.
pub fn step_state(setup: impl FnOnce() -> Setup, device: &Device) -> Result<Option<StepState>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => Ok(Some(StepState::new(setup(), device)?)),
        _ => {
            drop(setup);
            Ok(None)
        }
    }
}

/// What a program without GPU support has in their place.
#[cfg(not(feature = "cuda"))]
mod nowhere {
    use super::*;
    use crate::ops::soft_cross_entropy::Factors;

    pub enum StepState {}
    pub enum Reading {}

    impl StepState {
        pub fn factors(&mut self, _per_sample: f32) -> Result<Factors> {
            match *self {}
        }

        pub fn applied(&self) -> Result<Tensor> {
            match *self {}
        }

        pub fn note_losses(&self, _losses_b: &Tensor) -> Result<()> {
            match *self {}
        }

        pub fn judge(&self, _gradients: &Tensor, _step: u64) -> Result<()> {
            match *self {}
        }

        pub fn update(&self, _buffers: &Update) -> Result<()> {
            match *self {}
        }

        pub fn begin_reading(&mut self, _micro_batches: usize) -> Result<Reading> {
            match *self {}
        }

        pub fn has_arrived(&self, _reading: &Reading) -> Result<bool> {
            match *self {}
        }

        pub fn read(&self, _reading: Reading) -> Read {
            match *self {}
        }
    }
}
