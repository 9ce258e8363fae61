//! Numbers that the cases are made of.

use candle_core::{Device, Tensor};
use dtrain::ops::storage;
use dtrain::rng::{Purpose, Stream};

use super::case::Format;

/// Normal deviates, rounded to the format; `which` names the series.
pub fn normal(format: Format, count: usize, which: u64) -> Vec<f32> {
    let stream = Stream::new(which, 0, 0, Purpose::Augment(0));
    (0..count as u32)
        .map(|i| format.rounded(stream.normal(i) as f32))
        .collect()
}

pub fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).expect("a tensor")
}

pub fn values(tensor: &Tensor) -> Vec<f32> {
    storage::values(tensor).expect("values").to_vec()
}
