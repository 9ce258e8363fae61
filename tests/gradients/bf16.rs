//! Models whose products round their operands to bf16, against the same models in f32.
//!
//! On a processor without AVX512_BF16 the portable product computes the same, slowly.

use candle_core::{Device, Tensor};
use dtrain::model::{DropoutNames, LoraConfig, ResNet, ResNetConfig, Training, Vit, VitConfig};
use dtrain::ops::attention::{Attention, Wanted, attention, attention_backward};
use dtrain::ops::cross_entropy::cross_entropy;
use dtrain::ops::device::Placement;
use dtrain::ops::matmul::Products;
use dtrain::optim::{AdamW, AdamWConfig, Parameters};
use dtrain::recipe::Precision;

use super::{random, set};

fn placement(precision: Precision) -> Placement {
    Placement::new(&Device::Cpu, precision)
}

fn lora() -> Training {
    let targets = ["query", "key", "value"].map(str::to_owned);
    Training::Lora(LoraConfig::new(2, 3.0, 0.25, &targets).unwrap())
}

/// Three layers, 10 tokens of width 48, 3 heads, 4 classes, with weights that are large enough that attention attends.
fn vit(training: &Training, precision: Precision) -> Vit {
    let json = serde_json::json!({
        "model_type": "vit", "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3,
        "intermediate_size": 80, "image_size": 12, "patch_size": 4,
        "id2label": {"0": "a", "1": "b", "2": "c", "3": "d"},
    });
    let config = VitConfig::from_json(json, std::path::Path::new("config.json")).unwrap();
    let vit = Vit::random(config, training, 1, placement(precision)).unwrap();
    for (i, (name, t)) in vit.tensors().iter().enumerate() {
        let is_norm = name.contains("layernorm") && name.ends_with("weight");
        let noise = random(t.dims(), 100 + i as u32, 0.25);
        set(t, &(noise + f64::from(u8::from(is_norm))).unwrap());
    }
    let adapters = random(&[vit.parameters().count()], 9, 0.1);
    set(
        &vit.parameters().values,
        &(&vit.parameters().values + adapters).unwrap(),
    );
    vit
}

/// Two stages of bottlenecks, with strides, on images of an odd number of pixels.
fn resnet(precision: Precision) -> ResNet {
    let json = serde_json::json!({
        "model_type": "resnet", "embedding_size": 6, "hidden_sizes": [8, 16], "depths": [1, 2],
        "layer_type": "bottleneck", "hidden_act": "relu",
        "id2label": {"0": "a", "1": "b", "2": "c", "3": "d"},
    });
    let config = ResNetConfig::from_json(json, std::path::Path::new("config.json")).unwrap();
    ResNet::random(config, &Training::Full, 1, placement(precision)).unwrap()
}

/// ‖ours - expected‖ / ‖expected‖
fn distance(ours: &Tensor, expected: &Tensor) -> f64 {
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| (x as f64).powi(2)).sum::<f64>().sqrt();
    let (ours, expected) = (flat(ours), flat(expected));
    norm(&mut ours.iter().zip(&expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied())
}

/// Roundings by 2⁻⁹ at most, dozens of them one behind the other: their effect is there, and small.
fn near(what: &str, ours: &Tensor, expected: &Tensor, most: f64) {
    let distance = distance(ours, expected);
    assert!(distance > 1e-5 && distance < most, "{what}: {distance:e}");
}

#[test]
fn gradients_of_a_vit_are_those_of_f32_but_for_rounding() {
    let samples = [5, 900_000_000_000, 6];
    let names = DropoutNames {
        seed: 11,
        epoch: 3,
        samples: &samples,
    };
    for training in [Training::Full, lora()] {
        let walk = |precision| {
            let mut vit = vit(&training, precision);
            let logits = vit.forward(&random(&[3, 3, 12, 12], 1, 1.0), Some(&names)).unwrap();
            let loss = cross_entropy(&logits, &[0, 3, 1], 0.1, 1.0).unwrap();
            vit.backward(&loss.dlogits_bc).unwrap();
            (logits, vit)
        };
        let ((expected, f32), (ours, bf16)) = (walk(Precision::Fp32), walk(Precision::Bf16));
        near("logits", &ours, &expected, 3e-2);
        let [ours, expected] = [&bf16, &f32].map(|vit| vit.parameters());
        near("all gradients", &ours.gradients, &expected.gradients, 5e-2);
        for (i, entry) in expected.entries.iter().enumerate() {
            // Softmax does not see what is added to all keys alike: their bias's gradient is rounding alone.
            if !entry.name.ends_with("key.bias") && !entry.name.starts_with("classifier") {
                let gradients = [ours, expected].map(|parameters| parameters.gradient(i).unwrap());
                near(&entry.name, &gradients[0], &gradients[1], 1e-1);
            }
        }
    }
}

#[test]
fn gradients_of_a_resnet_are_those_of_f32_but_for_rounding() {
    let walk = |precision| {
        let mut resnet = resnet(precision);
        let logits = resnet.forward(&random(&[6, 3, 37, 41], 1, 1.0)).unwrap();
        let loss = cross_entropy(&logits, &[0, 3, 1, 2, 2, 0], 0.0, 1.0).unwrap();
        resnet.backward(&loss.dlogits_bc).unwrap();
        (logits, resnet)
    };
    let ((expected, f32), (ours, bf16)) = (walk(Precision::Fp32), walk(Precision::Bf16));
    near("logits", &ours, &expected, 3e-2);
    let [ours, expected] = [&bf16, &f32].map(|resnet| &resnet.parameters().gradients);
    // One value in some hundred passes ReLU in one of the two and not in the other.
    near("all gradients", ours, expected, 4e-1);
}

#[test]
fn a_short_training_has_the_losses_of_f32() {
    let train = |precision| -> Vec<f64> {
        let mut vit = vit(&Training::Full, precision);
        let mut optimizer = AdamW::new(vit.parameters(), AdamWConfig::default()).unwrap();
        let steps = (0..12).map(|step| {
            let logits = vit.forward(&random(&[8, 3, 12, 12], 50 + step % 3, 1.0), None).unwrap();
            let loss = cross_entropy(&logits, &[0, 1, 2, 3, 3, 2, 1, 0], 0.0, 1.0 / 8.0).unwrap();
            vit.backward(&loss.dlogits_bc).unwrap();
            vit.parameters().clip_gradients(1.0).unwrap();
            optimizer.step(vit.parameters(), 1e-3).unwrap();
            vit.parameters().zero_gradients().unwrap();
            loss.sum_loss / 8.0
        });
        steps.collect()
    };
    let (f32, bf16) = (train(Precision::Fp32), train(Precision::Bf16));
    assert!(f32[11] < 0.8 * f32[0], "nothing was learned: {f32:?}");
    for (ours, expected) in bf16.iter().zip(&f32) {
        assert!((ours - expected).abs() < 2e-2 * f32[0], "{bf16:?} for {f32:?}");
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    fn step(parameters: &Parameters) -> Vec<u32> {
        let mut optimizer = AdamW::new(parameters, AdamWConfig::default()).unwrap();
        parameters.clip_gradients(1.0).unwrap();
        optimizer.step(parameters, 1e-2).unwrap();
        let values = parameters.values.to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    }
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut vit = vit(&Training::Full, Precision::Bf16);
            vit.forward(&random(&[5, 3, 12, 12], 1, 1.0), None).unwrap();
            vit.backward(&random(&[5, 4], 2, 1.0)).unwrap();
            let mut resnet = resnet(Precision::Bf16);
            resnet.forward(&random(&[5, 3, 37, 41], 1, 1.0)).unwrap();
            resnet.backward(&random(&[5, 4], 2, 1.0)).unwrap();
            [step(vit.parameters()), step(resnet.parameters())]
        })
    };
    let one = run(1);
    assert!(one == run(2) && one == run(3));
}

/// What is not finite in one head or image stays there, and is seen.
#[test]
fn attention_hides_nothing_that_is_not_finite() {
    let [q, k, mut v] = [1, 2, 3].map(|number| random(&[2, 19, 32], number, 1.0));
    let poisoned: Vec<f32> = v.flatten_all().unwrap().to_vec1().unwrap();
    let poisoned = poisoned.into_iter().enumerate();
    let poisoned = poisoned.map(|(i, x)| if i == (19 + 4) * 32 + 17 { f32::NAN } else { x });
    v = Tensor::from_vec(poisoned.collect::<Vec<f32>>(), (2, 19, 32), &Device::Cpu).unwrap();
    let operands = Attention {
        q_bqd: &q,
        k_bsd: &k,
        v_bsd: &v,
        heads: 2,
        products: Products::Bf16,
    };
    let output = attention(&operands).unwrap();
    let values: Vec<f32> = output.o_bqd.flatten_all().unwrap().to_vec1().unwrap();
    for (i, x) in values.iter().enumerate() {
        let is_poisoned = i >= 19 * 32 && i % 32 == 17;
        assert_eq!(x.is_nan(), is_poisoned, "{i}: {x}");
    }
    let gradient = random(&[2, 19, 32], 4, 1.0);
    let gradient = attention_backward(&operands, &output, &gradient, Wanted::QueryKeyValue).unwrap();
    let dq: Vec<f32> = gradient.dq_bqd().unwrap().flatten_all().unwrap().to_vec1().unwrap();
    assert!(dq[..19 * 32].iter().all(|x| x.is_finite()) && dq[19 * 32..].iter().any(|x| x.is_nan()));
}
