//! A run of rows out of one place: a Parquet file, an Arrow file, or the images of a folder.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::folder::FolderShard;
use super::parquet::Pages;
use super::table_shard::TableShard;
use crate::error::{Error, Result};

pub(super) enum Shard {
    Table(Box<TableShard>),
    Folder(Arc<FolderShard>),
}

/// A label column as it is stored; `None` is null.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Labels {
    Numbers(Vec<Option<i64>>),
    Names(Vec<Option<String>>),
}

/// An image cell as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Bytes(Bytes),
    /// File name, relative to the dataset or absolute.
    Path(String),
    Null,
}

/// What a file says about itself and its columns.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Table {
    /// Where it lies.
    pub path: PathBuf,
    /// Its path relative to the dataset.
    pub name: String,
    pub rows: usize,
    pub image_column: String,
    pub label_column: String,
    /// Columns that are not read.
    pub other_columns: Vec<String>,
    /// Declared class names.
    pub classes: Option<Arc<[String]>>,
}

impl Shard {
    pub fn rows(&self) -> usize {
        match self {
            Shard::Table(shard) => shard.table.rows,
            Shard::Folder(shard) => shard.files.len(),
        }
    }

    pub fn table(&self) -> Option<&Table> {
        match self {
            Shard::Table(shard) => Some(&shard.table),
            Shard::Folder(_) => None,
        }
    }

    /// Where a row is, for a reader: "data/train-00000-of-00002.parquet row 17", counted from 0, or a file's path.
    pub fn origin(&self, row: usize) -> String {
        match self {
            Shard::Folder(shard) => shard.files[row].clone(),
            Shard::Table(shard) => format!("{} row {row}", shard.table.name),
        }
    }

    /// The labels of some rows; reads nothing but them.
    pub fn labels(&self, rows: Range<usize>) -> Result<Labels> {
        match self {
            Shard::Table(shard) => shard.labels(rows),
            Shard::Folder(shard) => Ok(shard.labels(rows)),
        }
    }

    /// The encoded image of a row. [`Error::Image`] concerns this row alone, other errors the shard.
    ///
    /// `index` is this shard's key in `pages`.
    pub fn encoded(&self, row: usize, root: &Path, index: u32, pages: &Pages) -> Result<Bytes> {
        let bad = |what: String| Error::Image {
            at: self.origin(row),
            what,
        };
        let cell = match self {
            Shard::Table(shard) => shard.image(row, index, pages)?,
            Shard::Folder(shard) => {
                let bytes = std::fs::read(root.join(&shard.files[row])).map(Bytes::from);
                return bytes.map_err(|error| bad(format!("cannot be read: {error}")));
            }
        };
        match cell {
            Cell::Bytes(bytes) => Ok(bytes),
            Cell::Null => Err(bad("there is neither an image nor the path of one".to_owned())),
            Cell::Path(file) => {
                let beside = self.table().and_then(|table| table.path.parent()).unwrap_or(root);
                let tried = [root.join(&file), beside.join(&file)];
                let found = tried.iter().find(|path| path.is_file());
                let found =
                    found.ok_or_else(|| bad(format!("its bytes are not stored, and there is no file {file}")))?;
                std::fs::read(found)
                    .map(Bytes::from)
                    .map_err(|error| bad(format!("cannot read {file}: {error}")))
            }
        }
    }
}

impl Labels {
    pub fn slice(&self, rows: Range<usize>) -> Labels {
        match self {
            Labels::Numbers(values) => Labels::Numbers(values[rows].to_vec()),
            Labels::Names(values) => Labels::Names(values[rows].to_vec()),
        }
    }

    /// The rows of `self` followed by those of `more`; `None` if the two are of different kinds.
    pub fn append(&mut self, more: Labels) -> Option<()> {
        match (self, more) {
            (Labels::Numbers(values), Labels::Numbers(more)) => values.extend(more),
            (Labels::Names(values), Labels::Names(more)) => values.extend(more),
            _ => return None,
        }
        Some(())
    }
}
