//! Two folders of images as one dataset: one to train on, one for validation, as `--train-dir` and `--validation-dir` name them.
//!
//! All images below a folder belong to its split, whatever its directories are called; classes are those of both.

use std::path::Path;
use std::sync::Arc;

use super::Dataset;
use super::features::Columns;
use super::folder::{Folder, FolderShard};
use super::layout::{Kind, Layout, SplitFiles};
use super::opened::Opened;
use crate::error::Result;

impl Dataset {
    /// The images below `train`, and those below `validation`. Errors: none at all, one class only, whatever an image folder
    /// is refused for.
    pub fn open_folders(
        train: &Path,
        validation: Option<&Path>,
        columns: &Columns,
    ) -> Result<(Dataset, Option<Dataset>)> {
        let mut joint = Layout {
            path: train.to_owned(),
            root: "".into(),
            kind: Kind::Images,
            splits: Vec::new(),
            features: None,
            listing: Default::default(),
            notes: Vec::new(),
        };
        let mut folder = Folder {
            splits: Vec::new(),
            other_columns: Vec::new(),
            notes: Vec::new(),
        };
        let directories = [("train", Some(train)), ("validation", validation)];
        for (name, directory) in directories.into_iter().filter_map(|(name, dir)| Some((name, dir?))) {
            let layout = Layout::images(directory)?;
            let of_directory = Folder::open_part(&layout, columns)?;
            joint.notes.extend(layout.notes);
            folder.notes.extend(of_directory.notes);
            folder.other_columns.extend(of_directory.other_columns);
            for (_, shard) in of_directory.splits {
                let full = |file: &String| directory.join(file).to_string_lossy().into_owned();
                let shard = FolderShard {
                    files: shard.files.iter().map(full).collect(),
                    labels: shard.labels(0..shard.files.len()),
                };
                joint.splits.push(SplitFiles {
                    name: name.to_owned(),
                    files: shard.files.clone(),
                });
                folder.splits.push((name.to_owned(), Arc::new(shard)));
            }
        }
        folder.check_classes(train)?;
        let mut opened = Opened::of_folder(joint, folder, columns);
        let mut rows = Vec::new();
        for name in opened
            .layout
            .splits
            .iter()
            .map(|split| split.name.clone())
            .collect::<Vec<_>>()
        {
            rows.push(opened.open_split(&name, None)?);
        }
        opened.classes = opened.class_names()?;
        let opened = Arc::new(opened);
        let mut datasets = Vec::new();
        for range in rows {
            datasets.push(Dataset {
                labels: opened.labels(std::slice::from_ref(&range))?.into(),
                rows: range.map(|row| row as u32).collect(),
                classes: opened.classes.clone().into(),
                opened: opened.clone(),
            });
        }
        let validation = if datasets.len() > 1 { datasets.pop() } else { None };
        Ok((datasets.pop().expect("a training folder"), validation))
    }
}
