//! Names of a ViT's tensors: as files have them (all versions read those), as transformers 5 has them in memory.

use crate::nn::Projection;
use crate::recipe::AdapterFormat;

/// Module paths inside a layer: in files and in transformers 4, and in transformers 5.
const LAYER_MODULES: [(&str, &str); 8] = [
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
    ("layernorm_before", "layernorm_before"),
    ("layernorm_after", "layernorm_after"),
];

/// The name that files have for a tensor, whatever spelling `name` has: without `vit.` in front, or in memory of v5.
/// Anything unknown comes back as it is.
pub fn in_file(name: &str) -> String {
    let inner = name.strip_prefix("vit.").unwrap_or(name);
    if let Some((layer, rest)) = inner.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) {
        for (file, memory) in LAYER_MODULES {
            if let Some(leaf) = rest.strip_prefix(memory).filter(|leaf| leaf.starts_with('.')) {
                return format!("vit.encoder.layer.{layer}.{file}{leaf}");
            }
        }
    }
    let ours = ["embeddings.", "encoder.layer.", "layernorm.", "pooler."];
    match ours.iter().any(|start| inner.starts_with(start)) {
        true => format!("vit.{inner}"),
        false => name.to_owned(),
    }
}

/// The name that transformers 5 has in memory for a tensor named as in files.
pub fn in_memory(name: &str) -> String {
    if let Some((layer, rest)) = name
        .strip_prefix("vit.encoder.layer.")
        .and_then(|rest| rest.split_once('.'))
    {
        for (file, memory) in LAYER_MODULES {
            if let Some(leaf) = rest.strip_prefix(file).filter(|leaf| leaf.starts_with('.')) {
                return format!("vit.layers.{layer}.{memory}{leaf}");
            }
        }
    }
    name.to_owned()
}

/// The file name of a projection's weight or bias.
pub fn projection(layer: usize, projection: Projection, leaf: &str) -> String {
    let (module, _) = LAYER_MODULES[projection as usize];
    format!("vit.encoder.layer.{layer}.{module}.{leaf}")
}

/// The last word of a projection's path, as `target_modules` has it.
pub fn target_module(projection: Projection, format: AdapterFormat) -> &'static str {
    let (file, memory) = LAYER_MODULES[projection as usize];
    let path = match format {
        AdapterFormat::V4 => file,
        AdapterFormat::V5 => memory,
    };
    path.rsplit('.').next().unwrap_or(path)
}

/// The name of an adapter's matrix in adapter_model.safetensors.
pub fn adapter_matrix(layer: usize, target: Projection, matrix: Matrix, format: AdapterFormat) -> String {
    let file = projection(layer, target, "");
    let module = match format {
        AdapterFormat::V4 => file,
        AdapterFormat::V5 => in_memory(&file),
    };
    let matrix = match matrix {
        Matrix::A => "lora_A",
        Matrix::B => "lora_B",
    };
    format!("base_model.model.{module}{matrix}.weight")
}

/// The name of the classifier's weight or bias in adapter_model.safetensors.
pub fn adapter_classifier(leaf: &str) -> String {
    format!("base_model.model.classifier.{leaf}")
}

/// Brings any spelling of an adapter's tensor name (v4, v5, with the adapter's own name in it) to v5's.
pub fn adapter_in_memory(name: &str) -> String {
    let plain = name
        .replace(".modules_to_save.default.", ".")
        .replace(".modules_to_save.", ".")
        .replace(".default.weight", ".weight");
    match plain.strip_prefix("base_model.model.") {
        Some(inner) => format!("base_model.model.{}", in_memory(&in_file(inner))),
        None => plain,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matrix {
    A,
    B,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_reaches_the_file_name_and_back() {
        let file = "vit.encoder.layer.7.attention.attention.query.weight";
        for spelling in [
            file,
            "encoder.layer.7.attention.attention.query.weight",
            "vit.layers.7.attention.q_proj.weight",
            "layers.7.attention.q_proj.weight",
        ] {
            assert_eq!(in_file(spelling), file);
        }
        assert_eq!(in_memory(file), "vit.layers.7.attention.q_proj.weight");
        assert_eq!(
            in_file("layers.0.mlp.fc2.bias"),
            "vit.encoder.layer.0.output.dense.bias"
        );
        assert_eq!(
            in_memory("vit.encoder.layer.0.output.dense.bias"),
            "vit.layers.0.mlp.fc2.bias"
        );
        assert_eq!(
            in_memory("vit.encoder.layer.0.attention.output.dense.bias"),
            "vit.layers.0.attention.o_proj.bias"
        );
        assert_eq!(in_file("classifier.weight"), "classifier.weight");
        assert_eq!(in_file("layernorm.weight"), "vit.layernorm.weight");
        assert_eq!(in_file("fc.weight"), "fc.weight");
    }

    #[test]
    fn adapters_have_two_spellings() {
        let v5 = adapter_matrix(3, Projection::Value, Matrix::B, AdapterFormat::V5);
        let v4 = adapter_matrix(3, Projection::Value, Matrix::B, AdapterFormat::V4);
        assert_eq!(v5, "base_model.model.vit.layers.3.attention.v_proj.lora_B.weight");
        assert_eq!(
            v4,
            "base_model.model.vit.encoder.layer.3.attention.attention.value.lora_B.weight"
        );
        assert_eq!(adapter_in_memory(&v4), v5);
        assert_eq!(adapter_in_memory(&v5), v5);
        assert_eq!(
            adapter_in_memory("base_model.model.vit.layers.3.attention.v_proj.lora_B.default.weight"),
            v5
        );
        assert_eq!(
            adapter_in_memory("base_model.model.classifier.modules_to_save.default.bias"),
            adapter_classifier("bias")
        );
        assert_eq!(target_module(Projection::Query, AdapterFormat::V4), "query");
        assert_eq!(target_module(Projection::Query, AdapterFormat::V5), "q_proj");
    }
}
