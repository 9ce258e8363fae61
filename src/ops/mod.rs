//! Primitives: one file each, every device behind one function.

pub mod jpeg;
pub mod resample;
pub mod webp;
pub mod gemm;
