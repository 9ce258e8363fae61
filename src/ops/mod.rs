//! Primitives on candle tensors: one file each, CPU and GPU behind one plain function.
//!
//! Nothing above this layer looks at a device or a storage. Shapes are in the names of arguments (legend: b images,
//! s tokens, d width, n rows = b·s, i inputs, o outputs, r rank, h heads, c classes). Results depend neither on the
//! number of threads nor on the instruction set's width: every sum has a fixed order.

pub mod adamw;
pub mod attention;
pub mod average;
pub mod batch_norm;
pub mod captured;
pub mod cast;
pub mod ceilings;
pub mod convolution;
#[cfg(test)]
pub mod counted;
pub mod cross_entropy;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod dropout;
pub mod gelu;
pub mod gemm;
pub mod intake;
pub mod interleave;
pub mod jpeg;
pub mod launch;
pub mod layer_norm;
pub mod low_rank;
pub mod maps;
pub mod matmul;
pub mod meter;
pub mod mixing;
pub mod normalization;
pub mod parts;
pub mod patches;
pub mod pixels;
pub mod pool;
pub mod preprocess;
pub mod reduce;
pub mod resample;
pub mod residual;
pub mod soft_cross_entropy;
pub mod staging;
pub mod step_state;
pub mod storage;
pub mod webp;

mod lanes;
mod math;
mod simd;
