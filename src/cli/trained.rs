//! A model that was trained, for use: a whole checkpoint, or an adapter with the base that it belongs to.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use super::fetch::{self, ModelName};
use crate::data::Preprocessor;
use crate::data::preprocessor;
use crate::error::{Error, IoContext, Result};
use crate::hub::Hub;
use crate::model::adapter;
use crate::model::weights::Checkpoint;
use crate::model::{LoadReport, LoraConfig, Model, Training, VitConfig, names};
use crate::ops::device::Placement;

/// Which model is meant.
#[derive(Args, Clone, Debug)]
pub struct ModelArguments {
    /// Checkpoint or adapter: a directory, or a name on the Hub
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// What an adapter sits on [default: the model that it names]
    #[arg(long, value_name = "DIR|NAME")]
    pub base: Option<String>,
    /// Branch, tag or commit of a model on the Hub [default: main]
    #[arg(long, value_name = "REVISION")]
    pub model_revision: Option<String>,
    /// Where downloads are kept [default: as Python's, HF_HOME/hub]
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Access token [default: HF_TOKEN, or what `hf auth login` stored]
    #[arg(long, value_name = "hf_…")]
    pub token: Option<String>,
}

/// Directories of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelPlaces {
    /// With `config.json` and the weights.
    pub base: PathBuf,
    /// With `adapter_config.json` and its weights.
    pub adapter: Option<PathBuf>,
}

pub struct Trained {
    pub model: Model,
    pub preprocessor: Preprocessor,
    pub places: ModelPlaces,
    pub loaded: Vec<LoadReport>,
}

impl ModelArguments {
    pub fn hub(&self) -> Result<Hub> {
        fetch::hub(self.cache_dir.as_deref(), self.token.as_deref())
    }

    /// Finds the directories; what is on the Hub is downloaded.
    pub fn places(&self, hub: &Hub, notes: &mut Vec<String>) -> Result<ModelPlaces> {
        let name = ModelName {
            name: &self.model,
            revision: self.model_revision.as_deref(),
        };
        let place = name.place(hub, notes)?;
        let adapter_config = place.join("adapter_config.json");
        if !adapter_config.exists() {
            return match &self.base {
                None => Ok(ModelPlaces {
                    base: place,
                    adapter: None,
                }),
                Some(base) => Err(Error::usage(
                    format!("--base {base}: {} is no adapter", self.model),
                    "leave --base out, or name a directory with adapter_config.json",
                )),
            };
        }
        let text = std::fs::read_to_string(&adapter_config).at("read", &adapter_config)?;
        let config: Value = serde_json::from_str(&text).unwrap_or_default();
        let (base, revision) = match (&self.base, config["base_model_name_or_path"].as_str()) {
            (Some(base), _) => (base.as_str(), None),
            (None, Some(base)) => (base, config["revision"].as_str()),
            (None, None) => {
                return Err(Error::model(
                    &adapter_config,
                    "it does not name the model that the adapter belongs to",
                    "name it with --base",
                ));
            }
        };
        let base = ModelName { name: base, revision };
        let found = base.place(hub, notes)?;
        if !found.join("config.json").exists() {
            return Err(Error::model(
                &found,
                format!("the adapter {} belongs to it, but there is no config.json", self.model),
                "say with --base where that model is",
            ));
        }
        Ok(ModelPlaces {
            base: found,
            adapter: Some(place),
        })
    }
}

impl Trained {
    /// Loads the model, without anything that is needed for training it only.
    /// Errors: whatever does not fit; a classifier that was never trained.
    pub fn load(places: &ModelPlaces, placement: &Placement) -> Result<Trained> {
        let placement = placement.clone();
        let (model, loaded) = match &places.adapter {
            None => {
                let classes = Model::classes_in(&places.base)?;
                let (model, report) = Model::load(&places.base, &classes, &Training::Head, 0, placement)?;
                if !report.new.is_empty() {
                    return Err(Error::model(
                        &places.base,
                        "it has no classifier of its own, so its answers would be random",
                        "train it first, or name an adapter, or a checkpoint with a classifier",
                    ));
                }
                (model, vec![report])
            }
            Some(adapter) => {
                let classes = classes_of_adapter(adapter, &places.base)?;
                let lora = LoraConfig {
                    dropout: 0.0,
                    ..LoraConfig::read(adapter)?
                };
                let (mut model, mut report) = Model::load(&places.base, &classes, &Training::Lora(lora), 0, placement)?;
                // The adapter brings its own classifier.
                report.new.clear();
                let of_adapter = model.load_adapter(adapter)?;
                (model, vec![report, of_adapter])
            }
        };
        let own = places
            .adapter
            .as_ref()
            .filter(|adapter| adapter.join(preprocessor::FILE_NAME).exists());
        Ok(Trained {
            preprocessor: Preprocessor::read(own.unwrap_or(&places.base))?,
            model,
            places: places.clone(),
            loaded,
        })
    }

    pub fn classes(&self) -> &[String] {
        self.model.classes()
    }
}

/// Names of an adapter's classes: from the file that dtrain writes beside it, from the base if that has as many, else numbers.
fn classes_of_adapter(directory: &Path, base: &Path) -> Result<Vec<String>> {
    let file = Checkpoint::open(directory, "adapter_model", names::adapter_in_memory)?;
    let weight = names::adapter_classifier("weight");
    let count = file
        .shape(&weight)
        .and_then(|shape| shape.first().copied())
        .ok_or_else(|| {
            Error::model(
                directory,
                "the adapter has no classifier of its own",
                "save it with modules_to_save=[\"classifier\"]",
            )
        })?;
    let path = directory.join(adapter::LABELS_FILE);
    if path.exists() {
        let text = std::fs::read_to_string(&path).at("read", &path)?;
        let by_number: Value = serde_json::from_str(&text).unwrap_or_default();
        let names: Option<Vec<String>> = (0..count)
            .map(|class| Some(by_number.get(class.to_string())?.as_str()?.to_owned()))
            .collect();
        return names.ok_or_else(|| {
            Error::model(
                &path,
                format!("it does not name {count} classes"),
                "remove it, or write {\"0\": \"name\", …}",
            )
        });
    }
    let of_base = VitConfig::read(base)?.classes;
    match of_base.len() == count {
        true => Ok(of_base),
        false => Ok((0..count).map(|class| class.to_string()).collect()),
    }
}
