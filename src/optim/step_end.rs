//! The end of an optimizer step: the summed gradients are judged, clipped, and move the values.
//!
//! On a CPU all of it is known at once. On a GPU norm, overflow, loss scale, learning rate and counts stay where the
//! gradients are: the host asks for an update without knowing whether it will be done, and reads the verdict later, when
//! the next step is under way. Optimizer and scaler here follow what was read; they are what checkpoints hold.

use candle_core::Tensor;

use super::scaler::{BACKOFF, CLEAN_STEPS_TO_GROW, GROWTH};
use super::{AdamW, AdamWConfig, GradScaler, Gradients, LearningRate, Parameters};
use crate::error::Result;
use crate::ops::reduce;
use crate::ops::soft_cross_entropy::Factors;
use crate::ops::step_state::{Reading, Setup, StepState, Update, step_state};

pub struct StepEnd {
    pub optimizer: AdamW,
    /// Only fp16 needs one.
    pub scaler: Option<GradScaler>,
    rate: LearningRate,
    /// 0: no clipping.
    max_norm: f64,
    on_gpu: Option<StepState>,
}

/// What became of a step's gradients.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Before clipping, and without the loss scale.
    pub norm: f64,
    /// Overflowed ones moved nothing.
    pub gradients: Gradients,
    pub learning_rate: f64,
    /// Sums of the micro-batches' losses that were noted on the GPU.
    pub losses: Vec<f64>,
}

/// A judgement, or where it is going to be read.
pub enum Verdict {
    Known(Judgement),
    OnGpu(Reading),
}

impl StepEnd {
    /// A step has at most so many micro-batches.
    pub fn new(
        parameters: &Parameters,
        optimizer: AdamW,
        scaler: Option<GradScaler>,
        rate: LearningRate,
        max_norm: f64,
        micro_batches: usize,
    ) -> Result<StepEnd> {
        let AdamWConfig {
            beta1,
            beta2,
            epsilon,
            weight_decay,
        } = optimizer.config;
        let setup = || Setup {
            rates: (0..rate.total_steps.max(1)).map(|step| rate.at(step)).collect(),
            max_norm,
            beta1,
            beta2,
            epsilon,
            weight_decay,
            growth: (GROWTH.into(), BACKOFF.into(), scaler.map_or(0, |_| CLEAN_STEPS_TO_GROW)),
            loss_scale: scaler.map_or(1.0, |scaler| scaler.scale()),
            clean_steps: scaler.map_or(0, |scaler| scaler.clean_steps()),
            skipped: scaler.map_or(0, |scaler| scaler.skipped()),
            updates: optimizer.steps,
            micro_batches,
        };
        Ok(StepEnd {
            on_gpu: step_state(setup, parameters.values.device())?,
            optimizer,
            scaler,
            rate,
            max_norm,
        })
    }

    /// On a GPU: what the next micro-batches' gradients are multiplied by, there.
    pub fn factors(&mut self, per_sample: f64) -> Result<Option<Factors>> {
        let factors = |state: &mut StepState| state.factors(per_sample as f32);
        self.on_gpu.as_mut().map(factors).transpose()
    }

    /// On a GPU: 0 there if the step that was judged last was skipped.
    pub fn applied(&self) -> Result<Option<Tensor>> {
        self.on_gpu.as_ref().map(StepState::applied).transpose()
    }

    /// On a GPU: takes the losses of a micro-batch, which the verdict will tell.
    pub fn note_losses(&self, losses_b: &Tensor) -> Result<()> {
        self.on_gpu.as_ref().map_or(Ok(()), |state| state.note_losses(losses_b))
    }

    /// Judges the gradients of step `step`; those of a CPU are clipped. The step noted the losses of `micro_batches`.
    pub fn judge(&mut self, parameters: &Parameters, step: u64, micro_batches: usize) -> Result<Verdict> {
        if let Some(state) = &mut self.on_gpu {
            state.judge(&parameters.gradients, step)?;
            return Ok(Verdict::OnGpu(state.begin_reading(micro_batches)?));
        }
        let norm = parameters.unscale_and_clip_gradients(1.0, self.max_norm)?;
        Ok(Verdict::Known(Judgement {
            norm,
            gradients: match norm.is_finite() {
                true => Gradients::Finite,
                false => Gradients::Overflowed,
            },
            learning_rate: self.learning_rate(step),
            losses: Vec::new(),
        }))
    }

    /// Of step `step`, as far as is known which steps were skipped.
    pub fn learning_rate(&self, step: u64) -> f64 {
        self.rate.at(step - self.scaler.map_or(0, |scaler| scaler.skipped()))
    }

    /// Is it there? Never waits.
    pub fn is_known(&self, verdict: &Verdict) -> Result<bool> {
        match (verdict, &self.on_gpu) {
            (Verdict::OnGpu(reading), Some(state)) => state.has_arrived(reading),
            _ => Ok(true),
        }
    }

    /// The judgement, once it is known; optimizer and scaler take note of it.
    pub fn read(&mut self, verdict: Verdict) -> Judgement {
        let (reading, state) = match (verdict, &self.on_gpu) {
            (Verdict::Known(judgement), _) => return judgement,
            (Verdict::OnGpu(reading), Some(state)) => (reading, state),
            (Verdict::OnGpu(_), None) => unreachable!("only a GPU's verdict is read"),
        };
        let read = state.read(reading);
        let gradients = match read.is_skipped {
            true => Gradients::Overflowed,
            false => Gradients::Finite,
        };
        if gradients == Gradients::Finite {
            self.optimizer.steps += 1;
        }
        if let Some(scaler) = &mut self.scaler {
            scaler.update(gradients);
            debug_assert_eq!(scaler.scale(), read.loss_scale);
        }
        Judgement {
            norm: read.norm,
            gradients,
            learning_rate: read.learning_rate,
            losses: read.losses,
        }
    }

    /// Moves the values unless the gradients were judged to have overflowed, on a GPU the rounded ones, too; sets the gradients
    /// to 0.
    pub fn update(&mut self, parameters: &Parameters, verdict: &Verdict) -> Result<()> {
        match (&self.on_gpu, verdict) {
            (Some(state), _) => state.update(&Update {
                values: &parameters.values,
                gradients: &parameters.gradients,
                first_moments: &self.optimizer.first_moments,
                second_moments: &self.optimizer.second_moments,
                decayed: self.optimizer.decayed.bits().expect("a GPU's parameters have them"),
                rounded: parameters.rounded.as_ref(),
            })?,
            (None, Verdict::Known(judgement)) if judgement.gradients == Gradients::Finite => {
                self.optimizer.step(parameters, judgement.learning_rate)?
            }
            _ => {}
        }
        reduce::set_zero(&parameters.gradients)
    }
}
