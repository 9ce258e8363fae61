//! The shards that a dataset's rows lie in, and the numbering of all their rows.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::features::Columns;
use super::folder::Folder;
use super::layout::{Kind, Layout};
use super::memory;
use super::parquet::Pages;
use super::shard::Shard;
use crate::error::{Error, Result};

/// What clones and selections of a dataset share.
pub(super) struct Opened {
    pub layout: Layout,
    pub columns: Columns,
    /// All splits, where the dataset is an image folder.
    pub folder: Option<Folder>,
    /// Shards of the splits that are open.
    pub shards: Vec<Shard>,
    /// First row of each shard in the numbering of all of them, and the number of rows at the end.
    pub starts: Vec<usize>,
    /// Rows of each split that is open.
    pub splits: BTreeMap<String, Range<usize>>,
    pub classes: Vec<String>,
    pub pages: Pages,
}

impl Opened {
    /// No split is open yet.
    pub fn new(layout: Layout, columns: &Columns) -> Result<Opened> {
        Ok(Opened {
            columns: columns.clone(),
            folder: match layout.kind {
                Kind::Images => Some(Folder::open(&layout, columns)?),
                Kind::Tables => None,
            },
            layout,
            shards: Vec::new(),
            starts: vec![0],
            splits: BTreeMap::new(),
            classes: Vec::new(),
            pages: Pages::new(memory::cache_bytes()),
        })
    }

    /// The same for an image folder that was read.
    pub fn of_folder(layout: Layout, folder: Folder, columns: &Columns) -> Opened {
        Opened {
            layout,
            columns: columns.clone(),
            folder: Some(folder),
            shards: Vec::new(),
            starts: vec![0],
            splits: BTreeMap::new(),
            classes: Vec::new(),
            pages: Pages::new(memory::cache_bytes()),
        }
    }

    /// Opens a split, unless it is open; its rows. `name` may be an alias. With `needed` rows from its beginning, the shards
    /// behind them stay closed.
    pub fn open_split(&mut self, name: &str, needed: Option<usize>) -> Result<Range<usize>> {
        let split = self.layout.split(name)?.clone();
        let name = split.name.clone();
        if let Some(rows) = self.splits.get(&name) {
            return Ok(rows.clone());
        }
        let first = self.rows();
        let open = |opened: &mut Opened, shard: Shard| {
            opened.starts.push(opened.rows() + shard.rows());
            opened.shards.push(shard);
        };
        if self.folder.is_some() {
            self.shards_of(&name)?.into_iter().for_each(|shard| open(self, shard));
        } else {
            for file in &split.files {
                if needed.is_some_and(|needed| self.rows() - first >= needed) {
                    break;
                }
                let shard = self.open_shard(file)?;
                open(self, shard);
            }
        }
        let rows = first..self.rows();
        if u32::try_from(rows.end).is_err() {
            return Err(Error::dataset(
                &self.layout.path,
                format!("{} rows are more than dtrain can number", rows.end),
                "open a dataset of fewer rows",
            ));
        }
        self.splits.insert(name, rows.clone());
        Ok(rows)
    }

    /// The shards of a split, opened anew.
    pub fn shards_of(&self, split: &str) -> Result<Vec<Shard>> {
        if let Some(folder) = &self.folder {
            let found = folder.splits.iter().find(|(name, _)| name == split);
            return Ok(found
                .map(|(_, shard)| Shard::Folder(Arc::clone(shard)))
                .into_iter()
                .collect());
        }
        let files = &self.layout.split(split)?.files;
        files.iter().map(|file| self.open_shard(file)).collect()
    }

    pub fn open_shard(&self, file: &str) -> Result<Shard> {
        Shard::open(&self.layout.root, file, &self.columns, self.layout.features.as_ref())
    }

    /// Shard of a row, and its place in it.
    pub fn place(&self, row: usize) -> (usize, usize) {
        let shard = self.starts.partition_point(|&start| start <= row) - 1;
        (shard, row - self.starts[shard])
    }

    /// Columns that are not read.
    pub fn other_columns(&self) -> Vec<String> {
        let tables = self.shards.iter().filter_map(Shard::table);
        let others = tables.flat_map(|table| &table.other_columns);
        let described = self.folder.iter().flat_map(|folder| &folder.other_columns);
        let names: BTreeSet<&String> = others.chain(described).collect();
        names.into_iter().cloned().collect()
    }

    fn rows(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }
}
