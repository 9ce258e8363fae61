//! What model directories may look like: every spelling that loads, and every fault with the message it gets.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use super::{Training, Vit, VitConfig, names, weights};
use crate::error::Result;
use crate::ops::storage::values;

fn config_json() -> Value {
    json!({
        "model_type": "vit", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 12, "image_size": [8, 12], "patch_size": 4, "_some_note": [1, null],
        "id2label": {"0": "a", "2": "c", "1": "b"}, "architectures": ["ViTModel"],
    })
}

fn small() -> Vit {
    let config = VitConfig::from_json(config_json(), Path::new("config.json")).unwrap();
    Vit::random(config, &Training::Full, 4, &Device::Cpu).unwrap()
}

fn classes() -> Vec<String> {
    ["a", "b", "c"].map(str::to_owned).to_vec()
}

/// A directory with the small model's config and these tensors.
fn directory(tensors: &[(String, Tensor)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config_json().to_string()).unwrap();
    weights::write(&dir.path().join("model.safetensors"), tensors).unwrap();
    dir
}

fn load(dir: &Path) -> Result<(Vit, super::LoadReport)> {
    Vit::load(dir, &classes(), &Training::Head, 5, &Device::Cpu)
}

fn message(dir: &Path) -> String {
    let message = load(dir).err().expect("an error").to_string();
    assert!(message.contains("to do:"), "{message}");
    message
}

fn same_body(a: &Vit, b: &Vit) {
    for ((name, a), (_, b)) in a.tensors().iter().zip(b.tensors()) {
        if !name.starts_with("classifier") {
            assert_eq!(values(a).unwrap()[..], values(b).unwrap()[..], "{name}");
        }
    }
}

#[test]
fn every_spelling_of_names_loads() {
    let vit = small();
    let spellings: [fn(&str) -> String; 4] = [
        str::to_owned,
        names::in_memory,
        |name| name.strip_prefix("vit.").unwrap_or(name).to_owned(),
        |name| names::in_memory(name).strip_prefix("vit.").unwrap_or(name).to_owned(),
    ];
    for spell in spellings {
        let tensors: Vec<_> = vit.tensors().iter().map(|(name, t)| (spell(name), t.clone())).collect();
        let (loaded, report) = load(directory(&tensors).path()).unwrap();
        assert!(report.new.is_empty() && report.unexpected.is_empty(), "{report}");
        assert_eq!(report.loaded, vit.tensors().len());
        same_body(&vit, &loaded);
    }
}

#[test]
fn a_base_model_gets_a_new_head_and_its_pooler_is_named() {
    let vit = small();
    let body = vit.tensors().iter().filter(|(name, _)| !name.starts_with("classifier"));
    let mut tensors: Vec<_> = body.map(|(name, t)| (name.replace("vit.", ""), t.clone())).collect();
    let pooler = Tensor::zeros((8, 8), DType::F32, &Device::Cpu).unwrap();
    tensors.push(("pooler.dense.weight".into(), pooler));
    let dir = directory(&tensors);
    let (loaded, report) = load(dir.path()).unwrap();
    same_body(&vit, &loaded);
    assert_eq!(report.unexpected, ["vit.pooler.dense.weight"]);
    assert_eq!(report.missing, ["classifier.weight", "classifier.bias"]);
    assert_eq!(report.new, report.missing);
    let head = |seed| {
        let (vit, _) = Vit::load(dir.path(), &classes(), &Training::Head, seed, &Device::Cpu).unwrap();
        vit.parameters().values.to_vec1::<f32>().unwrap()
    };
    assert_eq!(head(5), head(5));
    assert_ne!(head(5), head(6));
    assert!(head(5)[..24].iter().all(|w| *w != 0.0 && w.abs() < 0.1));
    assert_eq!(head(5)[24..], [0.0; 3]);
}

#[test]
fn shards_and_narrow_types_load() {
    let vit = small();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config_json().to_string()).unwrap();
    let (first, second) = vit.tensors().split_at(9);
    weights::write(&dir.path().join("a.safetensors"), first).unwrap();
    // The second shard alternates f16, bf16 and f64.
    let narrow: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = second
        .iter()
        .enumerate()
        .map(|(i, (name, t))| {
            let values = values(t).unwrap().to_vec();
            let (dtype, bytes): (_, Vec<u8>) = match i % 3 {
                0 => (
                    Dtype::F16,
                    values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
                ),
                1 => (
                    Dtype::BF16,
                    values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
                ),
                _ => (
                    Dtype::F64,
                    values.iter().flat_map(|x| (*x as f64).to_le_bytes()).collect(),
                ),
            };
            (name.clone(), dtype, t.dims().to_vec(), bytes)
        })
        .collect();
    let views = narrow
        .iter()
        .map(|(name, dtype, shape, bytes)| (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &dir.path().join("b.safetensors")).unwrap();
    let map = vit.tensors().iter().enumerate().map(|(i, (name, _))| {
        let file = if i < 9 { "a.safetensors" } else { "b.safetensors" };
        (name.clone(), json!(file))
    });
    let index = json!({"metadata": {}, "weight_map": Value::Object(map.collect())});
    std::fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let (loaded, _) = load(dir.path()).unwrap();
    for (i, ((name, ours), (_, expected))) in loaded.tensors().iter().zip(vit.tensors()).enumerate() {
        let error = if i < 9 { 0.0 } else { 1.0 / 256.0 };
        for (ours, expected) in values(ours).unwrap().iter().zip(values(expected).unwrap().iter()) {
            assert!(
                (ours - expected).abs() <= error * expected.abs() + 1e-7 * (i > 8) as u8 as f32,
                "{name}"
            );
        }
    }
}

#[test]
fn tensors_that_are_missing_or_of_another_shape_are_named() {
    let vit = small();
    let mut tensors = vit.tensors().to_vec();
    let at = tensors
        .iter()
        .position(|(name, _)| name.ends_with("layer.1.intermediate.dense.weight"))
        .unwrap();
    tensors[at].1 = Tensor::zeros((8, 12), DType::F32, &Device::Cpu).unwrap();
    let wrong_shape = message(directory(&tensors).path());
    for part in ["vit.encoder.layer.1.intermediate.dense.weight", "[8, 12]", "[12, 8]"] {
        assert!(wrong_shape.contains(part), "{wrong_shape}");
    }
    tensors.remove(at);
    let missing = message(directory(&tensors).path());
    assert!(
        missing.contains("vit.encoder.layer.1.intermediate.dense.weight"),
        "{missing}"
    );
}

#[test]
fn files_that_are_no_model_are_refused() {
    let vit = small();
    let dir = directory(vit.tensors());
    let file = dir.path().join("model.safetensors");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 5]).unwrap();
    assert!(message(dir.path()).contains("truncated: 5 bytes"));
    std::fs::write(&file, &whole[..100]).unwrap();
    assert!(message(dir.path()).contains("truncated"));
    std::fs::write(&file, b"PK\x03\x04 and so on: a pickle").unwrap();
    assert!(message(dir.path()).contains("no safetensors file"));
    std::fs::write(&file, b"x").unwrap();
    assert!(message(dir.path()).contains("no safetensors file"));
    std::fs::rename(&file, dir.path().join("pytorch_model.bin")).unwrap();
    assert!(message(dir.path()).contains("does not read pytorch_model.bin"));
    let config = dir.path().join("config.json");
    for (name, value) in [
        ("model_type", json!("resnet")),
        ("hidden_act", json!("gelu_new")),
        ("hidden_dropout_prob", json!(0.1)),
        ("hidden_size", json!("wide")),
        ("num_attention_heads", json!(3)),
        ("image_size", json!([8, 13])),
        ("num_hidden_layers", json!(-1)),
    ] {
        let mut json = config_json();
        json[name] = value;
        std::fs::write(&config, json.to_string()).unwrap();
        let message = message(dir.path());
        assert!(message.contains("config.json"), "{message}");
    }
    std::fs::write(&config, "{\"model_type\": ").unwrap();
    assert!(message(dir.path()).contains("not valid JSON"));
    std::fs::remove_file(&config).unwrap();
    assert!(message(dir.path()).contains("config.json"));
}

#[test]
fn images_of_another_size_are_refused() {
    let mut vit = small();
    let images = |h: usize, w: usize| Tensor::zeros((1, 3, h, w), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(vit.forward(&images(8, 12), None).unwrap().dims(), [1, 3]);
    let message = vit.infer(&images(12, 8)).unwrap_err().to_string();
    assert!(message.contains("3x8x12") && message.contains("3x12x8"), "{message}");
}

#[test]
fn the_config_keeps_what_it_does_not_know() {
    let mut config = VitConfig::from_json(config_json(), Path::new("config.json")).unwrap();
    assert_eq!(config.classes, classes());
    config.classes.push("d".into());
    let json = config.to_json();
    assert_eq!(json["_some_note"], config_json()["_some_note"]);
    assert_eq!(json["architectures"], json!(["ViTForImageClassification"]));
    assert_eq!(json["id2label"]["3"], "d");
    assert_eq!(json["label2id"]["d"], 3);
    assert_eq!(json["label2id"].as_object().unwrap().len(), 4);
    assert!(json.get("num_labels").is_none());
}

#[test]
fn a_model_without_query_key_and_value_biases_works() {
    let mut json = config_json();
    json["qkv_bias"] = json!(false);
    let config = VitConfig::from_json(json, Path::new("config.json")).unwrap();
    let mut vit = Vit::random(config, &Training::Full, 4, &Device::Cpu).unwrap();
    assert!(vit.tensors().iter().all(|(name, _)| !name.contains("query.bias")));
    let images = Tensor::ones((2, 3, 8, 12), DType::F32, &Device::Cpu).unwrap();
    let logits = vit.forward(&images, None).unwrap();
    vit.backward(&logits).unwrap();
    assert!(vit.parameters().clip_gradients(0.0).unwrap() > 0.0);
}
