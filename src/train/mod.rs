//! The training run: trainer, evaluation, checkpoints, health.

mod run;

pub use crate::recipe::BestMetric;
pub use run::{Run, When};
