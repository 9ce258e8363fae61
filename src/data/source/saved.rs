//! Directories that datasets' `save_to_disk` writes: one per split, each with a `state.json` that lists its shards.

use std::path::Path;

use serde_json::Value;

use super::features::Features;
use super::keywords;
use super::layout::{Kind, Layout, SplitFiles};
use super::walk::Listing;
use crate::error::{Error, IoContext, Result};

/// The layout of such a directory; `None` for any other.
pub(super) fn read(path: &Path) -> Result<Option<Layout>> {
    let dict = path.join("dataset_dict.json");
    let mut splits = Vec::new();
    let features_in;
    if dict.is_file() {
        let value = json(&dict)?;
        let names: Vec<&str> = value
            .get("splits")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let Some(first) = names.first() else {
            return Err(damaged(&dict, "it names no split"));
        };
        features_in = path.join(first);
        for name in names {
            if is_outside(name) {
                return Err(damaged(&dict, &format!("split `{name}` lies outside the dataset")));
            }
            let files = shards(&path.join(name))?.1;
            splits.push(SplitFiles {
                name: name.to_owned(),
                files: files.into_iter().map(|file| format!("{name}/{file}")).collect(),
            });
        }
        splits.sort_by(|a, b| keywords::sort_key(&a.name).cmp(&keywords::sort_key(&b.name)));
    } else if path.join("state.json").is_file() {
        features_in = path.to_owned();
        let (name, files) = shards(path)?;
        splits.push(SplitFiles { name, files });
    } else {
        return Ok(None);
    }
    let info = std::fs::read_to_string(features_in.join("dataset_info.json"));
    Ok(Some(Layout {
        path: path.to_owned(),
        root: path.to_owned(),
        kind: Kind::Tables,
        splits,
        features: info.ok().and_then(|text| Features::from_json(&text)),
        listing: Listing::default(),
        notes: Vec::new(),
    }))
}

/// Name of the split and its shards, as `state.json` has them.
fn shards(directory: &Path) -> Result<(String, Vec<String>)> {
    let path = directory.join("state.json");
    let state = json(&path)?;
    let indices = ["_indices_data_files", "_indices_files"];
    if indices.iter().any(|key| {
        state
            .get(key)
            .and_then(Value::as_array)
            .is_some_and(|list| !list.is_empty())
    }) {
        return Err(Error::dataset(
            &path,
            "the rows are chosen by an indices table, which is not read",
            "call flatten_indices() on the dataset and save it again",
        ));
    }
    let listed = state.get("_data_files").and_then(Value::as_array);
    let files = listed.ok_or_else(|| damaged(&path, "it has no list `_data_files`"))?;
    let mut names = Vec::new();
    for file in files {
        let name = file.get("filename").and_then(Value::as_str);
        let name = name.ok_or_else(|| damaged(&path, "an entry of `_data_files` has no `filename`"))?;
        if is_outside(name) {
            return Err(damaged(&path, &format!("shard `{name}` lies outside the dataset")));
        }
        if !directory.join(name).is_file() {
            return Err(Error::dataset(
                directory,
                format!("shard {name} is missing, which state.json lists"),
                "complete the copy, or save the dataset again",
            ));
        }
        names.push(name.to_owned());
    }
    let split = state.get("_split").and_then(Value::as_str).unwrap_or("train");
    Ok((split.to_owned(), names))
}

fn json(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path).at("read", path)?;
    serde_json::from_slice(&bytes).map_err(|error| damaged(path, &error.to_string()))
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::dataset(path, what, "save the dataset again with save_to_disk")
}

/// Whether a name would leave the directory that it is joined to.
fn is_outside(name: &str) -> bool {
    use std::path::Component;
    !Path::new(name)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}
