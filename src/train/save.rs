//! What is kept of a run on the way: checkpoints, and which of them is the best.

use std::path::Path;
use std::time::Instant;

use super::checkpoint::{self, Position};
use super::health;
use super::kept;
use super::stop;
use super::trainer::Trainer;
use crate::data::preprocessor;
use crate::error::{Error, Result};
use crate::model::adapter;
use crate::recipe::Method;
use crate::report::{EvaluationEntry, Stage};

impl Trainer<'_> {
    /// Notes the best figure so far. If the best model is wanted in the end, only what is saved can be it.
    pub(super) fn consider_best(&mut self, entry: &EvaluationEntry) {
        let step = self.state.global_step;
        let saved = self.run.saves_at(step);
        if self.run.recipe.load_best_model_at_end && !saved {
            return;
        }
        let metric = self.run.best_metric;
        let figure = entry.figures.get(metric.figure);
        if self.state.best_metric.is_none_or(|best| metric.better(figure, best)) {
            self.state.best_metric = Some(figure);
            self.state.best_global_step = Some(step);
            self.state.best_model_checkpoint =
                saved.then(|| kept::path(&self.run.recipe.output_dir, step).display().to_string());
        }
    }

    /// Writes a checkpoint on rank 0, after making sure that all ranks hold the same model.
    pub(super) fn save(&mut self) -> Result<()> {
        let begun = Instant::now();
        health::same_values(self.collective, self.model.parameters())?;
        if self.collective.rank() == 0 {
            let recipe = &self.run.recipe;
            let position = self.position();
            let (parameters, statistics) = (self.model.parameters(), self.model.statistics());
            checkpoint::write(
                &recipe.output_dir,
                &position,
                parameters,
                &self.end.optimizer,
                statistics,
                self.average.as_ref(),
                |directory| {
                    self.swap_average()?;
                    self.write_model(directory)?;
                    self.swap_average()
                },
            )?;
            if let Some(limit) = recipe.save_total_limit {
                kept::keep(&recipe.output_dir, limit, self.state.best_global_step)?;
            }
        }
        self.stages.add(Stage::Checkpoint, begun.elapsed());
        Ok(())
    }

    /// Running statistics are those of rank 0 wherever they count, as DistributedDataParallel has it.
    pub(super) fn share_statistics(&mut self) -> Result<()> {
        match self.model.statistics_mut() {
            Some(statistics) => statistics.share(self.collective),
            None => Ok(()),
        }
    }

    /// The model's own files, in Hugging Face's layout, into a directory that exists.
    pub(super) fn write_model(&self, directory: &Path) -> Result<()> {
        let recipe = &self.run.recipe;
        match recipe.method {
            Method::Lora => self
                .model
                .save_adapter(directory, recipe.adapter_format, &recipe.model)?,
            Method::Full | Method::Head => self.model.save_full(directory)?,
        }
        if recipe.method == Method::Lora {
            checkpoint::put(directory, adapter::LABELS_FILE, &adapter::labels_text(&self.classes))?;
        }
        checkpoint::put(directory, preprocessor::FILE_NAME, &self.preprocessor.to_json())
    }

    fn position(&self) -> Position {
        Position {
            computed_in: Some(self.run.precision),
            format: checkpoint::FORMAT,
            dtrain_version: env!("CARGO_PKG_VERSION").to_owned(),
            world: self.collective.world(),
            global_batch: self.plan.global_batch(),
            train_samples: self.plan.samples,
            block_order: self.plan.order.fingerprint(),
            optimizer_steps: self.end.optimizer.steps,
            scaler: self.end.scaler,
            seconds: self.seconds(),
            losses: self.losses,
            batches_tracked: self
                .model
                .statistics()
                .map_or(Vec::new(), |statistics| statistics.batches.clone()),
            classes: self.classes.clone(),
            parameters: checkpoint::parameter_names(self.model.parameters()),
            recipe: self.run.recipe.clone(),
            state: self.state.clone(),
        }
    }

    /// What a run that was asked to stop ends with, once its checkpoint is written.
    pub(super) fn stopped(&self) -> Error {
        self.progress.finish();
        let step = self.state.global_step;
        Error::Stopped {
            signal: self.stop.latest().map_or("a signal to another rank", stop::name),
            step,
            total_steps: self.run.total_steps,
            checkpoint: kept::path(&self.run.recipe.output_dir, step),
        }
    }
}
