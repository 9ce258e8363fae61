//! Names near one that does not exist.

use serde_json::Value;

use super::client::Client;
use super::name::{Kind, Repository};

const SHOWN: usize = 3;

/// Repositories of the same kind that the Hub's search finds for the last part of the name; none if it is not to be asked.
pub(super) fn names(client: &Client, repository: &Repository) -> Vec<String> {
    let kind = match repository.kind {
        Kind::Model => "models",
        Kind::Dataset => "datasets",
    };
    let last = repository.id.rsplit('/').next().unwrap_or_default();
    let url = format!(
        "{}/api/{kind}?search={last}&sort=downloads&limit={SHOWN}",
        client.endpoint()
    );
    let Ok((text, _)) = client.text(&url) else {
        return Vec::new();
    };
    let found: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
    let names = found.iter().filter_map(|entry| entry["id"].as_str());
    names
        .filter(|name| *name != repository.id)
        .take(SHOWN)
        .map(str::to_owned)
        .collect()
}
