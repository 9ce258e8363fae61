//! The list of a repository's files at one commit, and its copy in the cache.
//!
//! A commit never changes, so the copy (`trees/<commit>.json`, in the form of Python's huggingface_hub 2) is good for ever:
//! it saves the question, and tells without a network what is missing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::client::{Client, absolute};
use super::refusal::Trouble;
use crate::error::Error;

/// Files by their path in the repository.
pub(super) type Tree = BTreeMap<String, Entry>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub size: u64,
    /// Git's name of the file, or of the pointer to it.
    pub blob_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lfs_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lfs_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xet_hash: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format_version: u32,
    files: Tree,
}

const FORMAT: u32 = 1;
const MOST_IDLE_PAGES: u32 = 100;

impl Entry {
    /// What the file is called among the blobs of the cache, and on the Hub (its ETag): a hash of its contents.
    pub fn name(&self) -> &str {
        self.lfs_sha256.as_deref().unwrap_or(&self.blob_id)
    }

    /// Bytes of the contents.
    pub fn length(&self) -> u64 {
        self.lfs_size.unwrap_or(self.size)
    }
}

/// Asks for all pages of a listing; `first`: the address of the first one.
pub(super) fn ask(client: &Client, first: &str) -> Result<Tree, Trouble> {
    let mut tree = Tree::new();
    let mut next = Some(first.to_owned());
    let mut idle = 0;
    while let Some(url) = next {
        let (text, headers) = client.persist(|| client.text(&url))?;
        let page: Vec<Value> = serde_json::from_str(&text).map_err(|error| {
            Trouble::Final(Error::hub(
                format!("{url} is no list of files: {error}"),
                "check HF_ENDPOINT",
            ))
        })?;
        let before = tree.len();
        tree.extend(page.iter().filter_map(entry));
        let links = headers.get("link").and_then(|link| link.to_str().ok());
        next = links.and_then(next_page).map(|link| absolute(client.endpoint(), link));
        // Pages of directories alone add nothing; a server that turns in a circle adds nothing either.
        idle = if tree.len() == before { idle + 1 } else { 0 };
        if idle > MOST_IDLE_PAGES {
            return Err(Trouble::Final(Error::hub(
                format!("{first} has no end"),
                "check HF_ENDPOINT",
            )));
        }
    }
    Ok(tree)
}

/// One element of a page; None for directories, and for paths that no honest repository has.
fn entry(value: &Value) -> Option<(String, Entry)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let path = value["path"].as_str().filter(|path| is_inside(path))?;
    if value["type"] != "file" {
        return None;
    }
    let lfs = &value["lfs"];
    let entry = Entry {
        size: value["size"].as_u64()?,
        blob_id: text(&value["oid"])?,
        lfs_sha256: text(&lfs["oid"]),
        lfs_size: lfs["size"].as_u64(),
        xet_hash: text(&value["xetHash"]),
    };
    Some((path.to_owned(), entry))
}

/// Whether a path stays in the directory that it is joined to.
pub(super) fn is_inside(path: &str) -> bool {
    !path.is_empty() && path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains('\0')
}

/// The target of `<target>; rel="next"`.
fn next_page(links: &str) -> Option<&str> {
    links.split(',').find_map(|link| {
        let (target, relation) = link.trim().strip_prefix('<')?.split_once('>')?;
        relation.contains("rel=\"next\"").then_some(target)
    })
}

/// A stored copy; None if it is not one that we know.
pub(super) fn read(text: &str) -> Option<Tree> {
    let stored: Stored = serde_json::from_str(text).ok()?;
    let known = stored.format_version == FORMAT && stored.files.keys().all(|path| is_inside(path));
    known.then_some(stored.files)
}

pub(super) fn write(tree: &Tree) -> String {
    let stored = Stored {
        format_version: FORMAT,
        files: tree.clone(),
    };
    serde_json::to_string_pretty(&stored).expect("a tree is plain values")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_becomes_entries_and_its_copy_gives_them_back() {
        let page = r#"[
            {"type": "directory", "oid": "aa", "size": 0, "path": "data"},
            {"type": "file", "oid": "bb", "size": 12, "path": "README.md"},
            {"type": "file", "oid": "cc", "size": 134, "path": "data/x.parquet",
             "lfs": {"oid": "dd", "size": 99, "pointerSize": 134}, "xetHash": "ee"},
            {"type": "file", "oid": "ff", "size": 1, "path": "../../outside"}
        ]"#;
        let page: Vec<Value> = serde_json::from_str(page).unwrap();
        let tree: Tree = page.iter().filter_map(entry).collect();
        assert_eq!(tree.keys().collect::<Vec<_>>(), ["README.md", "data/x.parquet"]);
        let (small, large) = (&tree["README.md"], &tree["data/x.parquet"]);
        assert_eq!((small.name(), small.length()), ("bb", 12));
        assert_eq!((large.name(), large.length()), ("dd", 99));
        assert_eq!(read(&write(&tree)), Some(tree));
        assert_eq!(read(r#"{"format_version": 2, "files": {}}"#), None);
        assert_eq!(read("damaged"), None);
    }

    #[test]
    fn the_next_page_is_found_among_links() {
        let links = "</a>; rel=\"first\", <https://hub/b?cursor=x>; rel=\"next\"";
        assert_eq!(next_page(links), Some("https://hub/b?cursor=x"));
        assert_eq!(next_page("</a>; rel=\"prev\""), None);
    }
}
