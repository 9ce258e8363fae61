//! Whole models on the GPU against the same models on the CPU: logits, every gradient, and values after steps.

use candle_core::{DType, Device, Tensor};
use dtrain::model::{DropoutNames, LoraConfig, Training, Vit, VitConfig};
use dtrain::ops::cross_entropy::cross_entropy;
use dtrain::ops::device::Placement;
use dtrain::ops::matmul::Products;
use dtrain::ops::storage::{update, values};
use dtrain::optim::{AdamW, AdamWConfig, LearningRate, StepEnd};
use dtrain::recipe::Schedule;

use super::{close, place, random, there};

/// How far logits and gradients may be from f32's, relative to the norm: some forty roundings lie one behind the other, and
/// the gradients of the adapters are small differences of large numbers.
const FORMATS: [(DType, f64); 3] = [(DType::F32, 2e-5), (DType::F16, 2.5e-2), (DType::BF16, 2e-1)];

const LABELS: [u32; 3] = [0, 3, 1];
const SAMPLES: [u64; 3] = [5, 900_000_000_000, 6];

/// Three layers, 10 tokens of width 64 (one head of the width that has its own kernels, or four of 16), 4 classes.
fn config(heads: usize) -> VitConfig {
    let json = serde_json::json!({
        "model_type": "vit", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": heads,
        "intermediate_size": 40, "image_size": 12, "patch_size": 4,
        "id2label": {"0": "a", "1": "b", "2": "c", "3": "d"},
    });
    VitConfig::from_json(json, std::path::Path::new("config.json")).unwrap()
}

/// The same model on the CPU and on the GPU, with weights that are large enough that attention attends and GELU bends.
fn twins(heads: usize, training: &Training, dtype: DType) -> (Vit, Vit) {
    twins_on(place::gpu(), heads, training, dtype)
}

pub fn twins_on(device: &Device, heads: usize, training: &Training, dtype: DType) -> (Vit, Vit) {
    let dir = tempfile::tempdir().unwrap();
    let lively = Vit::random(config(heads), &Training::Full, 1, &Device::Cpu).unwrap();
    for (i, (name, tensor)) in lively.tensors().iter().enumerate() {
        let is_norm = name.contains("layernorm") && name.ends_with("weight");
        let noise = random(tensor.dims(), 100 + i as u32, 0.25);
        let noise = values(&noise).unwrap();
        let centre = if is_norm { 1.0 } else { 0.0 };
        update(tensor, |to| {
            to.iter_mut().zip(noise.iter()).for_each(|(to, x)| *to = centre + x)
        })
        .unwrap();
    }
    lively.save_full(dir.path()).unwrap();
    let load = |placement: Placement| {
        let (vit, _) = Vit::load(dir.path(), &config(heads).classes, training, 3, placement).unwrap();
        let noise = random(&[vit.parameters().count()], 9, 0.1);
        let noise = values(&noise).unwrap();
        update(&vit.parameters().values, |to| {
            to.iter_mut().zip(noise.iter()).for_each(|(to, x)| *to += x)
        })
        .unwrap();
        vit
    };
    let gpu = Placement {
        device: device.clone(),
        compute: dtype,
        products: Products::F32,
    };
    (load((&Device::Cpu).into()), load(gpu))
}

pub fn lora() -> Training {
    let targets = ["query", "key", "value"].map(str::to_owned);
    Training::Lora(LoraConfig::new(2, 3.0, 0.25, &targets).unwrap())
}

/// Of a rank that tensor cores compute with the projections.
pub fn widened(targets: &[&str], dropout: f64) -> Training {
    let targets: Vec<String> = targets.iter().map(|&target| target.to_owned()).collect();
    Training::Lora(LoraConfig::new(16, 8.0, dropout, &targets).unwrap())
}

/// Forward, loss and backward; logits and loss.
fn walk(vit: &mut Vit, pixels: &Tensor, scale: f64) -> (Tensor, f64) {
    let names = DropoutNames {
        seed: 11,
        epoch: 3,
        samples: &SAMPLES,
    };
    let logits = vit.forward(pixels, Some(&names)).unwrap();
    let loss = cross_entropy(&logits, &LABELS, 0.1, scale).unwrap();
    vit.backward(&loss.dlogits_bc).unwrap();
    (logits, loss.sum_loss)
}

#[test]
fn logits_and_gradients_are_the_cpus() {
    let pixels = random(&[3, 3, 12, 12], 1, 1.0);
    for (training, heads) in [
        (Training::Full, 4),
        (lora(), 1),
        (lora(), 4),
        (widened(&["query", "value"], 0.25), 1),
        (widened(&["value", "key", "query"], 0.0), 1),
        (Training::Head, 1),
    ] {
        for (dtype, tolerance) in FORMATS {
            let what = format!("{training:?}, {heads} heads, {dtype:?}");
            let (mut cpu, mut gpu) = twins(heads, &training, dtype);
            let (expected, loss) = walk(&mut cpu, &pixels, 1.0);
            let (ours, our_loss) = walk(&mut gpu, &there(&pixels, DType::F32), 1.0);
            close(&format!("{what}: logits"), &ours, &expected, tolerance);
            assert!(
                (our_loss / loss - 1.0).abs() < tolerance,
                "{what}: {our_loss} for {loss}"
            );
            for (i, entry) in cpu.parameters().entries.iter().enumerate() {
                let (ours, expected) = (
                    gpu.parameters().gradient(i).unwrap(),
                    cpu.parameters().gradient(i).unwrap(),
                );
                assert_eq!(ours.dtype(), DType::F32);
                // Softmax does not see what is added to all keys alike: their bias's gradient is rounding alone.
                if !entry.name.ends_with("key.bias") {
                    close(&format!("{what}: {}", entry.name), &ours, &expected, tolerance);
                }
            }
            let all = [gpu.parameters(), cpu.parameters()].map(|parameters| parameters.gradients.clone());
            close(&format!("{what}: all gradients"), &all[0], &all[1], tolerance / 2.0);
            let inferred = gpu.infer(&there(&pixels, DType::F32)).unwrap();
            assert_eq!(inferred.dtype(), DType::F32);
            close(
                &format!("{what}: infer"),
                &inferred,
                &cpu.infer(&pixels).unwrap(),
                tolerance,
            );
        }
    }
}

#[test]
fn steps_move_values_as_the_cpus_do() {
    let pixels = random(&[3, 3, 12, 12], 1, 1.0);
    for (dtype, tolerance) in FORMATS {
        let (mut cpu, mut gpu) = twins(4, &lora(), dtype);
        let before = Tensor::from_vec(
            values(&cpu.parameters().values).unwrap().to_vec(),
            cpu.parameters().count(),
            &Device::Cpu,
        )
        .unwrap();
        // An ε above the small gradients, so that their rounding does not become the sign of a step.
        let config = AdamWConfig {
            epsilon: 1e-2,
            weight_decay: 0.1,
            ..AdamWConfig::default()
        };
        let train = |vit: &mut Vit, pixels: &Tensor, loss_scale: f64| {
            let mut optimizer = AdamW::new(vit.parameters(), config).unwrap();
            for _ in 0..3 {
                walk(vit, pixels, loss_scale / 3.0);
                let norm = vit.parameters().unscale_and_clip_gradients(loss_scale, 1.0).unwrap();
                assert!(norm.is_finite() && norm > 1.0, "{norm}");
                optimizer.step(vit.parameters(), 1e-2).unwrap();
                vit.parameters().zero_gradients().unwrap();
            }
            Tensor::from_vec(
                values(&vit.parameters().values).unwrap().to_vec(),
                vit.parameters().count(),
                &Device::Cpu,
            )
            .unwrap()
        };
        let expected = (train(&mut cpu, &pixels, 1.0) - &before).unwrap();
        let ours = (train(&mut gpu, &there(&pixels, DType::F32), 256.0) - &before).unwrap();
        close(&format!("three steps in {dtype:?}"), &ours, &expected, tolerance);
    }
}

/// What is written is what is trained: a model saved from the GPU and loaded on the CPU computes the same.
#[test]
fn a_saved_model_is_the_one_that_was_trained() {
    let pixels = random(&[2, 3, 12, 12], 1, 1.0);
    for training in [Training::Full, lora(), widened(&["query", "value"], 0.25)] {
        let (_, gpu) = twins(4, &training, DType::F16);
        let dir = tempfile::tempdir().unwrap();
        gpu.save_full(dir.path()).unwrap();
        let classes = config(4).classes;
        let (cpu, _) = Vit::load(dir.path(), &classes, &Training::Head, 3, &Device::Cpu).unwrap();
        let ours = gpu.infer(&there(&pixels, DType::F32)).unwrap();
        close(&format!("{training:?}"), &ours, &cpu.infer(&pixels).unwrap(), 1.2e-2);
    }
}

/// The copies that a model computes with after a step are those that would be made of its values.
#[test]
fn the_optimizer_rounds_what_it_moves() {
    let pixels = there(&random(&[3, 3, 12, 12], 1, 1.0), DType::F32);
    for dtype in [DType::F16, DType::BF16] {
        let (_, mut vit) = twins(1, &widened(&["query", "value"], 0.25), dtype);
        vit.refresh_when_told().unwrap();
        let bits = |vit: &Vit| values(&vit.infer(&pixels).unwrap()).unwrap().to_vec();
        let before = bits(&vit);
        let optimizer = AdamW::new(vit.parameters(), AdamWConfig::default()).unwrap();
        let rate = LearningRate {
            peak: 1e-2,
            schedule: Schedule::Constant,
            warmup_steps: 0,
            total_steps: 2,
        };
        let mut end = StepEnd::new(vit.parameters(), optimizer, None, rate, 1.0, 1).unwrap();
        walk(&mut vit, &pixels, 1.0);
        let verdict = end.judge(vit.parameters(), 0, 1).unwrap();
        end.update(vit.parameters(), &verdict).unwrap();
        vit.place_adapters().unwrap();
        let after = bits(&vit);
        vit.refresh().unwrap();
        assert!(after == bits(&vit), "{dtype:?}");
        assert!(after != before, "{dtype:?}");
    }
}
