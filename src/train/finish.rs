//! The end of a run: the final model, its figures, and the files and tables that tell of them.

use std::time::Duration;

use super::checkpoint;
use super::kept;
use super::trainer::Trainer;
use super::whole;
use crate::collective::share;
use crate::error::Result;
use crate::ops::ceilings::Ceilings;
use crate::ops::device::Placement;
use crate::ops::storage;
use crate::report::{
    Begun, CLASSES_FILE, Confusion, EvaluationEntry, LogEntry, ModelCard, OnDevice, Outcome, PREDICTIONS_FILE, Results,
    Stage, Supply, TotalsEntry, TrainerState, bottleneck, classes_json, classes_table, epochs_table, predictions_csv,
    stages_table,
};

/// What is left of a run that was completed.
#[derive(Clone, Debug)]
pub struct Summary {
    pub state: TrainerState,
    /// Of the final model; None without a validation set.
    pub evaluation: Option<EvaluationEntry>,
}

impl Trainer<'_> {
    /// Chooses the final model, writes the results, prints the tables. Every rank must call it.
    pub fn finish(mut self) -> Result<Summary> {
        let totals = self.run.recipe.do_train.then(|| self.totals());
        totals
            .iter()
            .for_each(|totals| self.logged(LogEntry::Totals(totals.clone())));
        self.take_average()?;
        let final_step = self.take_best_model()?;
        let (evaluation, outcomes) = self.final_evaluation(final_step)?.unzip();
        let outcomes = outcomes.unwrap_or_default();
        let results = Results {
            train: totals,
            evaluation: evaluation.clone(),
            train_samples: self.run.train_samples,
            eval_samples: self.run.eval_samples,
        };
        self.progress.finish();
        if self.collective.rank() == 0 {
            let begun = Begun::now();
            self.write_results(&results, &outcomes)?;
            self.stages.book(Stage::Checkpoint, begun);
            self.stages.end();
            self.print_tables(&results, &outcomes, final_step);
        }
        Ok(Summary {
            state: self.state,
            evaluation,
        })
    }

    fn totals(&self) -> TotalsEntry {
        let seconds = self.seconds().max(1e-9);
        TotalsEntry {
            epoch: self.state.epoch,
            step: self.state.global_step,
            total_flos: 0.0,
            train_loss: self.losses.whole / self.losses.steps.max(1) as f64,
            train_runtime: seconds,
            train_samples_per_second: self.samples_seen() as f64 / seconds,
            train_steps_per_second: self.state.global_step as f64 / seconds,
        }
    }

    /// Takes over the values of the best checkpoint if the recipe wants them; the step that the final model is of.
    fn take_best_model(&mut self) -> Result<u64> {
        let last = self.state.global_step;
        let best = self
            .state
            .best_global_step
            .filter(|&best| self.run.recipe.load_best_model_at_end && best != last);
        let Some(best) = best else { return Ok(last) };
        let parameters = self.model.parameters().clone();
        let mut bytes = Vec::new();
        if self.collective.rank() == 0 {
            let directory = match &self.state.best_model_checkpoint {
                Some(directory) => std::path::PathBuf::from(directory),
                None => kept::path(&self.run.recipe.output_dir, best),
            };
            let buffers = checkpoint::read_buffers(&directory, parameters.count())?;
            let (values, statistics) = buffers.of_model();
            if let Some(own) = self.model.statistics_mut() {
                let position = checkpoint::read_position(&directory)?;
                own.restore(statistics, &position.batches_tracked)?;
            }
            bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        }
        let bytes = share(self.collective, bytes)?;
        storage::update(&parameters.values, |values| {
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        })?;
        self.model.refresh()?;
        self.share_statistics()?;
        Ok(best)
    }

    /// What the final model says of the validation set. Evaluation is exact and repeatable, so what was measured after its
    /// step holds; after a resumption only its figures are known, and it is measured once more.
    fn final_evaluation(&mut self, final_step: u64) -> Result<Option<(EvaluationEntry, Vec<Outcome>)>> {
        if !self.has_evaluator() {
            return Ok(None);
        }
        let known = self.state.evaluations().find(|entry| entry.step == final_step).cloned();
        let outcomes = self.outcomes.remove(&final_step);
        Ok(Some(match (known, outcomes) {
            (Some(entry), Some(outcomes)) => (entry, outcomes),
            (Some(entry), None) => (entry, self.measure()?.1),
            (None, _) => {
                let entry = self.evaluate()?;
                let outcomes = self.outcomes.remove(&entry.step).unwrap_or_default();
                (entry, outcomes)
            }
        }))
    }

    /// What this machine could do at best. Measuring takes some tenths of a second, which is little after a long run only.
    fn ceilings(&self) -> Option<Ceilings> {
        const LONG: Duration = Duration::from_secs(20);
        let computed: Duration = [Stage::Forward, Stage::Backward, Stage::Evaluation]
            .map(|stage| self.stages.spent(stage))
            .iter()
            .sum();
        let products = Placement::new(&self.run.device, self.run.precision).products;
        (self.run.device.is_cpu() && computed >= LONG).then(|| Ceilings::measure(2, products))
    }

    fn write_results(&self, results: &Results, outcomes: &[Outcome]) -> Result<()> {
        let recipe = &self.run.recipe;
        let card = ModelCard {
            recipe,
            state: &self.state,
            results,
            classes: &self.classes,
            global_batch: self.run.global_batch,
            world: self.collective.world(),
            parameters: (self.model.trainable_count(), self.model.total_count()),
        };
        whole::files(&recipe.output_dir, |directory| {
            for (name, text) in results.files() {
                checkpoint::put(directory, name, &text)?;
            }
            if let Some(evaluator) = &self.evaluator {
                let confusion = Confusion::of(outcomes);
                checkpoint::put(directory, CLASSES_FILE, &classes_json(&confusion, &self.classes))?;
                if recipe.save_predictions {
                    let origin = |row| evaluator.dataset.origin(row as usize);
                    let text = predictions_csv(outcomes, &self.classes, origin);
                    checkpoint::put(directory, PREDICTIONS_FILE, &text)?;
                }
            }
            if !recipe.do_train {
                return Ok(());
            }
            self.write_model(directory)?;
            checkpoint::put(directory, "trainer_state.json", &self.state.to_json())?;
            checkpoint::put(directory, "dtrain_run.toml", &recipe.to_toml())?;
            checkpoint::put(directory, "README.md", &card.to_markdown())
        })
    }

    fn print_tables(&self, results: &Results, outcomes: &[Outcome], final_step: u64) {
        println!("\n{}", epochs_table(&self.state));
        if let Some(evaluation) = &results.evaluation {
            let figures = &evaluation.figures;
            println!(
                "final model: step {final_step}, validation accuracy {:.4}, loss {:.4}, top-5 accuracy {:.4}",
                figures.accuracy, figures.loss, figures.top_5_accuracy
            );
            for (average, precision, recall, f1) in [
                ("macro", figures.precision_macro, figures.recall_macro, figures.f1_macro),
                (
                    "weighted",
                    figures.precision_weighted,
                    figures.recall_weighted,
                    figures.f1_weighted,
                ),
            ] {
                println!("{average} average: precision {precision:.4}, recall {recall:.4}, F1 {f1:.4}");
            }
            if let Some(table) = classes_table(&Confusion::of(outcomes), &self.classes) {
                println!("\n{table}");
            }
        }
        if let Some(train) = &results.train {
            println!(
                "training: loss {:.4}, {:.1} s, {:.1} images/s\n",
                train.train_loss, train.train_runtime, train.train_samples_per_second
            );
        }
        let busy = self.loader.statistics();
        let supply = Supply {
            images: busy.images,
            decode: busy.decode,
            resample: busy.resample,
            threads: self.run.loader_threads,
            there: OnDevice {
                copied: busy.copied,
                copy: busy.copy,
                preprocess: busy.preprocess,
            },
        };
        let ceilings = self.ceilings();
        println!(
            "time of rank 0 since its start:\n{}",
            stages_table(&self.stages, &supply, ceilings.as_ref())
        );
        let world = self.collective.world();
        println!("{}\n", bottleneck(&self.stages, &supply, world, ceilings.as_ref()));
        if self.bad_images.count() > 0 {
            println!(
                "{} image(s) could not be read and were left out; they are named above",
                self.bad_images.count()
            );
        }
        println!("results: {}", self.run.recipe.output_dir.display());
    }
}
