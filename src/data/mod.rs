//! From shards to normalized batches.

// Files to rows.
mod demo;
mod drawing;
mod numpy_rng;
mod source;
mod split;
// Rows to batches.
mod order;
mod mixing;
pub mod decode;
pub mod augment;
pub mod preprocessor;
pub mod transform;
pub mod loader;
mod pictures;
mod device_pictures;

pub use decode::{Pixels, decode};
pub use demo::{DemoDataset, DemoSubject, write_demo_dataset};
pub use device_pictures::{DevicePictures, DeviceRoom, kept_bytes};
pub use loader::{BadImage, Batch, Feed, FeedShape, Loader, LoaderConfig, LoaderStatistics, Samples, prefetch_batches};
pub use mixing::Mixing;
pub use order::{
    Access, BlockShuffle, Blocks, Draw, EpochOrder, Lanes, MicroBatch, Order, Pairing, Plan, evaluation_share,
};
pub use pictures::{PictureCache, PictureSizes};
pub use preprocessor::Preprocessor;
pub use source::{Columns, Dataset, Description, Source, SplitDescription, is_image, usable_memory};
pub use split::{Slice, TestSize};
pub use transform::{Augmentations, Transform};
