//! The pictures that were named: files, folders of files, rows of datasets.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::cli::fetch::is_remote;
use crate::data::{Columns, Dataset, Samples, Source, is_image};
use crate::error::{Error, IoContext, Result};

/// All pictures, numbered in the order in which they were named. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pictures(Arc<Vec<Picture>>);

#[derive(Clone, Debug)]
enum Picture {
    File(PathBuf),
    Row(Dataset, usize),
}

/// Splits of a dataset that are looked for if none is named.
const SPLITS: [&str; 3] = ["test", "validation", "train"];
const DEEPEST: usize = 32;

impl Pictures {
    /// `bring` finds a dataset, with what a split needs of it.
    pub fn find(
        inputs: &[String],
        split: Option<&str>,
        mut bring: impl FnMut(&str, &[&str], &Columns) -> Result<Source>,
    ) -> Result<Pictures> {
        let mut pictures = Vec::new();
        for input in inputs {
            let path = Path::new(input);
            if !is_remote(input) && !is_dataset(path) {
                files(input, path, &mut pictures)?;
                continue;
            }
            let mut found = None;
            let wanted: Vec<&str> = split.map_or(SPLITS.to_vec(), |split| vec![split]);
            for (number, split) in wanted.iter().enumerate() {
                let columns = Columns::default();
                let opened =
                    bring(input, &[split], &columns).and_then(|source| Dataset::open_source(&source, split, &columns));
                match opened {
                    Ok(dataset) => {
                        found = Some(dataset);
                        break;
                    }
                    // The next split may be there; the last one's error is told.
                    Err(Error::Dataset { .. }) if number + 1 < wanted.len() => {}
                    Err(error) => return Err(error),
                }
            }
            let dataset = found.expect("a dataset or an error");
            pictures.extend((0..dataset.len()).map(|row| Picture::Row(dataset.clone(), row)));
        }
        if u32::try_from(pictures.len()).is_err() {
            return Err(Error::usage("there are too many pictures", "name fewer"));
        }
        Ok(Pictures(Arc::new(pictures)))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The class that a dataset says a picture is of.
    pub fn true_label(&self, number: usize) -> Option<&str> {
        match &self.0[number] {
            Picture::File(_) => None,
            Picture::Row(dataset, row) => Some(&dataset.classes()[dataset.label(*row) as usize]),
        }
    }
}

impl Samples for Pictures {
    fn encoded(&self, number: usize) -> Result<Bytes> {
        match &self.0[number] {
            Picture::File(path) => match std::fs::read(path) {
                Ok(bytes) => Ok(bytes.into()),
                Err(error) => Err(Error::Image {
                    at: path.display().to_string(),
                    what: error.to_string(),
                }),
            },
            Picture::Row(dataset, row) => dataset.encoded(*row),
        }
    }

    fn label(&self, _: usize) -> u32 {
        0
    }

    fn origin(&self, number: usize) -> String {
        match &self.0[number] {
            Picture::File(path) => path.display().to_string(),
            Picture::Row(dataset, row) => dataset.origin(*row),
        }
    }
}

/// Shards, or a directory that holds some or was made by save_to_disk: anything else is a file or folder of pictures.
fn is_dataset(path: &Path) -> bool {
    let is_shard = |path: &Path| path.extension().is_some_and(|end| end == "parquet" || end == "arrow");
    let holds_shards = |path: &Path| {
        std::fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| is_shard(&entry.path()))
    };
    is_shard(path)
        || path.is_dir()
            && (holds_shards(path) || holds_shards(&path.join("data")) || path.join("dataset_dict.json").exists())
}

/// A file, whatever it is called; of a folder everything that is called like a picture.
fn files(input: &str, path: &Path, pictures: &mut Vec<Picture>) -> Result<()> {
    let kind = std::fs::metadata(path).at("open", path)?;
    if !kind.is_dir() {
        pictures.push(Picture::File(path.to_owned()));
        return Ok(());
    }
    let before = pictures.len();
    descend(path, 0, pictures)?;
    match pictures.len() == before {
        false => Ok(()),
        true => Err(Error::usage(
            format!("{input} holds no pictures"),
            "name files, a folder of pictures, or a dataset",
        )),
    }
}

fn descend(folder: &Path, depth: usize, pictures: &mut Vec<Picture>) -> Result<()> {
    if depth > DEEPEST {
        return Err(Error::usage(
            format!("{}: more than {DEEPEST} folders lie in each other", folder.display()),
            "look for a link that leads back to where it lies",
        ));
    }
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).at("list", folder)? {
        entries.push(entry.at("list", folder)?.path());
    }
    entries.sort();
    for entry in entries {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        if entry.is_dir() {
            descend(&entry, depth + 1, pictures)?;
        } else if is_image(&name) {
            pictures.push(Picture::File(entry));
        }
    }
    Ok(())
}
