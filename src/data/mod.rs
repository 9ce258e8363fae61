//! From shards to normalized batches.

mod order;
pub mod decode;
pub mod augment;
pub mod preprocessor;
pub mod transform;
pub mod loader;

pub use decode::{Pixels, decode};
pub use loader::{BadImage, Batch, Loader, LoaderConfig, LoaderStatistics, Samples};
pub use order::{MicroBatch, Order, Plan, evaluation_share};
pub use preprocessor::Preprocessor;
pub use transform::Transform;
