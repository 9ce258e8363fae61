//! AdamW over the flat parameters: one pass, torch.optim.AdamW's arithmetic.

use candle_core::{DType, Tensor};

use super::Parameters;
use crate::error::Result;
use crate::ops::adamw::{AdamWStep, Decayed, adamw};
use crate::ops::storage::zeros;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    /// Hugging Face's TrainingArguments.
    fn default() -> Self {
        AdamWConfig {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
        }
    }
}

/// The optimizer and its state: two moments of every value and how many steps were done.
pub struct AdamW {
    pub(super) config: AdamWConfig,
    pub(super) decayed: Decayed,
    /// Running mean of gradients, [n] f32.
    pub first_moments: Tensor,
    /// Running mean of squared gradients, [n] f32.
    pub second_moments: Tensor,
    /// Steps done; part of the state that a checkpoint holds.
    pub steps: u64,
}

impl AdamW {
    pub fn new(parameters: &Parameters, config: AdamWConfig) -> Result<Self> {
        let zeros = || zeros(parameters.count(), DType::F32, parameters.values.device());
        Ok(AdamW {
            config,
            decayed: Decayed::new(
                parameters.decayed_ranges(),
                parameters.count(),
                parameters.values.device(),
            )?,
            first_moments: zeros()?,
            second_moments: zeros()?,
            steps: 0,
        })
    }

    /// Moves all values by one step; the gradients are left as they are.
    pub fn step(&mut self, parameters: &Parameters, learning_rate: f64) -> Result<()> {
        self.steps += 1;
        let AdamWConfig {
            beta1,
            beta2,
            epsilon,
            weight_decay,
        } = self.config;
        adamw(
            &parameters.values,
            &parameters.gradients,
            &self.first_moments,
            &self.second_moments,
            &self.decayed,
            AdamWStep {
                learning_rate,
                beta1,
                beta2,
                epsilon,
                weight_decay,
                step: self.steps,
            },
        )
    }
}
