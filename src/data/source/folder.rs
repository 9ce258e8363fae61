//! Folders of image files: the label is the parent directory's name, or stands in a metadata file.
//!
//! `metadata.csv`, `metadata.jsonl` or `metadata.parquet` in a split give `file_name`, relative to themselves, and columns;
//! they replace the labels of the directories, as in datasets.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::path::{Component, Path};
use std::sync::Arc;

use super::features::Columns;
use super::layout::{Layout, SplitFiles, is_image, is_metadata, listed};
use super::metadata::{self, Described};
use super::shard::Labels;
use crate::error::{Error, Result};

/// The images of one split.
#[derive(Debug)]
pub(super) struct FolderShard {
    /// Relative to the dataset.
    pub files: Vec<String>,
    pub labels: Labels,
}

/// All splits of an image folder.
pub(super) struct Folder {
    pub splits: Vec<(String, Arc<FolderShard>)>,
    /// Columns of metadata files that are not read.
    pub other_columns: Vec<String>,
    pub notes: Vec<String>,
}

const CLASSES_ADVICE: &str =
    "put every image into the directory of its class, all on the same level: train/cat/1.jpg, train/dog/2.jpg";

impl Folder {
    /// Errors: also one class only.
    pub fn open(layout: &Layout, columns: &Columns) -> Result<Folder> {
        let folder = Folder::open_part(layout, columns)?;
        folder.check_classes(&layout.path)?;
        Ok(folder)
    }

    /// A folder that may lack classes which others have.
    pub fn open_part(layout: &Layout, columns: &Columns) -> Result<Folder> {
        let described = layout
            .splits
            .iter()
            .any(|split| split.files.iter().any(|file| is_metadata(file)));
        match described {
            true => by_metadata(layout, columns),
            false => by_directories(layout),
        }
    }

    /// Errors: all images are of one class, in directories of that name.
    pub fn check_classes(&self, path: &Path) -> Result<()> {
        let mut classes = BTreeSet::new();
        for (_, shard) in &self.splits {
            match &shard.labels {
                Labels::Names(names) => classes.extend(names.iter().flatten()),
                Labels::Numbers(_) => return Ok(()),
            }
        }
        let mut classes = classes.into_iter();
        match (classes.next(), classes.next()) {
            (Some(only), None) => Err(Error::dataset(
                path,
                format!("all images lie in directories called {only}: that is one class only"),
                CLASSES_ADVICE,
            )),
            _ => Ok(()),
        }
    }
}

fn by_directories(layout: &Layout) -> Result<Folder> {
    let all = || layout.splits.iter().flat_map(|split| &split.files);
    let depth = |file: &str| file.matches('/').count();
    let advice = CLASSES_ADVICE;
    if let Some(file) = all().find(|file| depth(file) == 0) {
        return Err(Error::dataset(
            &layout.root.join(file),
            "the image lies in no class directory",
            advice,
        ));
    }
    if let Some(first) = all().next()
        && let Some(other) = all().find(|file| depth(file) != depth(first))
    {
        return Err(Error::dataset(
            &layout.path,
            format!(
                "images lie on different levels, as {first} and {other}: which directory is the class is not clear"
            ),
            advice,
        ));
    }
    let class_of = |file: &str| file.rsplit('/').nth(1).unwrap_or("").to_owned();
    let splits = layout.splits.iter().map(|split| {
        let labels = split.files.iter().map(|file| Some(class_of(file))).collect();
        let shard = FolderShard {
            files: split.files.clone(),
            labels: Labels::Names(labels),
        };
        (split.name.clone(), Arc::new(shard))
    });

    let class_directories: HashSet<&str> = all().filter_map(|file| Some(file.rsplit_once('/')?.0)).collect();
    let levels = all().next().map_or(0, |file| depth(file));
    let beside_classes: HashSet<&str> = class_directories.iter().map(|path| parent(path)).collect();
    let empty = layout.listing.directories.iter().filter(|path| {
        path.split('/').count() == levels
            && beside_classes.contains(parent(path))
            && !class_directories.contains(path.as_str())
    });
    Ok(Folder {
        splits: splits.collect(),
        other_columns: Vec::new(),
        notes: listed("class directories hold no image", empty).into_iter().collect(),
    })
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn by_metadata(layout: &Layout, columns: &Columns) -> Result<Folder> {
    let present: HashSet<&str> = layout.listing.files.iter().map(String::as_str).collect();
    let mut folder = Folder {
        splits: Vec::new(),
        other_columns: Vec::new(),
        notes: Vec::new(),
    };
    let mut mentioned: HashSet<String> = HashSet::new();
    for split in &layout.splits {
        let shard = described_split(layout, split, columns, &present, &mut folder.other_columns)?;
        mentioned.extend(shard.files.iter().cloned());
        folder.splits.push((split.name.clone(), Arc::new(shard)));
    }
    let images = layout
        .splits
        .iter()
        .flat_map(|split| &split.files)
        .filter(|file| is_image(file));
    let unmentioned = images.filter(|file| !mentioned.contains(*file));
    folder
        .notes
        .extend(listed("images are in no metadata file and are left out", unmentioned));
    folder.other_columns.sort();
    folder.other_columns.dedup();
    Ok(folder)
}

fn described_split(
    layout: &Layout,
    split: &SplitFiles,
    columns: &Columns,
    present: &HashSet<&str>,
    other_columns: &mut Vec<String>,
) -> Result<FolderShard> {
    let mut shard: Option<FolderShard> = None;
    for file in split.files.iter().filter(|file| is_metadata(file)) {
        let path = layout.root.join(file);
        let Described {
            file_names,
            labels,
            other_columns: others,
        } = metadata::read(&path, columns)?;
        other_columns.extend(others);
        let mut files = Vec::with_capacity(file_names.len());
        for (row, name) in file_names.into_iter().enumerate() {
            let wrong = |what: String| {
                Error::dataset(
                    &path,
                    format!("row {row}: {what}"),
                    "correct file_name, or remove the row",
                )
            };
            let name = name.ok_or_else(|| wrong("there is no file_name".to_owned()))?;
            let inside = joined(parent(file), &name)
                .ok_or_else(|| wrong(format!("{name} does not lie below the metadata file")))?;
            if !present.contains(inside.as_str()) {
                return Err(wrong(format!("there is no file {name}")));
            }
            files.push(inside);
        }
        match &mut shard {
            None => shard = Some(FolderShard { files, labels }),
            Some(shard) => {
                shard.files.extend(files);
                shard.labels.append(labels).ok_or_else(|| {
                    Error::dataset(
                        &path,
                        "its labels are of another kind than those before",
                        "use texts or numbers for all",
                    )
                })?;
            }
        }
    }
    shard.ok_or_else(|| {
        Error::dataset(
            &layout.path,
            format!("split `{}` has no metadata file, though others have", split.name),
            "describe the images of every split, or of none",
        )
    })
}

/// `directory` and `name` as one path inside the dataset; `None` if it would lead out of `directory`.
fn joined(directory: &str, name: &str) -> Option<String> {
    let mut parts: Vec<&str> = directory.split('/').filter(|part| !part.is_empty()).collect();
    let base = parts.len();
    for part in Path::new(name).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            Component::ParentDir if parts.len() > base => {
                parts.pop();
            }
            _ => return None,
        }
    }
    (parts.len() > base).then(|| parts.join("/"))
}

impl FolderShard {
    pub fn labels(&self, rows: Range<usize>) -> Labels {
        self.labels.slice(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_stay_below_their_metadata_file() {
        assert_eq!(joined("train", "a.jpg").unwrap(), "train/a.jpg");
        assert_eq!(joined("", "./x/../a.jpg").unwrap(), "a.jpg");
        for name in ["/etc/passwd", "../a.jpg", "x/../../a.jpg", "", ".", "x/.."] {
            assert_eq!(joined("train", name), None, "{name}");
        }
    }
}
