//! The shards that a dataset's rows lie in, and the numbering of all their rows.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::features::Columns;
use super::folder::Folder;
use super::index::Index;
use super::layout::{Kind, Layout};
use super::memory;
use super::parquet::Pages;
use super::shard::{Labels, Shard};
use super::table_shard::{TableShard, Wanted};
use super::threads;
use crate::error::{Error, Result};

/// What clones and selections of a dataset share.
pub(super) struct Opened {
    pub layout: Layout,
    wanted: Arc<Wanted>,
    pub index: Index,
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
        let index = match layout.kind {
            Kind::Images => Index::none(),
            Kind::Tables => Index::of(&layout.root, columns, layout.features.as_ref()),
        };
        Opened::with_index(layout, columns, index)
    }

    pub fn with_index(layout: Layout, columns: &Columns, index: Index) -> Result<Opened> {
        let folder = match layout.kind {
            Kind::Images => Some(Folder::open(&layout, columns)?),
            Kind::Tables => None,
        };
        Ok(Opened {
            folder,
            index,
            ..Opened::empty(layout, columns)
        })
    }

    /// The same for an image folder that was read.
    pub fn of_folder(layout: Layout, folder: Folder, columns: &Columns) -> Opened {
        Opened {
            folder: Some(folder),
            ..Opened::empty(layout, columns)
        }
    }

    fn empty(layout: Layout, columns: &Columns) -> Opened {
        Opened {
            wanted: Arc::new(Wanted {
                columns: columns.clone(),
                features: layout.features.clone(),
            }),
            layout,
            index: Index::none(),
            folder: None,
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
        match needed.filter(|_| self.folder.is_none()) {
            None => self.shards_of(&name)?.into_iter().for_each(|shard| open(self, shard)),
            Some(needed) => {
                for file in &split.files {
                    if self.rows() - first >= needed {
                        break;
                    }
                    let shard = self.open_shard(file)?;
                    open(self, shard);
                }
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
        threads::each(files.len(), |number| self.open_shard(&files[number]))
    }

    pub fn open_shard(&self, file: &str) -> Result<Shard> {
        let path = self.layout.root.join(file);
        let shard = match self.index.shard(&path, file, &self.wanted) {
            Some(known) => known,
            None => TableShard::open(path, file, self.wanted.clone())?,
        };
        Ok(Shard::Table(Box::new(shard)))
    }

    /// Labels of a shard's rows; what is learned in passing goes into the index.
    pub fn labels_of(&self, shard: &Shard, rows: Range<usize>) -> Result<Labels> {
        let labels = shard.labels(rows)?;
        if let Shard::Table(shard) = shard {
            self.index.learn(shard);
        }
        Ok(labels)
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
