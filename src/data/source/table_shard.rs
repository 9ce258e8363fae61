//! A Parquet or Arrow file among a dataset's shards: what is known of it, and the file itself once a row of it is read.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::arrow::ArrowShard;
use super::features::{Columns, Features};
use super::index::Stamp;
use super::parquet::{Pages, ParquetShard};
use super::shard::{Cell, Labels, Table};
use super::stored_labels::StoredLabels;
use crate::error::{Error, Result};

/// Rows that are stored together: a row group, a record batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stretch {
    pub rows: u32,
    /// Of its encoded images.
    pub bytes: u64,
}

pub(super) struct TableShard {
    pub table: Table,
    pub stretches: Arc<[Stretch]>,
    /// None: the file's state could not be told.
    pub stamp: Option<Stamp>,
    /// All of them, once they were read.
    labels: OnceLock<StoredLabels>,
    wanted: Arc<Wanted>,
    file: OnceLock<TableFile>,
}

/// What a user, and the dataset around a file, say about its columns.
pub(super) struct Wanted {
    pub columns: Columns,
    pub features: Option<Features>,
}

enum TableFile {
    Parquet(ParquetShard),
    Arrow(ArrowShard),
}

impl TableFile {
    fn open(path: PathBuf, name: &str, wanted: &Wanted) -> Result<TableFile> {
        let (columns, features) = (&wanted.columns, wanted.features.as_ref());
        match name.ends_with(".arrow") {
            true => ArrowShard::open(path, name, columns, features).map(TableFile::Arrow),
            false => ParquetShard::open(path, name, columns, features).map(TableFile::Parquet),
        }
    }

    fn table(&self) -> &Table {
        match self {
            TableFile::Parquet(file) => &file.table,
            TableFile::Arrow(file) => &file.table,
        }
    }

    fn stretches(&self) -> Vec<Stretch> {
        match self {
            TableFile::Parquet(file) => file.stretches(),
            TableFile::Arrow(file) => file.stretches(),
        }
    }
}

impl TableShard {
    /// Reads the file's metadata, none of its rows.
    pub fn open(path: PathBuf, name: &str, wanted: Arc<Wanted>) -> Result<TableShard> {
        let stamp = Stamp::of(&path);
        let file = TableFile::open(path, name, &wanted)?;
        Ok(TableShard {
            table: file.table().clone(),
            stretches: file.stretches().into(),
            stamp,
            labels: OnceLock::new(),
            wanted,
            file: OnceLock::from(file),
        })
    }

    /// Of which everything was found out before; opens nothing.
    pub fn known(
        table: Table,
        stretches: Arc<[Stretch]>,
        stamp: Stamp,
        labels: StoredLabels,
        wanted: Arc<Wanted>,
    ) -> TableShard {
        TableShard {
            table,
            stretches,
            stamp: Some(stamp),
            labels: OnceLock::from(labels),
            wanted,
            file: OnceLock::new(),
        }
    }

    /// The labels of some rows; reads nothing but them, if it reads at all.
    pub fn labels(&self, rows: Range<usize>) -> Result<Labels> {
        if let Some(labels) = self.labels.get() {
            return Ok(labels.slice(rows));
        }
        let labels = match self.file()? {
            TableFile::Parquet(file) => file.labels(rows.clone())?,
            TableFile::Arrow(file) => file.labels(rows.clone())?,
        };
        if rows == (0..self.table.rows) {
            // Another thread may have read them meanwhile: they are the same.
            let _ = self.labels.set(StoredLabels::new(&labels));
        }
        Ok(labels)
    }

    /// Its stretches, those of more than `most` bytes cut between their pages. Only for these the file is opened.
    pub fn cut(&self, most: u64) -> Result<Vec<Stretch>> {
        if !self.is_parquet() || self.stretches.iter().all(|stretch| stretch.bytes <= most) {
            return Ok(self.stretches.to_vec());
        }
        let mut cut = Vec::new();
        for (number, stretch) in self.stretches.iter().enumerate() {
            match self.file()? {
                TableFile::Parquet(file) if stretch.bytes > most => {
                    cut.extend(file.cut(number, stretch.bytes, most)?)
                }
                _ => cut.push(*stretch),
            }
        }
        Ok(cut)
    }

    /// All labels, if they were read.
    pub fn known_labels(&self) -> Option<&StoredLabels> {
        self.labels.get()
    }

    /// The image of a row. `index` is this shard's key in `pages`.
    pub fn image(&self, row: usize, index: u32, pages: &Pages) -> Result<Cell> {
        match self.file()? {
            TableFile::Parquet(file) => file.image(row, index, pages),
            TableFile::Arrow(file) => file.image(row),
        }
    }

    fn file(&self) -> Result<&TableFile> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = TableFile::open(self.table.path.clone(), &self.table.name, &self.wanted)?;
        if *file.table() != self.table || file.stretches() != *self.stretches {
            return Err(Error::dataset(
                &self.table.path,
                "the file has changed since it was indexed",
                "let the dataset as it is while it is used, and start again",
            ));
        }
        // Another thread may have opened it meanwhile: it is the same.
        Ok(self.file.get_or_init(|| file))
    }

    pub fn is_parquet(&self) -> bool {
        !self.table.name.ends_with(".arrow")
    }
}
