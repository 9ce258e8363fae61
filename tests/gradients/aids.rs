//! Weighted and mixed losses against what torch and timm computed (tests/fixtures/training_aids.py).

use std::path::Path;

use candle_core::{Device, Tensor};
use dtrain::ops::soft_cross_entropy::{Mixed, Targets, soft_cross_entropy};
use safetensors::SafeTensors;

use super::close;

/// A tensor of the fixture, as f32 or u32 of four bytes each.
fn stored<T>(name: &str, of: fn([u8; 4]) -> T) -> Vec<T> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/training_aids.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(name).unwrap_or_else(|_| panic!("no {name}"));
    tensor
        .data()
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| of(*bytes))
        .collect()
}

fn floats(name: &str) -> Vec<f32> {
    stored(name, f32::from_le_bytes)
}

fn tensor(name: &str, shape: &[usize]) -> Tensor {
    Tensor::from_vec(floats(name), shape, &Device::Cpu).unwrap()
}

/// torch divides by the sum of the labels' weights, or, where targets are probabilities, by the samples.
#[test]
fn weighted_and_mixed_losses_are_torchs() {
    let logits = tensor("loss.logits", &[6, 7]);
    let (labels, second_labels) = (
        stored("loss.labels", u32::from_le_bytes),
        stored("loss.second_labels", u32::from_le_bytes),
    );
    let (weights, shares) = (floats("loss.weights"), floats("loss.shares"));
    let of_labels: f64 = labels.iter().map(|label| f64::from(weights[*label as usize])).sum();
    let mixed = Mixed {
        second_labels: &second_labels,
        shares: &shares,
    };
    for smoothing in [0.0, 0.1] {
        for (name, mixed, weights, divisor) in [
            ("weighted", None, Some(&weights[..]), of_labels),
            ("mixed", Some(mixed), None, 6.0),
            ("mixed_weighted", Some(mixed), Some(&weights[..]), 6.0),
        ] {
            let targets = Targets {
                labels: &labels,
                mixed,
                smoothing,
                weights,
            };
            let ours = soft_cross_entropy(&logits, &targets, 1.0 / divisor).unwrap();
            let name = format!("loss.{name}_{smoothing:.1}");
            // Theirs is f32.
            close(
                &name,
                &ours.dlogits_bc,
                &tensor(&format!("{name}.dlogits"), &[6, 7]),
                1e-6,
            );
            let expected = f64::from(floats(&format!("{name}.loss"))[0]);
            assert!(
                (ours.sum_loss / divisor / expected - 1.0).abs() < 1e-6,
                "{name}: {} {expected}",
                ours.sum_loss
            );
        }
    }
}
