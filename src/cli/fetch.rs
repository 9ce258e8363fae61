//! Names become places: what is no local path comes from the Hub, downloaded by one rank of each node while the others wait.

mod dataset;
mod model;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::collective::{Collective, gather, host};
use crate::data::Source;
use crate::error::Result;
use crate::hub::{Hub, Remote, Settings, is_name};
use crate::recipe::Recipe;
use crate::train::{Places, columns};

pub use dataset::DatasetName;
pub use model::ModelName;

/// Where the inputs of a recipe lie, and lines for people about what came from the Hub. Every rank must call it.
pub fn places(recipe: &Recipe, collective: &dyn Collective) -> Result<(Places, Vec<String>)> {
    once_a_node(collective, |notes| find(recipe, notes))
}

/// Lets one rank of each node look for the inputs, and the others wait for what it finds; with the lines that it noted.
/// Every rank must call it.
pub fn once_a_node(
    collective: &dyn Collective,
    find: impl FnOnce(&mut Vec<String>) -> Result<Places>,
) -> Result<(Places, Vec<String>)> {
    let mut notes = Vec::new();
    let mut found = Vec::new();
    if collective.local().rank == 0 {
        let places = find(&mut notes)?;
        if collective.world() == 1 {
            return Ok((places, notes));
        }
        found = to_json(&places).to_string().into_bytes();
    }
    // Whoever fails above ends the job, and with it the wait of the others here.
    let all = gather(collective, &found)?;
    let places = all.iter().filter(|found| !found.is_empty()).filter_map(|found| {
        let value: Value = serde_json::from_slice(found).ok()?;
        from_json(&value)
    });
    let mine = places.into_iter().find(|(of_host, _)| *of_host == host());
    let (_, places) = mine.expect("every node has a first rank");
    Ok((places, notes))
}

/// The Hub with the settings of this process and of the recipe.
pub fn hub(cache_dir: Option<&Path>, token: Option<&str>) -> Result<Hub> {
    let mut settings = Settings::of_this_process();
    if let Some(cache) = cache_dir {
        settings.cache = cache.to_owned();
    }
    if let Some(token) = token.and_then(crate::hub::Token::new) {
        settings.token = Some(token);
    }
    Hub::new(settings)
}

/// Is this a name of the Hub? Whatever exists here is a path.
pub fn is_remote(name: &str) -> bool {
    !Path::new(name).exists() && is_name(name)
}

fn find(recipe: &Recipe, notes: &mut Vec<String>) -> Result<Places> {
    let hub = hub(recipe.cache_dir.as_deref(), recipe.token.as_deref())?;
    let model = ModelName {
        name: &recipe.model,
        revision: recipe.model_revision.as_deref(),
    };
    let adapter = match &recipe.adapter {
        Some(adapter) => Some(ModelName::adapter(adapter).place(&hub, notes)?),
        None => None,
    };
    let dataset = DatasetName {
        name: &recipe.dataset,
        revision: recipe.dataset_revision.as_deref(),
        configuration: recipe.dataset_config_name.as_deref(),
    };
    let splits: Vec<&str> = [Some(&recipe.train_split), recipe.validation_split.as_ref()]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    Ok(Places {
        model: model.place(&hub, notes)?,
        adapter,
        dataset: match &recipe.train_dir {
            Some(folder) => Source::local(folder),
            None => dataset.place(&hub, &splits, &columns(recipe), notes)?,
        },
    })
}

/// A line about a repository that was used.
fn used(remote: &Remote) -> String {
    let line = format!("{} is the Hub's, commit {:.8}", remote.repository(), remote.commit());
    match remote.note() {
        Some(note) => format!("{line}: {note}"),
        None => line,
    }
}

fn to_json(places: &Places) -> Value {
    json!({
        "host": host(),
        "model": places.model.to_string_lossy(),
        "adapter": places.adapter.as_ref().map(|adapter| adapter.to_string_lossy()),
        "dataset": places.dataset.path.to_string_lossy(),
        "configuration": places.dataset.configuration,
        "files": places.dataset.files,
    })
}

fn from_json(value: &Value) -> Option<(String, Places)> {
    let text = |key: &str| value[key].as_str().map(str::to_owned);
    let files = value["files"].as_array();
    let places = Places {
        model: text("model")?.into(),
        adapter: text("adapter").map(PathBuf::from),
        dataset: Source {
            path: text("dataset")?.into(),
            configuration: text("configuration"),
            files: files.map(|files| {
                files
                    .iter()
                    .filter_map(|file| Some(file.as_str()?.to_owned()))
                    .collect()
            }),
        },
    };
    Some((text("host")?, places))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_their_journey() {
        let places = Places {
            model: "/cache/snapshots/a".into(),
            adapter: None,
            dataset: Source {
                path: "/cache/snapshots/b".into(),
                configuration: Some("full".to_owned()),
                files: Some(vec!["README.md".to_owned(), "data/ü.parquet".to_owned()]),
            },
        };
        assert_eq!(from_json(&to_json(&places)), Some((host(), places.clone())));
        let local = Places {
            adapter: Some("adapter".into()),
            dataset: Source::local(Path::new("data")),
            ..places
        };
        assert_eq!(from_json(&to_json(&local)), Some((host(), local)));
    }

    #[test]
    fn what_exists_is_no_name() {
        assert!(!is_remote("src") && !is_remote("./src/nowhere") && !is_remote("/nowhere"));
        assert!(is_remote("google/vit-base-patch16-224-in21k") && is_remote("food101"));
    }
}
