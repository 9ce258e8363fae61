//! What all CUDA sides of the ops share: the driver, the process's GPU with its kernels, memory, matrix products.
//!
//! All work goes to the one stream of the device, so its order is the program's order; memory is freed in that order, too.
//! Two streams stand beside it and order themselves by events: NCCL's, and the one on which images come (`intake`).
//! None of candle's own kernels is used: they are compiled when they are first called, which takes seconds.

pub mod argument;
pub mod attention;
mod attention_gradients;
pub mod average;
pub mod batch_norm;
pub mod captured;
pub mod convolution;
pub mod cublaslt;
pub mod driver;
pub mod dropout;
pub mod elementwise;
mod event;
pub mod gpu;
mod graph;
pub mod intake;
pub mod layer_norm;
pub mod low_rank;
pub mod matmul;
pub mod memory;
pub mod mixing;
pub mod page_locked;
pub mod pool;
pub mod soft_cross_entropy;
pub mod step;
pub mod step_state;
pub mod tokens;
pub mod windows;

pub use gpu::Gpu;
pub use memory::{Operand, Output};

use crate::error::Error;

/// The null pointer: an operand that a kernel can do without.
const NULL: u64 = 0;

/// A failure of one of CUDA's libraries. After some, such as a kernel's access to memory that is not there, the driver answers
/// everything with the same error: then that is what is told, whoever found it.
pub(crate) fn failed(what: impl std::fmt::Display, cause: impl std::fmt::Display) -> Error {
    match driver::loss() {
        Some(cause) => Error::GpuLost {
            what: what.to_string(),
            cause,
        },
        None => Error::Tensor(candle_core::Error::Msg(format!("{what}: {cause}"))),
    }
}
