//! The training run: trainer, evaluation, checkpoints, health.

mod run;
mod inputs;
mod loading;
mod micro_batch;
mod begin;
mod trainer;
mod settle;
mod figures;
mod plan;
mod objective;
mod class_weights;
mod average;
mod evaluate;
mod patience;
mod save;
mod finish;
mod gradient_sum;
mod checkpoint;
mod kept;
mod resume;
mod output;
mod whole;
mod health;
pub mod memory;
mod picture_memory;
mod shuffling;
mod bad_images;
mod stop;

use std::sync::Arc;

pub use crate::recipe::BestMetric;
pub use bad_images::BadImages;
pub use evaluate::{Evaluation, Evaluator};
pub use finish::Summary;
pub use inputs::{Inputs, Places, Splits, columns};
pub use loading::Pass;
pub use run::{Run, When};
pub use shuffling::Shuffling;
pub use whole::directory as whole_directory;

use crate::collective::Collective;
use crate::error::Result;

/// Trains as `run` says and leaves the results in its output directory. Every rank must call it.
pub fn train(run: &Run, inputs: Inputs, collective: &Arc<dyn Collective>) -> Result<Summary> {
    let mut trainer = trainer::Trainer::begin(run, inputs, collective)?;
    trainer.train()?;
    trainer.finish()
}
