//! Whole ResNets on the GPU against the same on the CPU: logits, every gradient, running statistics, inference.

use candle_core::{DType, Device, Tensor};
use dtrain::model::{ResNet, ResNetConfig, Training};
use dtrain::ops::cross_entropy::cross_entropy;
use dtrain::ops::device::Placement;
use dtrain::ops::matmul::Products;
use dtrain::ops::storage::{update, values};
use dtrain::recipe::FrozenPart;

use super::{close, place, random, there};

/// How far logits, and all gradients together, may be from f32's, relative to the norm. Each normalisation divides what rounding has
/// left in differences from a mean, and where a value is so near to 0 that rounding decides whether a rectifier lets its gradient
/// pass, that gradient is another: PyTorch's autocast of models of these sizes is 0.03 to 0.11 off in f16 and 0.13 to 0.32 in bf16,
/// and of a single weight up to 2.5 times as much. The ops by themselves are held much closer (`maps`).
const FORMATS: [(DType, f64, f64); 3] = [
    (DType::F32, 2e-5, 2e-5),
    (DType::F16, 3e-2, 1.2e-1),
    (DType::BF16, 2.5e-1, 4e-1),
];

const LABELS: [u32; 6] = [0, 3, 1, 2, 2, 1];

fn config(kind: &str) -> ResNetConfig {
    let json = serde_json::json!({
        "model_type": "resnet", "embedding_size": 8, "layer_type": kind, "hidden_sizes": [16, 32], "depths": [1, 2],
        "id2label": {"0": "a", "1": "b", "2": "c", "3": "d"},
    });
    ResNetConfig::from_json(json, std::path::Path::new("config.json")).unwrap()
}

/// The same model on the CPU and on the GPU, with normalisations that are not the identity.
fn twins(kind: &str, training: &Training, dtype: DType) -> (ResNet, ResNet) {
    let dir = tempfile::tempdir().unwrap();
    let lively = ResNet::random(config(kind), &Training::Full, 1, &Device::Cpu).unwrap();
    let statistics = lively.statistics().named().unwrap();
    for (i, (name, tensor)) in lively.tensors().iter().chain(&statistics).enumerate() {
        let (factor, noise) = match name.rsplit('.').next().unwrap() {
            "running_var" => (0.5, 0.2),
            "running_mean" | "bias" => (0.0, 0.2),
            "weight" if name.contains("normalization") => (1.0, 0.2),
            _ => continue,
        };
        let noise = random(tensor.dims(), 100 + i as u32, noise);
        let noise = values(&noise).unwrap();
        update(tensor, |to| {
            to.iter_mut()
                .zip(noise.iter())
                .for_each(|(to, x)| *to = factor + x.abs())
        })
        .unwrap();
    }
    lively.save_full(dir.path()).unwrap();
    let load = |placement: Placement| {
        let (resnet, _) = ResNet::load(dir.path(), &config(kind).classes, training, 3, placement).unwrap();
        resnet
    };
    let gpu = Placement {
        device: place::gpu().clone(),
        compute: dtype,
        products: Products::F32,
    };
    (load((&Device::Cpu).into()), load(gpu))
}

/// Forward, loss and backward; logits and loss.
fn walk(resnet: &mut ResNet, pixels: &Tensor) -> (Tensor, f64) {
    let logits = resnet.forward(pixels).unwrap();
    let loss = cross_entropy(&logits, &LABELS, 0.1, 1.0).unwrap();
    resnet.backward(&loss.dlogits_bc).unwrap();
    (logits, loss.sum_loss)
}

#[test]
fn logits_and_gradients_are_the_cpus() {
    let pixels = random(&[6, 3, 40, 32], 1, 1.0);
    let frozen = |parts: &str| Training::AllBut(vec![FrozenPart::Named(parts.to_owned())]);
    for (kind, training) in [
        ("bottleneck", Training::Full),
        ("basic", Training::Full),
        ("bottleneck", frozen("embedder")),
        ("basic", Training::Head),
    ] {
        for (dtype, tolerance, of_gradients) in FORMATS {
            let what = format!("{kind}, {training:?}, {dtype:?}");
            let (mut cpu, mut gpu) = twins(kind, &training, dtype);
            let (expected, loss) = walk(&mut cpu, &pixels);
            let (ours, our_loss) = walk(&mut gpu, &there(&pixels, DType::F32));
            close(&format!("{what}: logits"), &ours, &expected, tolerance);
            assert!(
                (our_loss / loss - 1.0).abs() < tolerance,
                "{what}: {our_loss} for {loss}"
            );
            for (i, entry) in cpu.parameters().entries.iter().enumerate() {
                let [ours, expected] = [&gpu, &cpu].map(|model| model.parameters().gradient(i).unwrap());
                assert_eq!(ours.dtype(), DType::F32);
                close(&format!("{what}: {}", entry.name), &ours, &expected, 2.5 * of_gradients);
            }
            let [ours, expected] = [&gpu, &cpu].map(|model| model.parameters().gradients.clone());
            close(&format!("{what}: all gradients"), &ours, &expected, of_gradients);
            assert_eq!(gpu.statistics().batches, cpu.statistics().batches);
            let [ours, expected] = [&gpu, &cpu].map(|model| model.statistics().values.clone());
            close(&format!("{what}: statistics"), &ours, &expected, tolerance / 2.0);
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

/// What is written is what is trained: a model saved from the GPU and loaded on the CPU computes the same.
#[test]
fn a_saved_resnet_is_the_one_that_was_trained() {
    let pixels = random(&[6, 3, 32, 32], 1, 1.0);
    let (_, mut gpu) = twins("bottleneck", &Training::Full, DType::F16);
    walk(&mut gpu, &there(&pixels, DType::F32));
    let dir = tempfile::tempdir().unwrap();
    gpu.save_full(dir.path()).unwrap();
    let classes = config("bottleneck").classes;
    let (cpu, _) = ResNet::load(dir.path(), &classes, &Training::Head, 3, &Device::Cpu).unwrap();
    let ours = gpu.infer(&there(&pixels, DType::F32)).unwrap();
    close("infer", &ours, &cpu.infer(&pixels).unwrap(), 1.2e-2);
    assert_eq!(cpu.statistics().batches, gpu.statistics().batches);
}
