//! Which files of a dataset belong to which split.
//!
//! In this order: a directory of `save_to_disk`; the patterns of the README; Hub shards `data/{split}-NNNNN-of-NNNNN`; the
//! conversion branch's `{config}/{split}/0000.parquet`; split keywords in directories; in file names; else all is train.
//! Nothing is opened here but small text files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::card::Config;
use super::features::Features;
use super::keywords;
use super::patterns::by_patterns;
use super::place::Source;
use super::saved;
use super::shard_names::by_names;
use super::walk::{self, Listing};
use crate::error::{Error, IoContext, Result};

/// The files of a dataset by split.
#[derive(Debug)]
pub(super) struct Layout {
    /// What the user named.
    pub path: PathBuf,
    /// What the files' names are relative to.
    pub root: PathBuf,
    pub kind: Kind,
    /// Standard splits first; none is without files.
    pub splits: Vec<SplitFiles>,
    /// Column types declared beside the shards.
    pub features: Option<Features>,
    /// Everything below `root`; empty for a single file and for `save_to_disk`.
    pub listing: Listing,
    /// What was left out, in words.
    pub notes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Parquet and Arrow shards.
    Tables,
    /// Image files in class directories, or described by metadata files.
    Images,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SplitFiles {
    pub name: String,
    /// Relative to the root, in the order of their rows.
    pub files: Vec<String>,
}

/// What Pillow reads: everything else in an image folder is ignored.
const IMAGE_EXTENSIONS: [&str; 21] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "apng", "gif", "bmp", "dib", "webp", "tif", "tiff", "ppm", "pgm", "pbm",
    "pnm", "jp2", "j2k", "tga", "ico", "avif",
];

pub(super) const METADATA_NAMES: [&str; 3] = ["metadata.csv", "metadata.jsonl", "metadata.parquet"];

impl Layout {
    pub fn discover(source: &Source) -> Result<Layout> {
        let (path, config) = (source.path.as_path(), source.configuration.as_deref());
        let kind = std::fs::metadata(path).at("open dataset", path)?;
        if kind.is_file() {
            return single_file(path);
        }
        if let Some(layout) = saved::read(path)? {
            return Ok(layout);
        }
        let listing = match &source.files {
            Some(files) => Listing::of_names(files),
            None => walk::list(path)?,
        };
        let card = Config::read(path, config)?;
        let features = card.as_ref().and_then(|card| card.features.clone());
        let kind = kind_of(&listing).ok_or_else(|| nothing_to_read(path, &listing))?;

        let (splits, config_used) = match &card {
            Some(Config {
                data_files: Some(patterns),
                data_dir,
                ..
            }) => (by_patterns(path, &listing, kind, data_dir.as_deref(), patterns)?, true),
            Some(Config {
                data_dir: Some(directory),
                ..
            }) => (
                by_names(path, &files_of(&listing, kind, &format!("{directory}/")), None)?,
                true,
            ),
            _ => (by_names(path, &files_of(&listing, kind, ""), config)?, card.is_some()),
        };
        if let (Some(config), false, Kind::Images) = (config, config_used, kind) {
            return Err(Error::dataset(
                path,
                format!("there is no configuration `{config}`: image folders have none"),
                "leave --dataset-config-name out",
            ));
        }
        if splits.is_empty() {
            return Err(nothing_to_read(path, &listing));
        }
        let mut layout = Layout {
            path: path.to_owned(),
            root: path.to_owned(),
            kind,
            splits,
            features,
            listing,
            notes: Vec::new(),
        };
        layout.note_what_is_left_out();
        Ok(layout)
    }

    /// Every image below `directory` as one split, called `train`.
    pub fn images(directory: &Path) -> Result<Layout> {
        if std::fs::metadata(directory).at("open dataset", directory)?.is_file() {
            return Err(Error::dataset(
                directory,
                "this is a file",
                "give a folder with a directory of images for each class",
            ));
        }
        let listing = walk::list(directory)?;
        let files: Vec<String> = files_of(&listing, Kind::Images, "")
            .into_iter()
            .map(str::to_owned)
            .collect();
        if !files.iter().any(|file| is_image(file)) {
            return Err(Error::dataset(
                directory,
                format!("none of its {} files is an image", listing.files.len()),
                "give a folder with a directory of images for each class",
            ));
        }
        let mut layout = Layout {
            path: directory.to_owned(),
            root: directory.to_owned(),
            kind: Kind::Images,
            splits: vec![SplitFiles {
                name: "train".to_owned(),
                files,
            }],
            features: None,
            listing,
            notes: Vec::new(),
        };
        layout.note_what_is_left_out();
        Ok(layout)
    }

    /// The split of that name, or of an alias of it.
    pub fn split(&self, name: &str) -> Result<&SplitFiles> {
        let exact = self.splits.iter().find(|split| split.name == name);
        let meant = keywords::canonical(name);
        exact
            .or_else(|| {
                self.splits
                    .iter()
                    .find(|split| keywords::canonical(&split.name) == meant)
            })
            .ok_or_else(|| {
                let names: Vec<&str> = self.splits.iter().map(|split| split.name.as_str()).collect();
                Error::dataset(
                    &self.path,
                    format!("there is no split `{name}`"),
                    format!("choose one that exists: {}", names.join(", ")),
                )
            })
    }

    fn note_what_is_left_out(&mut self) {
        let used: BTreeSet<&str> = self
            .splits
            .iter()
            .flat_map(|split| &split.files)
            .map(String::as_str)
            .collect();
        let left: Vec<&str> = self
            .listing
            .files
            .iter()
            .map(String::as_str)
            .filter(|file| !used.contains(file))
            .collect();
        let readable = |file: &&&str| is_of_kind(file, self.kind);
        let other = |file: &&&str| !is_of_kind(file, self.kind) && !is_documentation(file);
        let mut notes = Vec::new();
        notes.extend(listed(
            "files belong to no split and are left out",
            left.iter().filter(readable),
        ));
        let unread = match self.kind {
            Kind::Tables => "files are neither Parquet nor Arrow and are ignored",
            Kind::Images => "files are not images and are ignored",
        };
        notes.extend(listed(unread, left.iter().filter(other)));
        notes.extend(listed(
            "links lead nowhere or into a circle",
            self.listing.dead_links.iter(),
        ));
        self.notes = notes;
    }
}

/// "3 {what}: a, b, c", naming the first few; `None` for none.
pub(super) fn listed<S: AsRef<str>>(what: &str, files: impl Iterator<Item = S>) -> Option<String> {
    const NAMED: usize = 5;
    let files: Vec<S> = files.collect();
    let named: Vec<&str> = files.iter().take(NAMED).map(AsRef::as_ref).collect();
    let dots = if files.len() > NAMED { ", …" } else { "" };
    (!files.is_empty()).then(|| format!("{} {what}: {}{dots}", files.len(), named.join(", ")))
}

fn single_file(path: &Path) -> Result<Layout> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !is_of_kind(&name, Kind::Tables) {
        return Err(Error::dataset(
            path,
            "the file's name ends neither in .parquet nor in .arrow",
            "give a directory, or a Parquet or Arrow file",
        ));
    }
    Ok(Layout {
        path: path.to_owned(),
        root: path.parent().unwrap_or(Path::new("")).to_owned(),
        kind: Kind::Tables,
        splits: vec![SplitFiles {
            name: "train".to_owned(),
            files: vec![name],
        }],
        features: None,
        listing: Listing::default(),
        notes: Vec::new(),
    })
}

/// Shards win over images: a dataset's repository may well show pictures of itself.
pub(super) fn kind_of(listing: &Listing) -> Option<Kind> {
    let has = |kind| {
        listing
            .files
            .iter()
            .any(|file| is_of_kind(file, kind) && !is_metadata(file))
    };
    [Kind::Tables, Kind::Images].into_iter().find(|&kind| has(kind))
}

pub(super) fn is_metadata(file: &str) -> bool {
    METADATA_NAMES.contains(&file.rsplit('/').next().unwrap_or(file))
}

/// Whether a file is called like a picture.
pub fn is_image(file: &str) -> bool {
    let extension = file
        .rsplit_once('.')
        .map(|(_, extension)| extension.to_ascii_lowercase());
    extension.is_some_and(|extension| IMAGE_EXTENSIONS.contains(&extension.as_str()))
}

pub(super) fn is_of_kind(file: &str, kind: Kind) -> bool {
    match kind {
        Kind::Tables => file.ends_with(".parquet") || file.ends_with(".arrow"),
        Kind::Images => is_image(file) || is_metadata(file),
    }
}

/// Files that belong to every dataset and need no mention.
fn is_documentation(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file).to_ascii_lowercase();
    let known = [
        "dataset_info.json",
        "dataset_infos.json",
        "state.json",
        "dataset_dict.json",
    ];
    name.ends_with(".md") || name.starts_with("license") || known.contains(&name.as_str())
}

fn files_of<'a>(listing: &'a Listing, kind: Kind, prefix: &str) -> Vec<&'a str> {
    let prefix = prefix.trim_start_matches("./");
    let files = listing.files.iter().map(String::as_str);
    files
        .filter(|file| file.starts_with(prefix) && is_of_kind(file, kind))
        .collect()
}

fn nothing_to_read(path: &Path, listing: &Listing) -> Error {
    Error::dataset(
        path,
        format!(
            "none of its {} files is a Parquet or Arrow shard or an image",
            listing.files.len()
        ),
        "give a directory in the Hub's layout, one written by save_to_disk, or a folder of images in class directories",
    )
}
