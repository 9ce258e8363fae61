//! Adapters as peft has them: a directory of `adapter_model.safetensors` and `adapter_config.json`.
//!
//! Two spellings exist, transformers 4's and 5's; a config of one with keys of the other loads as zeros in peft, with
//! only a warning. dtrain reads both, writes the two files as a pair of one spelling, and takes a key that does not
//! match, or is missing, for an error.

use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};

use super::names::{self, Matrix};
use super::report::shortened;
use super::vit::Vit;
use super::weights::{self, Checkpoint};
use super::{LoadReport, LoraConfig, Training};
use crate::error::{Error, IoContext, Result};
use crate::nn::Projection;
use crate::ops::matmul::{Factor, Products, Write, product_into};
use crate::ops::storage::update;
use crate::recipe::AdapterFormat;

/// The names of an adapter's classes, which neither of peft's files has: `{"0": "name", …}`, written beside them.
pub const LABELS_FILE: &str = "id2label.json";

/// The version of peft whose format is written.
const PEFT_VERSION: &str = "0.21.2";

impl LoraConfig {
    /// Reads `dir/adapter_config.json`. Errors: no LoRA, or a variant of it that dtrain does not compute.
    pub fn read(dir: &Path) -> Result<LoraConfig> {
        let path = dir.join("adapter_config.json");
        let text = std::fs::read_to_string(&path).at("read", &path)?;
        let wrong = |what: String| Error::model(&path, what, "give a plain LoRA adapter on query, key or value");
        let json: Value = serde_json::from_str(&text).map_err(|e| wrong(format!("not valid JSON: {e}")))?;
        if json["peft_type"] != "LORA" {
            return Err(wrong(format!("peft_type is {}, not \"LORA\"", json["peft_type"])));
        }
        // A field that is absent, null, false, empty or "none" asks for nothing special.
        let special = [
            "use_dora",
            "use_rslora",
            "use_qalora",
            "lora_bias",
            "fan_in_fan_out",
            "bias",
            "rank_pattern",
            "alpha_pattern",
            "layers_to_transform",
            "layer_replication",
            "alora_invocation_tokens",
            "trainable_token_indices",
            "target_parameters",
        ];
        for name in special {
            let asks = match &json[name] {
                Value::Null | Value::Bool(false) => false,
                Value::Object(map) => !map.is_empty(),
                Value::Array(list) => !list.is_empty(),
                Value::String(text) => text != "none",
                _ => true,
            };
            if asks {
                return Err(wrong(format!("{name} = {} is not supported", json[name])));
            }
        }
        let number = |name: &str| {
            json[name]
                .as_f64()
                .ok_or_else(|| wrong(format!("it has no number {name}")))
        };
        let modules: Vec<String> = match &json["target_modules"] {
            Value::Array(list) => list.iter().filter_map(|v| Some(v.as_str()?.to_owned())).collect(),
            Value::String(one) => vec![one.clone()],
            _ => Vec::new(),
        };
        let dropout = json["lora_dropout"].as_f64().unwrap_or(0.0);
        LoraConfig::new(number("r")? as usize, number("lora_alpha")?, dropout, &modules)
            .map_err(|error| wrong(error.to_string()))
    }

    fn to_json(&self, format: AdapterFormat, base_model: &str) -> Value {
        let targets: Vec<&str> = self.targets.iter().map(|&t| names::target_module(t, format)).collect();
        json!({
            "alpha_pattern": {},
            "auto_mapping": {
                "base_model_class": "ViTForImageClassification",
                "parent_library": "transformers.models.vit.modeling_vit",
            },
            "base_model_name_or_path": base_model,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": null,
            "layers_to_transform": null,
            "lora_alpha": whole_if_possible(self.alpha),
            "lora_dropout": self.dropout,
            "modules_to_save": ["classifier"],
            "peft_type": "LORA",
            "peft_version": PEFT_VERSION,
            "r": self.r,
            "rank_pattern": {},
            "revision": null,
            "target_modules": targets,
            "task_type": null,
            "use_dora": false,
            "use_rslora": false,
        })
    }
}

impl Vit {
    /// Takes over the values of an adapter in `dir`, of either spelling. The model must have been loaded with the adapter's
    /// own [`LoraConfig`]. Errors: other rank, alpha or targets; keys missing, left over or of another shape.
    pub fn load_adapter(&mut self, dir: &Path) -> Result<LoadReport> {
        let theirs = LoraConfig::read(dir)?;
        let ours = self.lora(dir)?;
        if (theirs.r, theirs.alpha, &theirs.targets) != (ours.r, ours.alpha, &ours.targets) {
            let what = format!("it is {theirs:?}, the run wants {ours:?}");
            return Err(Error::model(
                dir,
                what,
                "set lora-r, lora-alpha and lora-target-modules to the adapter's",
            ));
        }
        let file = Checkpoint::open(dir, "adapter_model", names::adapter_in_memory)?;
        let entries = &self.parameters.entries;
        let missing: Vec<String> = entries
            .iter()
            .filter(|entry| file.shape(&entry.name).is_none())
            .map(|entry| entry.name.clone())
            .collect();
        let unexpected: Vec<String> = file
            .names()
            .filter(|name| self.parameters.position(name).is_none())
            .map(str::to_owned)
            .collect();
        for (what, keys) in [("has no key for", &missing), ("has keys of no parameter:", &unexpected)] {
            if !keys.is_empty() {
                let what = format!("the adapter {what} {} ({} of them)", shortened(keys), keys.len());
                return Err(Error::model(
                    dir,
                    what,
                    "give an adapter that was trained for this model",
                ));
            }
        }
        for (i, entry) in entries.iter().enumerate() {
            let shape = file.shape(&entry.name).unwrap_or_default();
            if shape != entry.shape {
                let what = format!(
                    "{} is {shape:?} in the adapter, {:?} in the model",
                    entry.name, entry.shape
                );
                return Err(Error::model(
                    dir,
                    what,
                    "give an adapter for the same classes and width",
                ));
            }
            update(&self.parameters.value(i)?, |to| file.read_into(&entry.name, to))??;
        }
        Ok(LoadReport {
            loaded: entries.len(),
            ..LoadReport::default()
        })
    }

    /// Writes `adapter_model.safetensors` and `adapter_config.json`, a pair of one spelling, into `dir`, which exists.
    pub fn save_adapter(&self, dir: &Path, format: AdapterFormat, base_model: &str) -> Result<()> {
        let lora = self.lora(dir)?;
        let mut tensors = Vec::with_capacity(self.parameters.entries.len());
        for layer in 0..self.blocks.len() {
            for &target in &lora.targets {
                for matrix in [Matrix::A, Matrix::B] {
                    let value = self.adapter_value(layer, target, matrix)?;
                    tensors.push((names::adapter_matrix(layer, target, matrix, format), value));
                }
            }
        }
        for leaf in ["weight", "bias"] {
            let name = names::adapter_classifier(leaf);
            let at = self
                .parameters
                .position(&name)
                .expect("the classifier is trained beside adapters");
            tensors.push((name, self.parameters.value(at)?));
        }
        weights::write(&dir.join("adapter_model.safetensors"), &tensors)?;
        let path = dir.join("adapter_config.json");
        let json = serde_json::to_string_pretty(&lora.to_json(format, base_model)).expect("JSON out of JSON");
        std::fs::write(&path, json + "\n").at("write", &path)
    }

    /// Every tensor of the model, on the CPU as far as it is frozen, with adapters added to the weights that they sit on: W + α/r·B·A.
    pub(super) fn merged(&self) -> Result<Vec<(String, Tensor)>> {
        let mut tensors = self.named.clone();
        let Training::Lora(lora) = &self.training else {
            return Ok(tensors);
        };
        for layer in 0..self.blocks.len() {
            for &target in &lora.targets {
                let name = names::projection(layer, target, "weight");
                let weight = tensors.iter_mut().find(|(other, _)| *other == name);
                let (_, weight) = weight.expect("every projection has a weight");
                let a = self.adapter_value(layer, target, Matrix::A)?.to_device(&Device::Cpu)?;
                let b = self.adapter_value(layer, target, Matrix::B)?.to_device(&Device::Cpu)?;
                let merged = weight.copy()?;
                let scale = lora.scale() as f32;
                let (a, b) = (Factor::Rows(&a), Factor::Rows(&b));
                product_into(&merged, Write::Add, scale, b, a, Products::F32)?;
                *weight = merged;
            }
        }
        Ok(tensors)
    }

    fn adapter_value(&self, layer: usize, target: Projection, matrix: Matrix) -> Result<Tensor> {
        let name = names::adapter_matrix(layer, target, matrix, AdapterFormat::V5);
        let at = self.parameters.position(&name).expect("the layout lists every adapter");
        self.parameters.value(at)
    }

    fn lora(&self, dir: &Path) -> Result<&LoraConfig> {
        match &self.training {
            Training::Lora(lora) => Ok(lora),
            _ => Err(Error::model(
                dir,
                "adapters belong to --method lora",
                "train with --method lora",
            )),
        }
    }
}

/// The text of [`LABELS_FILE`].
pub fn labels_text(classes: &[String]) -> String {
    let by_number: serde_json::Map<String, Value> = classes
        .iter()
        .enumerate()
        .map(|(class, name)| (class.to_string(), name.as_str().into()))
        .collect();
    serde_json::to_string_pretty(&by_number).expect("plain data") + "\n"
}

/// 16 rather than 16.0: peft's own spelling.
fn whole_if_possible(x: f64) -> Value {
    match x.fract() == 0.0 && x.abs() < 1e15 {
        true => json!(x as i64),
        false => json!(x),
    }
}
