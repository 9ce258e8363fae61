//! What the ranks of a job do together, behind one small trait.
//!
//! MPI is the engine of CPU tensors and of all control traffic; a single process needs none. Nothing here re-implements
//! a collective algorithm.

use crate::error::Result;

/// A group of ranks. Every rank must make the same calls in the same order.
pub trait Collective: Send + Sync {
    /// 0 ≤ rank < world.
    fn rank(&self) -> usize;
    fn world(&self) -> usize;
    /// Rank among the processes of this node, and how many there are.
    fn local(&self) -> LocalRank;
    /// Replaces `values` on every rank by the element-wise sum over the ranks.
    fn sum_f32(&self, values: &mut [f32]) -> Result<()>;
    /// The same in f64: losses, counts, metrics.
    fn sum_f64(&self, values: &mut [f64]) -> Result<()>;
    /// Replaces `bytes` on every rank by those of `root`; the length is the same everywhere.
    fn broadcast(&self, bytes: &mut [u8], root: usize) -> Result<()>;
    /// Returns when every rank has arrived.
    fn barrier(&self) -> Result<()>;
    /// Ends the whole job at once with `code`; never returns.
    fn abort(&self, code: i32) -> !;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalRank {
    pub rank: usize,
    pub world: usize,
}
