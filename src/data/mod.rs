//! From shards to normalized batches.

// Files to rows.
mod arrow;
mod arrow_columns;
mod cache;
mod card;
mod demo;
mod drawing;
mod features;
mod folder;
mod keywords;
mod layout;
mod metadata;
mod numpy_rng;
mod parquet;
mod parquet_file;
mod saved;
mod shard;
mod source;
mod split;
mod walk;
// Rows to batches.
mod order;
pub mod decode;
pub mod augment;
pub mod preprocessor;
pub mod transform;
pub mod loader;

pub use decode::{Pixels, decode};
pub use demo::{DemoDataset, DemoSubject, write_demo_dataset};
pub use features::Columns;
pub use loader::{BadImage, Batch, Loader, LoaderConfig, LoaderStatistics, Samples};
pub use order::{MicroBatch, Order, Plan, evaluation_share};
pub use preprocessor::Preprocessor;
pub use source::{Dataset, Description, SplitDescription};
pub use split::{Slice, TestSize};
pub use transform::Transform;
