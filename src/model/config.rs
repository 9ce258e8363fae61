//! config.json of a ViT: what the arithmetic needs, read strictly, and everything else kept as it was.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::{Error, IoContext, Result};

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
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).at("read", &path)?;
        let json = serde_json::from_str(&text)
            .map_err(|e| Error::model(&path, format!("not valid JSON: {e}"), "download the checkpoint again"))?;
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
        let mut json = self.json.clone();
        let Value::Object(fields) = &mut json else {
            unreachable!("a config without fields has no model_type");
        };
        let by_number = self
            .classes
            .iter()
            .enumerate()
            .map(|(i, name)| (i.to_string(), json!(name)));
        let by_name = self
            .classes
            .iter()
            .enumerate()
            .map(|(i, name)| (name.clone(), json!(i)));
        fields.insert("architectures".into(), json!(["ViTForImageClassification"]));
        fields.insert("id2label".into(), Value::Object(by_number.collect()));
        fields.insert("label2id".into(), Value::Object(by_name.collect()));
        fields.insert("problem_type".into(), json!("single_label_classification"));
        if fields.contains_key("num_labels") {
            fields.insert("num_labels".into(), json!(self.classes.len()));
        }
        json
    }
}

/// Names out of id2label by number; without it as many as num_labels (2 by default, as transformers has it).
fn class_names(json: &Value) -> Vec<String> {
    if let Some(Value::Object(map)) = json.get("id2label") {
        let mut named: Vec<(usize, String)> = map
            .iter()
            .filter_map(|(id, name)| Some((id.parse().ok()?, name.as_str()?.to_owned())))
            .collect();
        named.sort();
        return named.into_iter().map(|(_, name)| name).collect();
    }
    let n = json.get("num_labels").and_then(Value::as_u64).unwrap_or(2);
    (0..n).map(|i| format!("LABEL_{i}")).collect()
}

/// Typed access to fields; what is absent has transformers' default.
struct Fields<'a> {
    json: &'a Value,
    path: &'a Path,
}

impl Fields<'_> {
    fn is(&self, name: &str, expected: &str, fix: &str) -> Result<()> {
        match self.json.get(name) {
            Some(Value::String(value)) if value == expected => Ok(()),
            None if name != "model_type" => Ok(()),
            None => Err(Error::model(self.path, format!("it has no {name}"), fix)),
            Some(other) => Err(Error::model(
                self.path,
                format!("{name} is {other}, not \"{expected}\""),
                fix,
            )),
        }
    }

    fn is_zero(&self, name: &str, fix: &str) -> Result<()> {
        match self.number(name, 0.0)? {
            0.0 => Ok(()),
            other => Err(Error::model(self.path, format!("{name} is {other}, not 0"), fix)),
        }
    }

    fn number(&self, name: &str, default: f64) -> Result<f64> {
        match self.json.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| self.nonsense(name, value)),
        }
    }

    fn count(&self, name: &str, default: usize) -> Result<usize> {
        match self.json.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => self.positive(name, value),
        }
    }

    /// One number for both, or [height, width].
    fn pair(&self, name: &str, default: usize) -> Result<[usize; 2]> {
        match self.json.get(name) {
            None | Some(Value::Null) => Ok([default; 2]),
            Some(value @ Value::Array(two)) => match two.as_slice() {
                [height, width] => Ok([self.positive(name, height)?, self.positive(name, width)?]),
                _ => Err(self.nonsense(name, value)),
            },
            Some(value) => Ok([self.positive(name, value)?; 2]),
        }
    }

    fn positive(&self, name: &str, value: &Value) -> Result<usize> {
        match value.as_u64() {
            Some(n) if n > 0 => Ok(n as usize),
            _ => Err(self.nonsense(name, value)),
        }
    }

    fn nonsense(&self, name: &str, value: &Value) -> Error {
        Error::model(self.path, format!("{name} cannot be {value}"), "check config.json")
    }
}
