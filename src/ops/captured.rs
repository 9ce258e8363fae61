//! A micro-batch's work on a GPU, recorded once and replayed for others of the same shape: a CUDA graph.
//!
//! Asking for a step kernel by kernel takes the host milliseconds, which small models compute faster than that. A replay asks
//! once. What differs between micro-batches is copied to where the recorded work reads it; the rest is in memory of the
//! device anyway (loss scale, counts, weights), or is the same in the whole run.

use candle_core::Tensor;

use super::dropout::DropoutNames;
use super::soft_cross_entropy::TargetsThere;
#[cfg(feature = "cuda")]
pub use crate::ops::cuda::captured::Captured;
#[cfg(not(feature = "cuda"))]
pub use nowhere::Captured;

/// What a micro-batch brings, on the GPU.
#[derive(Clone, Debug)]
pub struct MicroBatch<'a> {
    pub pixels_bchw: Tensor,
    pub targets: TargetsThere,
    pub names: DropoutNames<'a>,
}

/// What a program without GPU support has in its place.
#[cfg(not(feature = "cuda"))]
mod nowhere {
    use super::MicroBatch;
    use crate::error::Result;
    use crate::ops::storage::refused;

    pub enum Captured {}

    impl Captured {
        pub fn record(like: &MicroBatch, _work: impl FnOnce(&MicroBatch) -> Result<()>) -> Result<Captured> {
            Err(refused(format!("a graph on {:?}", like.pixels_bchw.device())))
        }

        pub fn fits(&self, _with: &MicroBatch) -> bool {
            match *self {}
        }

        pub fn replay(&self, _with: &MicroBatch) -> Result<()> {
            match *self {}
        }
    }
}
