//! What a run measures of itself while it trains: its loss, evaluations, and whether they still get better.

use super::patience::without_progress;
use super::settle::Done;
use super::trainer::Trainer;
use crate::error::Result;
use crate::report::{EvaluationEntry, LogEntry, LossEntry, Outcome, Stage};

impl Trainer<'_> {
    pub(super) fn log(&mut self, done: &Done) {
        let Some((_, grad_norm)) = done.result else { return };
        let entry = LogEntry::Loss(LossEntry {
            epoch: self.state.epoch,
            grad_norm,
            learning_rate: done.learning_rate,
            loss: self.losses.since_log / self.losses.steps_since_log as f64,
            step: self.state.global_step,
        });
        (self.losses.since_log, self.losses.steps_since_log) = (0.0, 0);
        self.logged(entry);
    }

    /// Notes an entry in the history and tells whoever wants to know. Event files that cannot be written end no run.
    pub(super) fn logged(&mut self, entry: LogEntry) {
        self.progress.logged(&entry);
        if let Some(Err(error)) = self.events.as_mut().map(|events| events.logged(&entry)) {
            self.progress
                .say(&format!("nothing more is written for TensorBoard: {error}"));
            self.events = None;
        }
        self.state.log_history.push(entry);
    }

    /// Evaluates the model as it is now and notes the figures in the history; there must be a validation set.
    pub(super) fn evaluate(&mut self) -> Result<EvaluationEntry> {
        let (entry, outcomes) = self.measure()?;
        self.logged(LogEntry::Evaluation(entry.clone()));
        let best = self.state.best_global_step;
        self.outcomes.retain(|&step, _| Some(step) == best);
        self.outcomes.insert(entry.step, outcomes);
        Ok(entry)
    }

    /// Evaluates the model as it is now; there must be a validation set.
    pub(super) fn measure(&mut self) -> Result<(EvaluationEntry, Vec<Outcome>)> {
        self.swap_average()?;
        self.share_statistics()?;
        let evaluator = self.evaluator.as_ref().expect("a validation set");
        let done = self.stages.time(Stage::Evaluation, || {
            evaluator.evaluate(&self.model, self.collective, &mut self.bad_images)
        })?;
        self.swap_average()?;
        let entry = EvaluationEntry {
            epoch: self.state.epoch,
            figures: done.figures,
            eval_runtime: done.seconds,
            eval_samples_per_second: done.outcomes.len() as f64 / done.seconds,
            eval_steps_per_second: done.steps as f64 / done.seconds,
            step: self.state.global_step,
        };
        self.tell_bad_images();
        Ok((entry, done.outcomes))
    }

    /// Have the validation figures been without progress for as long as the recipe bears?
    pub(super) fn is_out_of_patience(&self) -> bool {
        let recipe = &self.run.recipe;
        let metric = self.run.best_metric;
        let figures = self.state.evaluations().map(|entry| entry.figures.get(metric.figure));
        recipe
            .early_stopping_patience
            .is_some_and(|patience| without_progress(figures, metric, recipe.early_stopping_threshold) >= patience)
    }
}
