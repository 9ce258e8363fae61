//! Weighted and mixed losses and partly frozen ResNets against what torch, timm and transformers computed
//! (tests/fixtures/training_aids.py).

use std::path::Path;

use candle_core::{Device, Tensor};
use dtrain::model::{ResNet, ResNetConfig, Training};
use dtrain::ops::soft_cross_entropy::{Mixed, Targets, soft_cross_entropy};
use dtrain::optim::MovingAverage;
use dtrain::recipe::FrozenPart;
use safetensors::SafeTensors;
use serde_json::json;

use super::{close, set};

const AIDS: &str = "training_aids.safetensors";

/// A tensor of a fixture, as f32 or u32 of four bytes each.
fn stored<T>(file: &str, name: &str, of: fn([u8; 4]) -> T) -> Vec<T> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(file);
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
    stored(AIDS, name, f32::from_le_bytes)
}

fn tensor(name: &str, shape: &[usize]) -> Tensor {
    Tensor::from_vec(floats(name), shape, &Device::Cpu).unwrap()
}

/// torch divides by the sum of the labels' weights, or, where targets are probabilities, by the samples.
#[test]
fn weighted_and_mixed_losses_are_torchs() {
    let logits = tensor("loss.logits", &[6, 7]);
    let (labels, second_labels) = (
        stored(AIDS, "loss.labels", u32::from_le_bytes),
        stored(AIDS, "loss.second_labels", u32::from_le_bytes),
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

/// Bit for bit: both round each product and the sum.
#[test]
fn averages_of_weights_are_timms() {
    let values = tensor("average.0", &[15]);
    let average = MovingAverage::new(0.9, std::slice::from_ref(&values)).unwrap();
    for step in 1..=3 {
        set(&values, &tensor(&format!("average.values{step}"), &[15]));
        average.update(std::slice::from_ref(&values), None).unwrap();
        let mean = average.means()[0].to_vec1::<f32>().unwrap();
        assert_eq!(mean, floats(&format!("average.{step}")), "step {step}");
    }
    average.swap(std::slice::from_ref(&values)).unwrap();
    assert_eq!(values.to_vec1::<f32>().unwrap(), floats("average.3"));
    assert_eq!(average.means()[0].to_vec1::<f32>().unwrap(), floats("average.values3"));
    assert!(average.restore(&[&[0.0; 14]]).is_err());
}

/// What is frozen computes as in inference and keeps its statistics; what is not has torch's gradients.
#[test]
fn a_partly_frozen_resnet_is_transformers() {
    let config = json!({
        "model_type": "resnet", "embedding_size": 5, "layer_type": "basic", "hidden_sizes": [6, 10], "depths": [2, 1],
        "id2label": {"0": "a", "1": "b", "2": "c"},
    });
    let config = ResNetConfig::from_json(config, Path::new("config.json")).unwrap();
    let resnet = |frozen: &str| {
        let training = Training::AllBut(vec![FrozenPart::read(frozen).unwrap()]);
        ResNet::random(config.clone(), &training, 1, &Device::Cpu)
    };
    let variant = |name: &str, shape: &[usize]| {
        let values = stored(
            "resnet_variants.safetensors",
            &format!("basic.{name}"),
            f32::from_le_bytes,
        );
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    };
    let mut ours = resnet("1").unwrap();
    let statistics = ours.statistics().named().unwrap();
    for (name, to) in ours.tensors().iter().chain(&statistics) {
        if !name.ends_with("num_batches_tracked") {
            set(to, &variant(&format!("first.{name}"), to.dims()));
        }
    }
    let logits = ours.forward(&variant("pixels", &[3, 3, 37, 29])).unwrap();
    close("logits", &logits, &tensor("frozen.logits", &[3, 3]), 2e-5);
    ours.backward(&variant("upstream", &[3, 3])).unwrap();
    // The last stage (two convolutions and a shortcut, each with a weight and two of its normalisation), and the classifier.
    assert_eq!(ours.parameters().entries.len(), 3 * 3 + 2);
    for (at, entry) in ours.parameters().entries.iter().enumerate() {
        let expected = tensor(&format!("frozen.gradient.{}", entry.name), &entry.shape);
        close(&entry.name, &ours.parameters().gradient(at).unwrap(), &expected, 1e-4);
    }
    for (name, after) in ours.statistics().named().unwrap() {
        let after = after.to_dtype(candle_core::DType::F32).unwrap();
        close(
            &name,
            &after,
            &tensor(&format!("frozen.after.{name}"), after.dims()),
            1e-5,
        );
    }
    // All stages: the classifier alone is left. A part above a trained one cannot be frozen.
    assert_eq!(resnet("2").unwrap().parameters().entries.len(), 2);
    for frozen in ["stages.1", "stages.0-1"] {
        let error = resnet(frozen).err().expect(frozen).to_string();
        assert!(error.contains("must be its lowest"), "{error}");
    }
}
