//! The CUDA side of dtrain: every op and whole models against the CPU, on a GPU or, where there is none, on a stand-in.
//!
//! The stand-in (tests/stand_in) takes the place of CUDA's libraries and runs the kernels' own sources on the processor; what it
//! cannot show is speed, tensor cores and work that overlaps. `benchmarks/gpu.sh` runs this program on a real GPU.

#[path = "../kernels/case.rs"]
#[allow(dead_code)]
mod case;
#[path = "../common/mod.rs"]
mod common;
#[path = "../kernels/host.rs"]
#[allow(dead_code)]
mod host;
mod commands;
mod feed;
mod graphs;
#[path = "../common/job.rs"]
mod job;
mod maps;
mod models;
mod ops;
mod place;
#[path = "../common/playground.rs"]
mod playground;
mod residual_runs;
mod resnets;
mod runs;
mod trouble;

use candle_core::{DType, Device, Tensor};
use dtrain::ops::cast::{cast, sent};
use dtrain::ops::storage::values;
use dtrain::rng::{Purpose, Stream};

/// Number formats of a GPU, and how far results in them may be from f32's, relative to the norm of all values: a few
/// roundings of the format (2⁻²⁴, 2⁻¹¹, 2⁻⁸), which sums of many terms average out.
pub const FORMATS: [(DType, f64); 3] = [(DType::F32, 2e-6), (DType::F16, 2e-3), (DType::BF16, 1.6e-2)];

/// normal(0, scale²), by number.
pub fn random(shape: &[usize], number: u32, scale: f64) -> Tensor {
    let stream = Stream::new(78, 0, 0, Purpose::Init(number));
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n as u32).map(|i| (scale * stream.normal(i)) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// A copy on the GPU.
pub fn there(x: &Tensor, dtype: DType) -> Tensor {
    sent(x, place::gpu(), dtype).unwrap()
}

/// x as it is after a stay in `dtype`: what both sides start from.
pub fn rounded(x: &Tensor, dtype: DType) -> Tensor {
    let back = cast(&there(x, dtype), DType::F32).unwrap();
    let values = values(&back).unwrap().to_vec();
    Tensor::from_vec(values, x.shape(), &Device::Cpu).unwrap()
}

/// ‖ours − expected‖ ≤ tolerance·‖expected‖, and nothing unwritten.
pub fn close(what: &str, ours: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(ours.dims(), expected.dims(), "{what}");
    let (ours, expected) = (values(ours).unwrap(), values(expected).unwrap());
    let mut difference = 0.0;
    let mut norm = 0.0;
    for (a, b) in ours.iter().zip(expected.iter()) {
        difference += (*a as f64 - *b as f64).powi(2);
        norm += (*b as f64).powi(2);
    }
    let error = difference.sqrt() / norm.sqrt().max(1e-30);
    assert!(
        error <= tolerance,
        "{what}: relative error {error:.2e}, {tolerance:.0e} is allowed"
    );
}
