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

/// Rows of `width` values as rows of `stride`, with `fill` behind them.
pub fn widened(rows: &[f32], width: usize, stride: usize, fill: f32) -> Vec<f32> {
    let mut wide = vec![fill; rows.len() / width * stride];
    for (wide, row) in wide.chunks_exact_mut(stride).zip(rows.chunks_exact(width)) {
        wide[..width].copy_from_slice(row);
    }
    wide
}
