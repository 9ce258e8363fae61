//! Flat parameters and what moves them.

mod schedule;

pub use schedule::LearningRate;
