//! The training run: trainer, evaluation, checkpoints, health.

mod run;

pub use run::{BestMetric, Run, When};
