//! In bf16 the model is no further from PyTorch's f32 than PyTorch's own bf16 autocast is.

use candle_core::{Device, Tensor};
use dtrain::model::{Training, Vit};
use dtrain::ops::device::Placement;
use dtrain::recipe::Precision;
use serde_json::Value;

use super::Case;

/// Made by tests/fixtures/autocast.py.
const AUTOCAST: &str = include_str!("../fixtures/autocast.json");

#[test]
fn bf16_is_as_near_to_f32_as_autocast() {
    let Some(case) = Case::open() else { return };
    let placement = Placement::new(&Device::Cpu, Precision::Bf16);
    let training = Training::Lora(case.lora_config());
    let (mut vit, _) = Vit::load(&case.base, &case.classes(), &training, 0, placement).unwrap();
    vit.load_adapter(&case.dir.join("initial_adapter")).unwrap();

    let expected = &case.tensors("initial_logits.safetensors")["logits"];
    let logits = vit.infer(&case.pixels(0..8)).unwrap();
    no_further("logits", &[(logits, expected.clone())]);

    for rows in [0..2, 2..4] {
        case.accumulate(&mut vit, rows, 4);
    }
    vit.parameters().clip_gradients(1.0).unwrap();
    let file = "first_step_gradients_after_clip";
    let gradients = case.tensors(&format!("{file}.safetensors")).into_iter();
    let pairs: Vec<(Tensor, Tensor)> = gradients
        .map(|(name, expected)| {
            let name = dtrain::model::names::adapter_in_memory(&name);
            let at = vit.parameters().position(&name).expect("a parameter");
            (vit.parameters().gradient(at).unwrap(), expected)
        })
        .collect();
    no_further(file, &pairs);
}

/// The distance of all values from what is expected, relative to their norm, is not 0, and at most autocast's.
fn no_further(what: &str, pairs: &[(Tensor, Tensor)]) {
    let autocast: Value = serde_json::from_str(AUTOCAST).unwrap();
    let most = autocast["distances"][what].as_f64().unwrap();
    let (mut difference, mut size) = (0.0, 0.0);
    for (ours, expected) in pairs {
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (ours, expected) in flat(ours).into_iter().zip(flat(expected)) {
            difference += (ours as f64 - expected as f64).powi(2);
            size += (expected as f64).powi(2);
        }
    }
    let distance = (difference / size).sqrt();
    assert!(
        distance > 1e-5 && distance <= most,
        "{what}: {distance:e}, autocast {most:e}"
    );
}
