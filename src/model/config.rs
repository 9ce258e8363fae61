//! config.json of a ViT: what the arithmetic needs, read strictly, and everything else kept as it was.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::fields::{self, Fields, class_names};
use crate::error::{Error, Result};

/// The shape of a ViT classifier.
#[derive(Clone, Debug)]
pub struct VitConfig {
    pub hidden_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub intermediate_size: usize,
    pub layer_norm_eps: f64,
    pub image_height: usize,
    pub image_width: usize,
    pub patch_size: usize,
    pub channels: usize,
    pub qkv_bias: QkvBias,
    /// Names of the classes, by number.
    pub classes: Vec<String>,
    /// Where it came from, for messages.
    pub path: PathBuf,
    /// The whole file.
    json: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkvBias {
    Present,
    Absent,
}

impl VitConfig {
    /// Reads `dir/config.json`. Errors: no such file, no JSON, not a ViT, or something in it that dtrain does not do.
    pub fn read(dir: &Path) -> Result<VitConfig> {
        let (json, path) = fields::read(dir)?;
        VitConfig::from_json(json, &path)
    }

    /// `path` is only for messages.
    pub fn from_json(json: Value, path: &Path) -> Result<VitConfig> {
        let fields = Fields { json: &json, path };
        fields.is("model_type", "vit", "give a ViT checkpoint (model_type \"vit\")")?;
        let default_fix = "dtrain computes exact GELU without dropout in the body; choose another checkpoint";
        fields.is("hidden_act", "gelu", default_fix)?;
        for name in ["hidden_dropout_prob", "attention_probs_dropout_prob"] {
            fields.is_zero(name, default_fix)?;
        }
        let [image_height, image_width] = fields.pair("image_size", 224)?;
        let [patch_size, patch_width] = fields.pair("patch_size", 16)?;
        let config = VitConfig {
            hidden_size: fields.count("hidden_size", 768)?,
            layers: fields.count("num_hidden_layers", 12)?,
            heads: fields.count("num_attention_heads", 12)?,
            intermediate_size: fields.count("intermediate_size", 3072)?,
            layer_norm_eps: fields.number("layer_norm_eps", 1e-12)?,
            image_height,
            image_width,
            patch_size,
            channels: fields.count("num_channels", 3)?,
            qkv_bias: match json.get("qkv_bias").and_then(Value::as_bool) {
                Some(false) => QkvBias::Absent,
                _ => QkvBias::Present,
            },
            classes: class_names(&json),
            path: path.to_owned(),
            json,
        };
        let wrong = if patch_width != patch_size {
            format!("patches of {patch_size}x{patch_width} are not square")
        } else if image_height % patch_size != 0 || image_width % patch_size != 0 {
            format!("images of {image_height}x{image_width} cannot be cut into patches of {patch_size}")
        } else if !config.hidden_size.is_multiple_of(config.heads) {
            format!(
                "width {} cannot be shared by {} heads",
                config.hidden_size, config.heads
            )
        } else {
            return Ok(config);
        };
        Err(Error::model(path, wrong, "check config.json"))
    }

    /// Tokens of an image: CLS and the patches.
    pub fn tokens(&self) -> usize {
        1 + (self.image_height / self.patch_size) * (self.image_width / self.patch_size)
    }

    /// The file as it was, for a classifier of these classes.
    pub fn to_json(&self) -> Value {
        fields::with_classes(&self.json, &self.classes, "ViTForImageClassification")
    }
}
