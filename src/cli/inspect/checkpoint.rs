//! A checkpoint or an adapter: its tensors, its parameters, and what dtrain would load of it.

use std::path::Path;

use candle_core::Device;
use serde_json::Value;

use super::Tensors;
use crate::cli::preflight::grouped;
use crate::error::{IoContext, Result};
use crate::model::weights::Checkpoint;
use crate::model::{LoraConfig, Model, Training};

/// Tensors that are listed of a long list.
const SHOWN: usize = 8;

pub fn describe(directory: &Path, tensors: Tensors) -> Result<String> {
    match directory.join("adapter_config.json").exists() {
        true => adapter(directory, tensors),
        false => whole(directory, tensors),
    }
}

fn whole(directory: &Path, tensors: Tensors) -> Result<String> {
    let file = Checkpoint::open(directory, "model", str::to_owned)?;
    let mut text = format!("checkpoint  {}\n", directory.display());
    let path = directory.join("config.json");
    let config: Value = match path.exists() {
        true => serde_json::from_str(&std::fs::read_to_string(&path).at("read", &path)?).unwrap_or_default(),
        false => Value::Null,
    };
    let word = |key: &str| config[key].as_str().unwrap_or("not named").to_owned();
    text += &format!(
        "type        {}, architecture {}\n",
        word("model_type"),
        config["architectures"][0].as_str().unwrap_or("not named")
    );
    text += &listing(&file, tensors);
    // What dtrain makes of it; a model that it does not know is still worth a look.
    let loaded = Model::classes_in(directory)
        .and_then(|classes| Model::load(directory, &classes, &Training::Head, 0, &Device::Cpu));
    match loaded {
        Ok((model, report)) => {
            text += &format!("model       {}\n", shape(&model));
            text += &format!("classes     {}\n", named(model.classes()));
            text += &format!("loads       {}\n", report.to_string().replace('\n', "\n          "));
        }
        Err(error) => {
            text += &format!(
                "loads       not: {}\n",
                error.to_string().replace('\n', "\n            ")
            )
        }
    }
    Ok(text)
}

/// A model's measures in a line.
fn shape(model: &Model) -> String {
    match model {
        Model::Vit(vit) => {
            let config = vit.config();
            format!(
                "{} layers, width {}, {} heads, inner width {}, patches of {}, images of {}x{}",
                config.layers,
                config.hidden_size,
                config.heads,
                config.intermediate_size,
                config.patch_size,
                config.image_height,
                config.image_width
            )
        }
        Model::ResNet(resnet) => {
            let config = resnet.config();
            let stages: Vec<String> = (config.stages.iter())
                .map(|(channels, layers)| format!("{layers} layers of {channels} channels"))
                .collect();
            format!("stem of {} channels, {}", config.embedding_size, stages.join(", "))
        }
    }
}

fn adapter(directory: &Path, tensors: Tensors) -> Result<String> {
    let lora = LoraConfig::read(directory)?;
    let path = directory.join("adapter_config.json");
    let config: Value = serde_json::from_str(&std::fs::read_to_string(&path).at("read", &path)?).unwrap_or_default();
    let file = Checkpoint::open(directory, "adapter_model", str::to_owned)?;
    let targets = config["target_modules"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let spelling = match file.names().any(|name| name.contains(".encoder.layer.")) {
        true => "transformers 4",
        false => "transformers 5",
    };
    let mut text = format!("adapter     {}\n", directory.display());
    text += &format!(
        "LoRA        r {}, alpha {}, dropout {}, on {}\n",
        lora.r,
        lora.alpha,
        lora.dropout,
        targets.collect::<Vec<_>>().join(", ")
    );
    text += &format!(
        "base        {}\n",
        config["base_model_name_or_path"].as_str().unwrap_or("not named")
    );
    text += &format!("names       as {spelling} has them\n");
    let classifier = file.names().find(|name| name.ends_with("classifier.weight"));
    if let Some(classes) = classifier.and_then(|name| file.shape(name)?.first().copied()) {
        text += &format!("classifier  {classes} classes\n");
    }
    text += &listing(&file, tensors);
    Ok(text)
}

fn listing(file: &Checkpoint, tensors: Tensors) -> String {
    let names: Vec<&str> = file.names().collect();
    let count = |name: &str| file.shape(name).unwrap_or_default().iter().product::<usize>();
    let parameters: usize = names.iter().map(|name| count(name)).sum();
    let mut dtypes: Vec<String> = names.iter().filter_map(|name| file.dtype(name)).collect();
    dtypes.sort();
    dtypes.dedup();
    let mut text = format!(
        "tensors     {}, {} parameters, {}\n",
        names.len(),
        grouped(parameters),
        dtypes.join(" and ")
    );
    let shown = match tensors {
        Tensors::Listed => names.len(),
        Tensors::Summed => SHOWN.min(names.len()),
    };
    for name in &names[..shown] {
        text += &format!("            {name} {:?}\n", file.shape(name).unwrap_or_default());
    }
    if shown < names.len() {
        text += &format!("            and {} more (--tensors lists them)\n", names.len() - shown);
    }
    text
}

fn named(classes: &[String]) -> String {
    let shown = classes
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    match classes.len().checked_sub(SHOWN) {
        None | Some(0) => format!("{}: {shown}", classes.len()),
        Some(more) => format!("{}: {shown} and {more} more", classes.len()),
    }
}
