//! The training run, from the first optimizer step to the last.
//!
//! An optimizer step is defined by its global batch, whatever number of ranks and micro-batches it is cut into. Each rank
//! adds up the gradients of its own samples' losses, every one divided by the number of samples in the whole step (or the
//! sum of their weights: `objective`), so the sum over micro-batches and ranks is the gradient of the mean. Then all ranks
//! do the same: clip, update, log.
//! How a model computes, how images are read and how files are written is left to others.
//!
//! A step is asked for, then settled: what came of it is read, recorded and logged. On a GPU a step is settled while the next
//! one is computed, unless something depends on it: then nothing in a step waits for the host, nor the host for a step.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::Run;
use super::bad_images::BadImages;
use super::checkpoint::LossSums;
use super::evaluate::Evaluator;
use super::gradient_sum::GradientSum;
use super::health::GradientAudit;
use super::micro_batch::{Asking, Telling};
use super::objective::Objective;
use super::settle::Asked;
use super::stop::StopRequests;
use crate::collective::Collective;
use crate::data::{Loader, Mixing, Plan, Preprocessor};
use crate::error::Result;
use crate::model::Model;
use crate::ops::reduce;
use crate::optim::{Gradients, MovingAverage, StepEnd, Verdict};
use crate::report::{Begun, EventFile, Outcome, Progress, Stage, Stages, TrainerState};

/// A run between two optimizer steps.
pub struct Trainer<'a> {
    pub(super) run: &'a Run,
    pub(super) collective: &'a dyn Collective,
    pub(super) model: Model,
    pub(super) preprocessor: Preprocessor,
    pub(super) classes: Vec<String>,
    pub(super) end: StepEnd,
    /// None: what is trained is also evaluated and saved.
    pub(super) average: Option<MovingAverage>,
    pub(super) plan: Plan,
    pub(super) objective: Objective,
    pub(super) mixing: Option<Mixing>,
    pub(super) loader: Loader,
    pub(super) evaluator: Option<Evaluator>,
    pub(super) audit: GradientAudit,
    pub(super) asking: Asking,
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
    /// Asked for, not settled.
    pub(super) pending: VecDeque<Asked>,
    pub(super) begun: Instant,
    /// Of the last gradient that was a number.
    pub(super) norm: f64,
    /// Spent before the checkpoint that the run was resumed from.
    pub(super) seconds_before: f64,
}

impl<'a> Trainer<'a> {
    /// All steps that are left, or as many as bring progress. Errors: [`Error::Stopped`] after a signal, once a checkpoint is written.
    pub fn train(&mut self) -> Result<()> {
        while self.state.global_step < self.run.total_steps && !self.is_out_of_patience() {
            let step = self.state.global_step + self.pending.len() as u64;
            let asked = self.ask(step).map_err(|error| error.at_step(step))?;
            let step = step + 1;
            let evaluates = self.evaluator.is_some() && self.run.evaluates_at(step);
            let saves = self.run.saves_at(step) || asked.stop;
            let stop = asked.stop;
            let is_awaited = evaluates || saves || step == self.run.total_steps;
            let may_wait = usize::from(!is_awaited && matches!(asked.verdict, Some(Verdict::OnGpu(_))));
            self.pending.push_back(asked);
            while self.pending.len() > may_wait {
                self.settle()?;
            }
            if evaluates {
                let entry = self.evaluate()?;
                self.consider_best(&entry);
            }
            if saves {
                self.save()?;
            }
            if stop && step < self.run.total_steps && !self.is_out_of_patience() {
                // The first rank to leave ends the others, and rank 0 may still be writing.
                self.collective.barrier()?;
                return Err(self.stopped());
            }
        }
        Ok(())
    }

    /// One optimizer step.
    fn ask(&mut self, step: u64) -> Result<Asked> {
        let recipe = &self.run.recipe;
        let planned = self.plan.places(step).len();
        let divisor = self.objective.divisor(&self.plan, step);
        let factors = self.end.factors(1.0 / divisor)?;
        let (mut loss, mut share, mut samples) = (0.0, 0.0, Vec::new());
        let gradients = self.model.parameters().gradients.clone();
        let mut sum = GradientSum::new(self.collective, &gradients);
        let micro_batches = self.plan.micro_batches(step);
        for micro_batch in 1..=micro_batches {
            let batch = self.stages.time(Stage::WaitForData, || self.loader.next())?;
            let mut batch = batch.expect("the loader has the plan's micro-batches");
            if let Some(mixing) = &self.mixing {
                batch = mixing.apply(batch, recipe.seed, &self.run.device)?;
            }
            if batch.samples.is_empty() && !self.model.needs_all_ranks() {
                continue;
            }
            let mut telling = match micro_batch == micro_batches {
                true => Telling::Sum(&mut sum),
                false => Telling::Nobody,
            };
            match &factors {
                Some(factors) => self.compute_there(&batch, factors, &mut telling)?,
                None => loss += self.compute(&batch, step, 1.0 / divisor, &mut telling)?,
            }
            share += self.objective.share(&batch.labels);
            samples.push(batch.samples);
        }

        let parameters = self.model.parameters();
        let images: usize = samples.iter().map(Vec::len).sum();
        let stop = self.stop.latest().is_some();
        let mut sums = [loss, share, images as f64, f64::from(u8::from(stop))];
        self.stages.time(Stage::AllReduce, || -> Result<()> {
            sum.finish()?;
            self.collective.sum_f64(&mut sums)
        })?;
        let [loss, share, images, stop] = sums;
        let mut asked = Asked {
            step,
            loss,
            share,
            samples,
            images: images as usize,
            verdict: None,
            stop: stop > 0.0,
        };
        if asked.images < planned {
            self.bad_images
                .tell(self.collective, "training", &self.loader.bad_images())?;
        }
        if asked.images > 0 {
            let begun = Begun::now();
            if asked.images < planned {
                reduce::scale(&parameters.gradients, (divisor / share) as f32)?;
            }
            let mut verdict = self.end.judge(parameters, step, asked.samples.len())?;
            if !self.audit.is_done() {
                let judgement = self.read(verdict)?;
                if judgement.gradients == Gradients::Finite {
                    self.audit.look(self.model.parameters(), step)?;
                }
                verdict = Verdict::Known(judgement);
            }
            self.end.update(self.model.parameters(), &verdict)?;
            self.model.place_adapters()?;
            self.update_average(&verdict)?;
            asked.verdict = Some(verdict);
            self.stages.book(Stage::Optimizer, begun);
        }
        Ok(asked)
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
