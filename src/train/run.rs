//! What was decided about a run: a recipe held against a dataset, a world and a machine.
//!
//! The trainer sees steps and counts only; epochs, fractions and percentages are resolved in `cli`, which makes this value.

use candle_core::Device;

use crate::recipe::{BestMetric, Precision, Recipe};

/// A validated run. Everything here but the device and its number of ranks is the same on every rank.
#[derive(Clone, Debug)]
pub struct Run {
    /// Names, rates and choices are read from here; whatever follows below overrides it.
    pub recipe: Recipe,
    /// Number of ranks.
    pub world: usize,
    /// Samples of the training set, and of the validation set (0: there is none).
    pub train_samples: usize,
    pub eval_samples: usize,
    /// Samples of a full optimizer step: batch × ranks × accumulation.
    pub global_batch: usize,
    /// Optimizer steps; the last one of an epoch may be short.
    pub steps_per_epoch: u64,
    pub total_steps: u64,
    pub warmup_steps: u64,
    pub log: When,
    pub evaluate: When,
    pub save: When,
    /// What "best" means; used with `recipe.load_best_model_at_end` and for keeping the best checkpoint.
    pub best_metric: BestMetric,
    /// The dtype that is really computed in: the recipe's, or f32 on a CPU.
    pub precision: Precision,
    pub device: Device,
    /// Ranks that compute there.
    pub ranks_of_device: usize,
    /// Compute threads of this rank, and threads that decode images ahead.
    pub threads: usize,
    pub loader_threads: usize,
}

/// When something that recurs is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Never,
    /// After every so many optimizer steps (> 0).
    Steps(u64),
    /// After every epoch.
    Epochs,
}

impl Run {
    /// Is the training loss logged after optimizer step `step` (counted from 1)?
    pub fn logs_at(&self, step: u64) -> bool {
        self.due(self.log, step) || (self.recipe.logging_first_step && step == 1)
    }

    /// Is the validation set evaluated after `step`? With a strategy of steps also after the last one, as Trainer does.
    pub fn evaluates_at(&self, step: u64) -> bool {
        self.due(self.evaluate, step) || (self.evaluate != When::Never && step == self.total_steps)
    }

    /// Is a checkpoint written after `step`? The last step has one unless there are none at all.
    pub fn saves_at(&self, step: u64) -> bool {
        self.due(self.save, step) || (self.save != When::Never && step == self.total_steps)
    }

    fn due(&self, when: When, step: u64) -> bool {
        match when {
            When::Never => false,
            When::Steps(every) => step.is_multiple_of(every),
            When::Epochs => step.is_multiple_of(self.steps_per_epoch),
        }
    }

    /// Epochs completed after `step` optimizer steps, with the fraction of the one under way.
    pub fn epoch_at(&self, step: u64) -> f64 {
        step as f64 / self.steps_per_epoch as f64
    }

    /// Number of epochs begun by the end of the run.
    pub fn epochs(&self) -> u64 {
        self.total_steps.div_ceil(self.steps_per_epoch)
    }
}
