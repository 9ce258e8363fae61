//! `dtrain inspect WHAT`: what a dataset, a checkpoint or an adapter is made of.

mod checkpoint;
mod dataset;

use std::path::{Path, PathBuf};

use clap::Args;

use super::fetch::{self, DatasetName, ModelName, is_remote};
use super::say;
use crate::data::Columns;
use crate::error::{Error, Result};
use crate::hub::{Hub, Kind, Repository};

#[derive(Args, Debug)]
pub struct InspectArguments {
    /// Dataset, checkpoint or adapter: a directory, a file, or a name on the Hub
    #[arg(value_name = "WHAT")]
    what: String,
    /// What a name on the Hub is of [default: whichever there is]
    #[arg(long)]
    kind: Option<InspectKind>,
    /// Look at this split of a dataset only, slices allowed; of a dataset on the Hub, download it
    #[arg(long, value_name = "SPLIT")]
    split: Option<String>,
    #[arg(long, value_name = "NAME")]
    dataset_config_name: Option<String>,
    #[arg(long, value_name = "NAME")]
    image_column_name: Option<String>,
    #[arg(long, value_name = "NAME")]
    label_column_name: Option<String>,
    /// Decode this many images of every split, in runs of eight that are evenly spread (0: none)
    #[arg(long, value_name = "N", default_value_t = 1000)]
    images: usize,
    /// List every tensor of a checkpoint
    #[arg(long)]
    tensors: bool,
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    #[arg(long, value_name = "hf_…")]
    token: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum InspectKind {
    Model,
    Dataset,
}

/// How much is told of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tensors {
    Summed,
    Listed,
}

pub fn run(arguments: &InspectArguments) -> Result<()> {
    let mut notes = Vec::new();
    let text = arguments.look(&mut notes)?;
    notes.iter().for_each(|note| eprintln!("note: {note}"));
    say(&text);
    Ok(())
}

impl InspectArguments {
    fn look(&self, notes: &mut Vec<String>) -> Result<String> {
        let hub = fetch::hub(self.cache_dir.as_deref(), self.token.as_deref())?;
        let tensors = match self.tensors {
            true => Tensors::Listed,
            false => Tensors::Summed,
        };
        match self.kind_of(&hub)? {
            InspectKind::Model => {
                let name = ModelName {
                    name: &self.what,
                    revision: self.revision.as_deref(),
                };
                checkpoint::describe(&name.place(&hub, notes)?, tensors)
            }
            InspectKind::Dataset => {
                let name = DatasetName {
                    name: &self.what,
                    revision: self.revision.as_deref(),
                    configuration: self.dataset_config_name.as_deref(),
                };
                let columns = Columns {
                    image: self.image_column_name.clone(),
                    label: self.label_column_name.clone(),
                };
                let splits: Vec<&str> = self.split.as_deref().into_iter().collect();
                let source = name.place(&hub, &splits, &columns, notes)?;
                dataset::describe(&source, &splits, &columns, self.images)
            }
        }
    }

    fn kind_of(&self, hub: &Hub) -> Result<InspectKind> {
        if let Some(kind) = self.kind {
            return Ok(kind);
        }
        let path = Path::new(&self.what);
        if is_remote(&self.what) {
            let repository = |kind| Repository::new(kind, &self.what, self.revision.as_deref());
            return match hub.open(&repository(Kind::Model)) {
                Ok(_) => Ok(InspectKind::Model),
                Err(of_model) => match hub.open(&repository(Kind::Dataset)) {
                    Ok(_) => Ok(InspectKind::Dataset),
                    Err(_) => Err(of_model),
                },
            };
        }
        let is_model = |path: &Path| {
            let has = |name: &str| path.join(name).exists();
            has("config.json") || has("adapter_config.json") || has("model.safetensors")
        };
        match std::fs::metadata(path) {
            Err(source) => Err(Error::Io {
                action: "open",
                path: path.to_owned(),
                source,
            }),
            Ok(_) if is_model(path) => Ok(InspectKind::Model),
            Ok(_) => Ok(InspectKind::Dataset),
        }
    }
}
