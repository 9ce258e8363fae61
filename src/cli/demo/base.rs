//! The demonstration's base model: a small ViT in Hugging Face's layout, trained by `dtrain demo --train-base` on shapes that
//! the demonstration's dataset does not have. Its weights come with dtrain, as f16.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Device;
use half::f16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::data::{DemoSubject, preprocessor};
use crate::error::{Error, IoContext, Result};
use crate::model::{Training, Vit, VitConfig};

const WEIGHTS: &[u8] = include_bytes!("base-vit.safetensors");
const WEIGHTS_FILE: &str = "model.safetensors";

/// Pixels of an image's side, and of a patch's.
const IMAGE: usize = 64;
const PATCH: usize = 8;

/// Writes the trained checkpoint.
pub fn write(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).at("create", dir)?;
    let config = config(dir)?.to_json();
    put(dir, "config.json", format!("{config:#}\n").as_bytes())?;
    put(dir, preprocessor::FILE_NAME, format!("{:#}\n", images()).as_bytes())?;
    put(dir, WEIGHTS_FILE, WEIGHTS)
}

/// Writes the same model with random weights.
pub fn write_untrained(dir: &Path, seed: u64) -> Result<()> {
    std::fs::create_dir_all(dir).at("create", dir)?;
    Vit::random(config(dir)?, &Training::Full, seed, &Device::Cpu)?.save_full(dir)?;
    put(dir, preprocessor::FILE_NAME, format!("{:#}\n", images()).as_bytes())
}

/// Rounds a checkpoint's weights to f16, which halves its size.
pub fn round_to_f16(dir: &Path) -> Result<()> {
    let path = dir.join(WEIGHTS_FILE);
    let bytes = std::fs::read(&path).at("read", &path)?;
    let broken = |e: safetensors::SafeTensorError| Error::model(&path, e.to_string(), "train the base model again");
    let tensors = SafeTensors::deserialize(&bytes).map_err(broken)?;
    let rounded: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, tensor)| {
            assert_eq!(tensor.dtype(), Dtype::F32, "trained models are written as f32");
            let values = tensor.data().as_chunks::<4>().0.iter();
            let rounded = values.flat_map(|b| f16::from_f32(f32::from_le_bytes(*b)).to_le_bytes());
            (name.to_owned(), tensor.shape().to_vec(), rounded.collect())
        })
        .collect();
    let mut views = Vec::new();
    for (name, shape, data) in &rounded {
        views.push((name, TensorView::new(Dtype::F16, shape.clone(), data).map_err(broken)?));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let file = safetensors::serialize(views, Some(metadata)).map_err(broken)?;
    put(dir, WEIGHTS_FILE, &file)
}

/// `dir` is only for messages.
fn config(dir: &Path) -> Result<VitConfig> {
    let json = json!({
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "attention_probs_dropout_prob": 0.0,
        "encoder_stride": PATCH,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": 96,
        "image_size": IMAGE,
        "initializer_range": 0.02,
        "intermediate_size": 192,
        "layer_norm_eps": 1e-12,
        "num_attention_heads": 3,
        "num_channels": 3,
        "num_hidden_layers": 4,
        "patch_size": PATCH,
        "qkv_bias": true,
    });
    let mut config = VitConfig::from_json(json, &dir.join("config.json"))?;
    config.classes = DemoSubject::BaseModel.classes().map(str::to_owned).to_vec();
    Ok(config)
}

/// How the model wants its images.
fn images() -> Value {
    json!({
        "do_normalize": true,
        "do_rescale": true,
        "do_resize": true,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "ViTImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
        "rescale_factor": 1.0 / 255.0,
        "size": {"height": IMAGE, "width": IMAGE},
    })
}

fn put(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = dir.join(name);
    std::fs::write(&path, bytes).at("write", &path)
}
