//! From shards to normalized batches.

mod order;

pub use order::{MicroBatch, Order, Plan, evaluation_share};
