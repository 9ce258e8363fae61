//! What is trained and how it moves: flat parameters, AdamW, clipping, the learning rate's schedule.

pub mod adamw;
mod average;
pub mod parameters;
mod scaler;
mod schedule;
mod step_end;

pub use adamw::{AdamW, AdamWConfig};
pub use average::MovingAverage;
pub use parameters::{Decay, Parameter, Parameters};
pub use scaler::{GradScaler, Gradients};
pub use schedule::LearningRate;
pub use step_end::{Judgement, StepEnd, Verdict};
