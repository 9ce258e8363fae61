//! The training run, from the first optimizer step to the last.
//!
//! An optimizer step is defined by its global batch, whatever number of ranks and micro-batches it is cut into. Each rank
//! adds up the gradients of its own samples' losses, every one divided by the number of samples in the whole step (or the sum of their weights: `objective`), so the
//! sum over micro-batches and ranks is the gradient of the mean. Then all ranks do the same: clip, update, log.
//! How a model computes, how images are read and how files are written is left to others.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Run;
use super::bad_images::BadImages;
use super::checkpoint::LossSums;
use super::evaluate::Evaluator;
use super::health::{self, GradientAudit};
use super::objective::Objective;
use super::stop::StopRequests;
use crate::collective::Collective;
use crate::data::{Loader, Mixing, Plan, Preprocessor};
use crate::error::{Error, Result};
use crate::model::{DropoutNames, Model};
use crate::ops::reduce;
use crate::optim::{AdamW, GradScaler, Gradients, LearningRate, MovingAverage};
use crate::report::{Begun, EventFile, Now, Outcome, Progress, Stage, Stages, TrainerState};

/// A run between two optimizer steps.
pub struct Trainer<'a> {
    pub(super) run: &'a Run,
    pub(super) collective: &'a dyn Collective,
    pub(super) model: Model,
    pub(super) preprocessor: Preprocessor,
    pub(super) classes: Vec<String>,
    pub(super) optimizer: AdamW,
    /// Only fp16 needs one.
    pub(super) scaler: Option<GradScaler>,
    /// None: what is trained is also evaluated and saved.
    pub(super) average: Option<MovingAverage>,
    pub(super) plan: Plan,
    pub(super) objective: Objective,
    pub(super) mixing: Option<Mixing>,
    pub(super) rate: LearningRate,
    pub(super) loader: Loader,
    pub(super) evaluator: Option<Evaluator>,
    pub(super) audit: GradientAudit,
    pub(super) stop: StopRequests,
    pub(super) state: TrainerState,
    pub(super) losses: LossSums,
    /// By step, what was measured last and what is the best so far.
    pub(super) outcomes: BTreeMap<u64, Vec<Outcome>>,
    pub(super) bad_images: BadImages,
    pub(super) progress: Progress,
    /// For TensorBoard; None: not wanted, or not this rank's task, or it could not be written.
    pub(super) events: Option<EventFile>,
    pub(super) stages: Stages,
    pub(super) begun: Instant,
    /// Of the last gradient that was a number.
    pub(super) norm: f64,
    /// Spent before the checkpoint that the run was resumed from.
    pub(super) seconds_before: f64,
}

/// What a step did.
pub(super) struct Done {
    pub(super) learning_rate: f64,
    /// Mean over the step's samples, and the gradient's norm before clipping (of the last step that had one, if this one
    /// overflowed); None if no image could be read.
    pub(super) result: Option<(f64, f64)>,
    images: usize,
    /// Some rank was asked to stop.
    stop: bool,
}

impl<'a> Trainer<'a> {
    /// All steps that are left, or as many as bring progress. Errors: [`Error::Stopped`] after a signal, once a checkpoint is written.
    pub fn train(&mut self) -> Result<()> {
        while self.state.global_step < self.run.total_steps && !self.is_out_of_patience() {
            let step = self.state.global_step;
            let done = self.step().map_err(|error| error.at_step(step))?;
            self.record(&done);
            let step = self.state.global_step;
            if self.run.logs_at(step) {
                self.log(&done);
            }
            if self.evaluator.is_some() && self.run.evaluates_at(step) {
                let entry = self.evaluate()?;
                self.consider_best(&entry);
            }
            if self.run.saves_at(step) || done.stop {
                self.save()?;
            }
            if done.stop && step < self.run.total_steps && !self.is_out_of_patience() {
                // The first rank to leave ends the others, and rank 0 may still be writing.
                self.collective.barrier()?;
                return Err(self.stopped());
            }
        }
        Ok(())
    }

    /// One optimizer step.
    fn step(&mut self) -> Result<Done> {
        let step = self.state.global_step;
        let recipe = &self.run.recipe;
        let planned = self.plan.places(step).len();
        let divisor = self.objective.divisor(&self.plan, step);
        let (mut loss, mut share, mut images) = (0.0, 0.0, 0);
        for _ in 0..self.plan.micro_batches(step) {
            let batch = self.stages.time(Stage::WaitForData, || self.loader.next())?;
            let mut batch = batch.expect("the loader has the plan's micro-batches");
            if let Some(mixing) = &self.mixing {
                batch = mixing.apply(batch, recipe.seed, &self.run.device)?;
            }
            if batch.samples.is_empty() && !self.model.needs_all_ranks() {
                continue;
            }
            let wants =
                |pass: &str, error: Error| error.wanted_by(|| format!("the {pass} of {} images", batch.samples.len()));
            let dropout = DropoutNames {
                seed: recipe.seed,
                epoch: batch.epoch,
                samples: &batch.samples,
            };
            let logits_bc = self
                .stages
                .time(Stage::Forward, || {
                    let pixels_bchw = batch.pixels_on(&self.run.device)?;
                    self.model.forward(&pixels_bchw, Some(&dropout))
                })
                .map_err(|error| wants("forward pass", error))?;
            let scale = self.loss_scale() / divisor;
            let entropy = self.objective.losses(&logits_bc, &batch, scale)?;
            health::finite_loss(entropy.sum_loss, step, self.collective, &batch.samples)?;
            self.stages
                .time(Stage::Backward, || self.model.backward(&entropy.dlogits_bc))
                .map_err(|error| wants("backward pass", error))?;
            loss += entropy.sum_loss;
            share += self.objective.share(&batch.labels);
            images += batch.samples.len();
        }

        let parameters = self.model.parameters();
        let stop = self.stop.latest().is_some();
        let mut sums = [loss, share, images as f64, f64::from(u8::from(stop))];
        self.stages.time(Stage::AllReduce, || -> Result<()> {
            self.collective.sum_tensor(&parameters.gradients)?;
            self.collective.sum_f64(&mut sums)
        })?;
        let [loss, share, images, stop] = sums;
        let learning_rate = self.rate.at(step - self.scaler.map_or(0, |scaler| scaler.skipped()));
        let mut done = Done {
            learning_rate,
            result: None,
            images: images as usize,
            stop: stop > 0.0,
        };
        if done.images < planned {
            self.bad_images
                .tell(self.collective, "training", &self.loader.bad_images())?;
        }
        if done.images > 0 {
            let begun = Begun::now();
            if done.images < planned {
                reduce::scale(&parameters.gradients, (divisor / share) as f32)?;
            }
            let norm = parameters.unscale_and_clip_gradients(self.loss_scale(), recipe.max_grad_norm)?;
            if self.counts(norm)? {
                let parameters = self.model.parameters();
                if !self.audit.is_done() {
                    self.audit.look(parameters, step)?;
                }
                self.optimizer.step(parameters, learning_rate)?;
                self.update_average()?;
                self.norm = norm;
            }
            self.model.parameters().zero_gradients()?;
            self.stages.book(Stage::Optimizer, begun);
            done.result = Some((loss / share, self.norm));
        }
        Ok(done)
    }

    /// What the loss is multiplied by.
    fn loss_scale(&self) -> f64 {
        self.scaler.map_or(1.0, |scaler| scaler.scale().into())
    }

    /// Is the step done, given the norm of its gradient? In fp16 one that overflowed is skipped, on all ranks, because they
    /// hold the same sums; otherwise that is an error.
    fn counts(&mut self, norm: f64) -> Result<bool> {
        let step = self.state.global_step;
        let Some(scaler) = &mut self.scaler else {
            return health::finite_norm(norm, step).map(|()| true);
        };
        let gradients = match norm.is_finite() {
            true => Gradients::Finite,
            false => Gradients::Overflowed,
        };
        scaler.update(gradients);
        if gradients == Gradients::Overflowed {
            if scaler.has_collapsed() {
                return health::finite_norm(norm, step).map(|()| true);
            }
            self.progress.say(&format!(
                "step {} was skipped, its gradients overflowed fp16; the loss scale is now {}",
                step + 1,
                scaler.scale()
            ));
        }
        Ok(gradients == Gradients::Finite)
    }

    fn record(&mut self, done: &Done) {
        self.state.global_step += 1;
        self.state.epoch = self.plan.epochs_after(self.state.global_step);
        if let Some((loss, _)) = done.result {
            self.losses.since_log += loss;
            self.losses.steps_since_log += 1;
            self.losses.whole += loss;
            self.losses.steps += 1;
        }
        self.progress.step(Now {
            step: self.state.global_step,
            epoch: self.state.epoch,
            loss: done.result.map(|(loss, _)| loss),
            learning_rate: done.learning_rate,
            images: done.images,
        });
        self.tell_bad_images();
    }

    /// Is there anything to evaluate on?
    pub(super) fn has_evaluator(&self) -> bool {
        self.evaluator.is_some()
    }

    /// Time spent on the run so far, over all its resumptions.
    pub(super) fn seconds(&self) -> f64 {
        self.seconds_before + self.begun.elapsed().as_secs_f64()
    }

    /// Samples trained on in `global_step` steps.
    pub(super) fn samples_seen(&self) -> usize {
        let whole_epochs = (self.state.global_step / self.plan.steps_per_epoch()) as usize;
        let begun = (self.state.global_step % self.plan.steps_per_epoch()) as usize * self.plan.global_batch();
        whole_epochs * self.plan.samples + begun
    }

    pub(super) fn tell_bad_images(&mut self) {
        for line in self.bad_images.take() {
            self.progress.say(&line);
        }
    }
}
