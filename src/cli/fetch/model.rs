//! A model or an adapter by name: which files of its repository make it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{is_remote, used};
use crate::error::{Error, IoContext, Result};
use crate::hub::{Hub, Kind, Remote, Repository};

/// A directory or a name on the Hub.
#[derive(Clone, Copy, Debug)]
pub struct ModelName<'a> {
    pub name: &'a str,
    pub revision: Option<&'a str>,
}

const CONFIG: &str = "config.json";
const ADAPTER_CONFIG: &str = "adapter_config.json";
/// The files that say everything but the weights; those that there are.
const DESCRIPTIONS: [&str; 4] = [CONFIG, "preprocessor_config.json", ADAPTER_CONFIG, "README.md"];

impl<'a> ModelName<'a> {
    /// An adapter, which has no revision of its own in a recipe.
    pub fn adapter(path: &'a Path) -> ModelName<'a> {
        ModelName {
            // A path that is no text is no name either; the message about it comes when it is opened.
            name: path.to_str().unwrap_or("/"),
            revision: None,
        }
    }

    /// The directory with its files; they are downloaded if they have to.
    pub fn place(&self, hub: &Hub, notes: &mut Vec<String>) -> Result<PathBuf> {
        if !is_remote(self.name) {
            return Ok(PathBuf::from(self.name));
        }
        let repository = Repository::new(Kind::Model, self.name, self.revision);
        let remote = hub.open(&repository)?;
        fetch(&remote)?;
        notes.push(used(&remote));
        Ok(remote.directory())
    }
}

fn fetch(remote: &Remote) -> Result<()> {
    let files = remote.files();
    let has = |name: &str| files.iter().any(|file| file == name);
    let mut wanted: Vec<String> = DESCRIPTIONS
        .iter()
        .filter(|name| has(name))
        .map(|name| name.to_string())
        .collect();
    let stem = match (has(CONFIG), has(ADAPTER_CONFIG)) {
        (true, _) => "model",
        (false, true) => "adapter_model",
        (false, false) => {
            return Err(Error::hub(
                format!(
                    "{} has neither config.json nor adapter_config.json",
                    remote.repository()
                ),
                "choose a repository with a model of transformers, or an adapter of peft",
            ));
        }
    };
    let (single, index) = (format!("{stem}.safetensors"), format!("{stem}.safetensors.index.json"));
    if has(&single) {
        wanted.push(single);
    } else if has(&index) {
        remote.fetch(std::slice::from_ref(&index))?;
        wanted.extend(shards(&remote.directory().join(&index))?);
    } else {
        let other = files
            .iter()
            .find(|file| file.ends_with(".bin") || file.ends_with(".h5") || file.ends_with(".msgpack"));
        let kind = other.map_or("no weights".to_owned(), |other| format!("its weights only as {other}"));
        return Err(Error::hub(
            format!("{} has {kind}, not as {single}", remote.repository()),
            "choose a revision with safetensors (often --model-revision refs/pr/1), or convert it with transformers: \
             AutoModel.from_pretrained(…).save_pretrained(…)",
        ));
    }
    remote.fetch(&wanted)
}

/// The files that an index spreads the tensors over.
fn shards(index: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(index).at("read", index)?;
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    let map = value["weight_map"]
        .as_object()
        .ok_or_else(|| Error::model(index, "it has no weight_map", "choose a whole checkpoint"))?;
    let mut files: Vec<String> = map
        .values()
        .filter_map(|file| Some(file.as_str()?.to_owned()))
        .collect();
    files.sort_unstable();
    files.dedup();
    Ok(files)
}
