//! The training run, from the first optimizer step to the last.
//!
//! An optimizer step is defined by its global batch, whatever number of ranks and micro-batches it is cut into. Each rank
//! adds up the gradients of its own samples' losses, every one divided by the number of samples in the whole step, so the
//! sum over micro-batches and ranks is the gradient of the mean. Then all ranks do the same: clip, update, log.
//! How a model computes, how images are read and how files are written is left to others.

use std::sync::Arc;
use std::time::Instant;

use super::bad_images::BadImages;
use super::checkpoint::{self, LossSums, Position};
use super::evaluate::Evaluator;
use super::health::{self, GradientAudit};
use super::inputs::Inputs;
use super::stop::{self, StopRequests};
use super::{Run, output, resume};
use crate::collective::{Collective, same_everywhere};
use crate::data::{Loader, LoaderConfig, Order, Plan, Preprocessor, Transform};
use crate::error::{Error, Result};
use crate::model::{DropoutNames, Vit};
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::{reduce, storage};
use crate::optim::{AdamW, AdamWConfig, LearningRate};
use crate::recipe::{Method, TransformKind};
use crate::report::{EvaluationEntry, LogEntry, LossEntry, Now, Progress, Stage, Stages, TrainerState};

/// A run between two optimizer steps.
pub struct Trainer<'a> {
    pub(super) run: &'a Run,
    pub(super) collective: &'a dyn Collective,
    pub(super) model: Vit,
    pub(super) preprocessor: Preprocessor,
    pub(super) classes: Vec<String>,
    optimizer: AdamW,
    plan: Plan,
    rate: LearningRate,
    loader: Loader,
    evaluator: Option<Evaluator>,
    audit: GradientAudit,
    stop: StopRequests,
    pub(super) state: TrainerState,
    pub(super) losses: LossSums,
    pub(super) bad_images: BadImages,
    pub(super) progress: Progress,
    pub(super) stages: Stages,
    begun: Instant,
    /// Spent before the checkpoint that the run was resumed from.
    seconds_before: f64,
}

/// What a step did.
struct Done {
    learning_rate: f64,
    /// Mean over the step's samples, and the gradient's norm before clipping; None if no image could be read.
    result: Option<(f64, f64)>,
    images: usize,
    /// Some rank was asked to stop.
    stop: bool,
}

impl<'a> Trainer<'a> {
    /// Everything up to the first step; continues from a checkpoint if the recipe says so. Every rank must call it.
    pub fn begin(run: &'a Run, inputs: Inputs, collective: &'a Arc<dyn Collective>) -> Result<Trainer<'a>> {
        let collective = &**collective;
        let stop = StopRequests::listen()?;
        let recipe = &run.recipe;
        let Inputs {
            splits,
            model,
            preprocessor,
            ..
        } = inputs;
        let first = collective.rank() == 0;
        let mut notes = if first { output::claim(recipe)? } else { Vec::new() };
        same_everywhere(collective, "the recipe", recipe.to_toml().as_bytes())?;
        let labels: Vec<u8> = (0..splits.train.len())
            .flat_map(|row| splits.train.label(row).to_le_bytes())
            .collect();
        same_everywhere(collective, "the training set", &labels)?;
        health::same_values(collective, model.parameters())?;

        let parameters = model.parameters();
        let mut optimizer = AdamW::new(
            parameters,
            AdamWConfig {
                beta1: recipe.adam_beta1,
                beta2: recipe.adam_beta2,
                epsilon: recipe.adam_epsilon,
                weight_decay: recipe.weight_decay,
            },
        )?;
        let (mut state, mut losses, mut seconds_before) = (new_state(run), LossSums::default(), 0.0);
        if let Some(resumed) = resume::resume(run, parameters, splits.train.classes(), collective)? {
            let Position {
                state: then,
                losses: sums,
                seconds,
                ..
            } = resumed.position;
            storage::update(&parameters.values, |values| {
                values.copy_from_slice(&resumed.buffers.values)
            })?;
            storage::update(&optimizer.first_moments, |m| {
                m.copy_from_slice(&resumed.buffers.first_moments)
            })?;
            storage::update(&optimizer.second_moments, |v| {
                v.copy_from_slice(&resumed.buffers.second_moments)
            })?;
            optimizer.steps = resumed.position.optimizer_steps;
            state = continued(state, then);
            (losses, seconds_before) = (sums, seconds);
            notes.push(format!(
                "resumed from {} after step {}",
                resumed.from.display(),
                state.global_step
            ));
            notes.extend(resumed.notes);
            if first {
                notes.extend(output::forget_after(&recipe.output_dir, state.global_step)?);
            }
        } else if recipe.resume_from_checkpoint.as_deref() == Some("true") {
            notes.push(format!(
                "no checkpoint in {} yet: beginning anew",
                recipe.output_dir.display()
            ));
        }

        let plan = Plan {
            samples: splits.train.len(),
            micro_batch: recipe.per_device_train_batch_size,
            accumulation: recipe.gradient_accumulation_steps,
            world: collective.world(),
            order: match recipe.shuffle {
                true => Order::Shuffled { seed: recipe.seed },
                false => Order::AsStored,
            },
        };
        let loading = |kind| LoaderConfig {
            transform: Transform::new(&preprocessor, kind),
            seed: recipe.seed,
            threads: run.loader_threads,
            prefetch_batches: prefetch(run.loader_threads, recipe.per_device_train_batch_size),
            on_bad_image: recipe.on_bad_image,
        };
        let steps = state.global_step..run.total_steps;
        let loader = Loader::new(
            splits.train.clone(),
            plan.of_rank(collective.rank(), steps),
            loading(recipe.train_transform),
        )?;
        let evaluator = splits.eval.map(|dataset| Evaluator {
            dataset,
            loader: loading(TransformKind::Eval),
            batch: recipe.per_device_eval_batch_size,
            label_smoothing: recipe.label_smoothing_factor,
            device: run.device.clone(),
        });
        let progress = match first {
            true => Progress::new(run.total_steps, state.global_step),
            false => Progress::silent(),
        };
        notes.iter().for_each(|note| progress.say(note));
        Ok(Trainer {
            run,
            collective,
            optimizer,
            plan,
            rate: LearningRate {
                peak: recipe.learning_rate,
                schedule: recipe.lr_scheduler_type,
                warmup_steps: run.warmup_steps,
                total_steps: run.total_steps,
            },
            loader,
            evaluator,
            audit: GradientAudit::new(parameters),
            stop,
            state,
            losses,
            bad_images: BadImages::default(),
            progress,
            stages: Stages::begin(),
            begun: Instant::now(),
            seconds_before,
            classes: splits.train.classes().to_vec(),
            model,
            preprocessor,
        })
    }

    /// All steps that are left. Errors: [`Error::Stopped`] after a signal, once a checkpoint is written.
    pub fn train(&mut self) -> Result<()> {
        while self.state.global_step < self.run.total_steps {
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
            if done.stop && step < self.run.total_steps {
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
        let (mut loss, mut images) = (0.0, 0);
        for _ in 0..self.plan.micro_batches(step) {
            let batch = self.stages.time(Stage::WaitForData, || self.loader.next())?;
            let batch = batch.expect("the loader has the plan's micro-batches");
            if batch.samples.is_empty() {
                continue;
            }
            let pixels_bchw = batch.pixels_bchw.to_device(&self.run.device)?;
            let dropout = DropoutNames {
                seed: recipe.seed,
                epoch: batch.epoch,
                samples: &batch.samples,
            };
            let logits_bc = self
                .stages
                .time(Stage::Forward, || self.model.forward(&pixels_bchw, Some(&dropout)))?;
            let scale = 1.0 / planned as f64;
            let entropy = cross_entropy(&logits_bc, &batch.labels, recipe.label_smoothing_factor, scale)?;
            health::finite_loss(entropy.sum_loss, step, self.collective, &batch.samples)?;
            self.stages
                .time(Stage::Backward, || self.model.backward(&entropy.dlogits_bc))?;
            loss += entropy.sum_loss;
            images += batch.samples.len();
        }

        let parameters = self.model.parameters();
        let stop = self.stop.latest().is_some();
        let mut sums = [loss, images as f64, f64::from(u8::from(stop))];
        self.stages.time(Stage::AllReduce, || -> Result<()> {
            storage::update(&parameters.gradients, |gradients| self.collective.sum_f32(gradients))??;
            self.collective.sum_f64(&mut sums)
        })?;
        let [loss, images, stop] = sums;
        let learning_rate = self.rate.at(step);
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
            let norm = self.stages.time(Stage::Optimizer, || -> Result<f64> {
                if done.images < planned {
                    reduce::scale(&parameters.gradients, (planned as f64 / images) as f32)?;
                }
                let norm = parameters.clip_gradients(recipe.max_grad_norm)?;
                health::finite_norm(norm, step)?;
                if !self.audit.is_done() {
                    self.audit.look(parameters, step)?;
                }
                self.optimizer.step(parameters, learning_rate)?;
                parameters.zero_gradients()?;
                Ok(norm)
            })?;
            done.result = Some((loss / images, norm));
        }
        Ok(done)
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

    fn log(&mut self, done: &Done) {
        let Some((_, grad_norm)) = done.result else { return };
        let entry = LogEntry::Loss(LossEntry {
            epoch: self.state.epoch,
            grad_norm,
            learning_rate: done.learning_rate,
            loss: self.losses.since_log / self.losses.steps_since_log as f64,
            step: self.state.global_step,
        });
        (self.losses.since_log, self.losses.steps_since_log) = (0.0, 0);
        self.progress.logged(&entry);
        self.state.log_history.push(entry);
    }

    /// Evaluates the model as it is now and notes the figures in the history; there must be a validation set.
    pub(super) fn evaluate(&mut self) -> Result<EvaluationEntry> {
        let evaluator = self.evaluator.as_ref().expect("a validation set");
        let done = self.stages.time(Stage::Evaluation, || {
            evaluator.evaluate(&self.model, self.collective, &mut self.bad_images)
        })?;
        let entry = EvaluationEntry {
            epoch: self.state.epoch,
            eval_accuracy: done.accuracy,
            eval_loss: done.loss,
            eval_runtime: done.seconds,
            eval_samples_per_second: done.samples as f64 / done.seconds,
            eval_steps_per_second: done.steps as f64 / done.seconds,
            step: self.state.global_step,
        };
        self.tell_bad_images();
        self.progress.logged(&LogEntry::Evaluation(entry.clone()));
        self.state.log_history.push(LogEntry::Evaluation(entry.clone()));
        Ok(entry)
    }

    /// Is there anything to evaluate on?
    pub(super) fn has_evaluator(&self) -> bool {
        self.evaluator.is_some()
    }

    /// Notes the best figure so far. If the best model is wanted in the end, only what is saved can be it.
    fn consider_best(&mut self, entry: &EvaluationEntry) {
        let step = self.state.global_step;
        let saved = self.run.saves_at(step);
        if self.run.recipe.load_best_model_at_end && !saved {
            return;
        }
        let metric = self.run.best_metric;
        let figure = metric.of(entry.eval_accuracy, entry.eval_loss);
        if self.state.best_metric.is_none_or(|best| metric.better(figure, best)) {
            self.state.best_metric = Some(figure);
            self.state.best_global_step = Some(step);
            self.state.best_model_checkpoint = saved.then(|| {
                checkpoint::path(&self.run.recipe.output_dir, step)
                    .display()
                    .to_string()
            });
        }
    }

    /// Writes a checkpoint on rank 0, after making sure that all ranks hold the same model.
    fn save(&mut self) -> Result<()> {
        let begun = Instant::now();
        health::same_values(self.collective, self.model.parameters())?;
        if self.collective.rank() == 0 {
            let recipe = &self.run.recipe;
            let position = self.position();
            let (parameters, optimizer) = (self.model.parameters(), &self.optimizer);
            checkpoint::write(&recipe.output_dir, &position, parameters, optimizer, |directory| {
                self.write_model(directory)
            })?;
            if let Some(limit) = recipe.save_total_limit {
                checkpoint::keep(&recipe.output_dir, limit, self.state.best_global_step)?;
            }
        }
        self.stages.add(Stage::Checkpoint, begun.elapsed());
        Ok(())
    }

    /// The model's own files, in Hugging Face's layout, into a directory that exists.
    pub(super) fn write_model(&self, directory: &std::path::Path) -> Result<()> {
        let recipe = &self.run.recipe;
        match recipe.method {
            Method::Lora => self
                .model
                .save_adapter(directory, recipe.adapter_format, &recipe.model)?,
            Method::Full | Method::Head => self.model.save_full(directory)?,
        }
        checkpoint::put(
            directory,
            crate::data::preprocessor::FILE_NAME,
            &self.preprocessor.to_json(),
        )
    }

    fn position(&self) -> Position {
        Position {
            format: checkpoint::FORMAT,
            dtrain_version: env!("CARGO_PKG_VERSION").to_owned(),
            world: self.collective.world(),
            global_batch: self.plan.global_batch(),
            train_samples: self.plan.samples,
            optimizer_steps: self.optimizer.steps,
            seconds: self.seconds(),
            losses: self.losses,
            classes: self.classes.clone(),
            parameters: checkpoint::parameter_names(self.model.parameters()),
            recipe: self.run.recipe.clone(),
            state: self.state.clone(),
        }
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

    fn tell_bad_images(&mut self) {
        for line in self.bad_images.take() {
            self.progress.say(&line);
        }
    }

    fn stopped(&self) -> Error {
        self.progress.finish();
        let step = self.state.global_step;
        Error::Stopped {
            signal: self.stop.latest().map_or("a signal to another rank", stop::name),
            step,
            total_steps: self.run.total_steps,
            checkpoint: checkpoint::path(&self.run.recipe.output_dir, step),
        }
    }
}

/// The state before the first step.
fn new_state(run: &Run) -> TrainerState {
    let recipe = &run.recipe;
    TrainerState {
        eval_steps: recipe.eval_steps.unwrap_or(recipe.logging_steps),
        is_local_process_zero: true,
        is_world_process_zero: true,
        logging_steps: recipe.logging_steps,
        max_steps: run.total_steps,
        num_train_epochs: run.epochs(),
        save_steps: recipe.save_steps,
        train_batch_size: recipe.per_device_train_batch_size,
        ..TrainerState::default()
    }
}

/// The state of a checkpoint under the values of a new run.
fn continued(new: TrainerState, then: TrainerState) -> TrainerState {
    TrainerState {
        best_global_step: then.best_global_step,
        best_metric: then.best_metric,
        best_model_checkpoint: then.best_model_checkpoint,
        epoch: then.epoch,
        global_step: then.global_step,
        log_history: then.log_history,
        ..new
    }
}

/// Batches ahead: enough that every thread has pictures to decode while a batch waits to be taken.
fn prefetch(threads: usize, batch: usize) -> usize {
    2 + (2 * threads).div_ceil(batch)
}
