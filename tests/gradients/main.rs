//! Every layer's forward and backward against PyTorch's stored values, and every parameter's gradient of whole models
//! against candle's autograd (in f64, on its plain differentiable operations).

mod aids;
mod bf16;
#[path = "../common/mod.rs"]
mod common;
mod convolutions;
mod layers;
mod models;
mod reference;
mod resnets;
mod stored;

use candle_core::{DType, Device, Tensor};
use dtrain::ops::storage;
use dtrain::rng::{Purpose, Stream};

pub fn random(shape: &[usize], number: u32, scale: f64) -> Tensor {
    let stream = Stream::new(77, 0, 0, Purpose::Init(number));
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n as u32).map(|i| (scale * stream.normal(i)) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

pub fn set(to: &Tensor, from: &Tensor) {
    let from = from.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    storage::update(to, |to| to.copy_from_slice(&from)).unwrap();
}

/// Within `tolerance` of the largest expected value (or of 1, if that is smaller).
pub fn close(what: &str, ours: &Tensor, expected: &Tensor, tolerance: f64) {
    let flat = |t: &Tensor| {
        t.to_dtype(DType::F64)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f64>()
            .unwrap()
    };
    assert_eq!(ours.elem_count(), expected.elem_count(), "{what}");
    let (ours, expected) = (flat(ours), flat(expected));
    let size = expected.iter().fold(1.0f64, |largest, x| largest.max(x.abs()));
    for (i, (ours, expected)) in ours.iter().zip(&expected).enumerate() {
        let difference = (ours - expected).abs();
        assert!(difference <= tolerance * size, "{what}[{i}]: {ours} for {expected}");
    }
}
