//! What the ranks of a job do together, behind one small trait.
//!
//! MPI is the engine of CPU tensors and of all control traffic, NCCL that of gradients on GPUs; a single process needs
//! none. Nothing here re-implements a collective algorithm.

mod agree;
mod gpus;
mod job;
mod launcher;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "cuda")]
mod nccl;
#[cfg(feature = "mpi")]
mod roll_call;
mod single;
#[cfg(any(feature = "mpi", feature = "cuda"))]
// NCCL's part of it is tested on machines without a GPU, too.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
mod waiting;
#[cfg(feature = "mpi")]
mod watch;

use std::sync::Arc;
use std::time::Duration;

use candle_core::Tensor;

pub use agree::{gather, same_everywhere, share};
pub use gpus::{ranks_of_device, with_devices};
pub use job::{host, job};
pub use launcher::Launcher;
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use single::Single;

use crate::error::Result;
use crate::ops::storage;

/// A group of ranks. Every rank must make the same calls in the same order.
pub trait Collective: Send + Sync {
    /// 0 ≤ rank < world.
    fn rank(&self) -> usize;
    fn world(&self) -> usize;
    /// Rank among the processes of this node, and how many there are.
    fn local(&self) -> LocalRank;
    /// Replaces `values` on every rank by the element-wise sum over the ranks.
    fn sum_f32(&self, values: &mut [f32]) -> Result<()>;
    /// The same for a contiguous f32 tensor (on a GPU also f64), wherever it lies. On a GPU it is asked for, behind all work that was asked for
    /// before and ahead of what follows.
    fn sum_tensor(&self, values: &Tensor) -> Result<()> {
        storage::update(values, |values| self.sum_f32(values))?
    }
    /// May sums of tensors run beside other work of the device?
    fn sums_overlap(&self) -> bool {
        false
    }
    /// Asks for the sum of a tensor, behind what was asked for before; what is asked for later may run beside it and must not
    /// touch it before [`Collective::join_sums`].
    fn begin_sum(&self, values: &Tensor) -> Result<()> {
        self.sum_tensor(values)
    }
    /// What is asked for from now on comes after all sums that were begun.
    fn join_sums(&self) -> Result<()> {
        Ok(())
    }
    /// The same in f64: losses, counts, metrics.
    fn sum_f64(&self, values: &mut [f64]) -> Result<()>;
    /// Replaces `bytes` on every rank by those of `root`; the length is the same everywhere.
    fn broadcast(&self, bytes: &mut [u8], root: usize) -> Result<()>;
    /// Returns when every rank has arrived.
    fn barrier(&self) -> Result<()>;
    /// Waits until `is_done`, for work of this rank's device that may itself be waiting for other ranks.
    fn wait(&self, is_done: &mut dyn FnMut() -> Result<bool>) -> Result<()> {
        while !is_done()? {
            std::thread::sleep(Duration::from_micros(20));
        }
        Ok(())
    }
    /// Has some rank called [`Collective::silent_ranks`]? Whoever waits outside of these calls asks now and then.
    fn given_up(&self) -> bool {
        false
    }
    /// Says that this rank has given up waiting, listens to the others, and returns those that did not say so themselves.
    fn silent_ranks(&self, _patience: Duration) -> Vec<usize> {
        Vec::new()
    }
    /// Ends the whole job at once with `code`; never returns.
    fn abort(&self, code: i32) -> !;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalRank {
    pub rank: usize,
    pub world: usize,
}

/// Joins the job that this process was started in, or stands alone when no launcher started it.
///
/// MPI is initialised only under a launcher: without one it costs tenths of a second for nothing.
/// Errors: a launcher says that there are several ranks and they cannot be reached; or it disagrees with MPI.
pub fn join() -> Result<Arc<dyn Collective>> {
    match Launcher::of_this_process()? {
        Some(launcher) if launcher.world > 1 => connect(&launcher),
        _ => Ok(Arc::new(Single)),
    }
}

#[cfg(feature = "mpi")]
fn connect(launcher: &Launcher) -> Result<Arc<dyn Collective>> {
    waiting::limit()?;
    Ok(Arc::new(Mpi::join(launcher)?))
}

#[cfg(not(feature = "mpi"))]
fn connect(launcher: &Launcher) -> Result<Arc<dyn Collective>> {
    Err(crate::error::Error::Ranks {
        what: format!(
            "{} started {} processes, but this dtrain was built without MPI",
            launcher.name, launcher.world
        ),
        fix: "build it with `--features mpi`, or start it as a single process".into(),
    })
}
