//! What a dataset is made of, in numbers and words.

use std::path::PathBuf;

use super::Dataset;
use super::shard::Shard;

/// What a dataset is made of, for a person to read before a run.
#[derive(Clone, Debug)]
pub struct Description {
    pub path: PathBuf,
    /// Every split of the dataset, whether it is opened or not.
    pub splits: Vec<SplitDescription>,
    /// `None` for image folders.
    pub image_column: Option<String>,
    pub label_column: Option<String>,
    /// Columns that are not read.
    pub ignored_columns: Vec<String>,
    /// Every class, with the number of rows of this dataset that belong to it.
    pub classes: Vec<(String, usize)>,
    /// Files that were left out, and why.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitDescription {
    pub name: String,
    pub files: usize,
    /// `None` if a shard of it cannot be opened.
    pub rows: Option<usize>,
}

impl Dataset {
    /// What the dataset is made of. Opens the footers of the splits that are not open yet.
    pub fn describe(&self) -> Description {
        let opened = &*self.opened;
        let mut counts = vec![0; opened.classes.len()];
        for &label in self.labels.iter() {
            counts[label as usize] += 1;
        }
        let table = opened.shards.iter().find_map(Shard::table);
        let mut notes = opened.layout.notes.clone();
        notes.extend(opened.folder.iter().flat_map(|folder| folder.notes.clone()));
        let splits = opened.layout.splits.iter().map(|split| {
            let shards = opened.shards_of(&split.name);
            if let Err(error) = &shards {
                notes.push(format!("split {} cannot be opened: {error}", split.name));
            }
            SplitDescription {
                name: split.name.clone(),
                files: split.files.len(),
                rows: shards.ok().map(|shards| shards.iter().map(Shard::rows).sum()),
            }
        });
        Description {
            path: opened.layout.path.clone(),
            splits: splits.collect(),
            image_column: table.map(|table| table.image_column.clone()),
            label_column: table.map(|table| table.label_column.clone()),
            ignored_columns: opened.other_columns(),
            classes: opened.classes.iter().cloned().zip(counts).collect(),
            notes,
        }
    }
}
