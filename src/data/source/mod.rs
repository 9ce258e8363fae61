//! A dataset: rows of one or more shards, with labels in memory and encoded images on demand.
//!
//! Opening reads the footers of the shards of the wanted split and the labels of the wanted rows, nothing else. Decoding,
//! order and batches are the loader's.

mod arrow;
mod arrow_columns;
mod arrow_messages;
mod cache;
mod card;
mod classes;
mod description;
mod features;
mod folder;
mod image_folders;
mod index;
mod keywords;
mod layout;
mod memory;
pub use memory::usable_memory;
mod metadata;
mod opened;
mod parquet;
mod parquet_columns;
mod parquet_file;
mod parquet_pages;
mod patterns;
mod place;
mod saved;
mod shard;
mod shard_names;
mod stored_labels;
mod stretches;
mod table_shard;
mod threads;
mod walk;

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use layout::Layout;
use opened::Opened;

use super::loader::Samples;
use super::numpy_rng;
use super::split::{Slice, TestSize};
use crate::error::{Error, Result};

pub use description::{Description, SplitDescription};
pub use features::Columns;
pub use layout::is_image;
pub use place::Source;

/// Rows of a dataset, each with an encoded image and a class. Cheap to clone; clones share what was read.
#[derive(Clone)]
pub struct Dataset {
    opened: Arc<Opened>,
    /// Which rows of the opened shards, in this dataset's order.
    rows: Arc<[u32]>,
    /// Class of each of them.
    labels: Arc<[u32]>,
    classes: Arc<[String]>,
}

impl Dataset {
    /// Opens rows of a local dataset: a directory in the Hub's layout, one of `save_to_disk`, a folder of images, or one
    /// `.parquet` or `.arrow` file (whose split is `train`).
    ///
    /// `split` is `train`, `train[:5000]`, `train[10%:20%]+validation[-100:]`; see [`Slice`]. Every label of the wanted rows
    /// is checked here.
    pub fn open(path: &Path, split: &str, columns: &Columns) -> Result<Dataset> {
        Dataset::open_source(&Source::local(path), split, columns)
    }

    /// The same for one of several configurations of a dataset.
    pub fn open_configuration(
        path: &Path,
        configuration: Option<&str>,
        split: &str,
        columns: &Columns,
    ) -> Result<Dataset> {
        let source = Source {
            configuration: configuration.map(str::to_owned),
            ..Source::local(path)
        };
        Dataset::open_source(&source, split, columns)
    }

    /// The same for a dataset of which some files are here. Shards behind the last wanted row may be missing.
    pub fn open_source(source: &Source, split: &str, columns: &Columns) -> Result<Dataset> {
        let path = source.path.as_path();
        let slices = Slice::parse_sum(split)?;
        let mut opened = Opened::new(Layout::discover(source)?, columns)?;
        let mut wanted = Vec::new();
        for slice in &slices {
            let rows = opened.open_split(&slice.split, rows_needed(&slices, &slice.split))?;
            let range = slice.range(rows.len())?;
            wanted.push(rows.start + range.start..rows.start + range.end);
        }
        if wanted.iter().all(Range::is_empty) {
            let splits = opened.splits.iter();
            let each: Vec<String> = splits
                .map(|(name, rows)| format!("{name} has {}", rows.len()))
                .collect();
            return Err(Error::dataset(
                path,
                format!("`{split}` has no rows: {}", each.join(", ")),
                "choose a slice that contains rows",
            ));
        }
        opened.classes = opened.class_names()?;
        let labels = opened.labels(&wanted)?;
        opened.index.keep();
        Ok(Dataset {
            classes: opened.classes.clone().into(),
            opened: Arc::new(opened),
            rows: wanted.into_iter().flatten().map(|row| row as u32).collect(),
            labels: labels.into(),
        })
    }

    /// Number of rows, at least 1 after opening.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Names of all classes, by number: also of those that no row here belongs to.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Class of a row, below `classes().len()`.
    pub fn label(&self, row: usize) -> u32 {
        self.labels[row]
    }

    /// How many rows each class has.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        self.labels.iter().for_each(|label| counts[*label as usize] += 1);
        counts
    }

    /// The encoded image of a row (JPEG, PNG, …), without a copy where the shard is Parquet. Callable from many threads.
    ///
    /// [`Error::Image`] concerns this row alone; any other error the whole shard.
    pub fn encoded(&self, row: usize) -> Result<Bytes> {
        let (shard, row_in_shard) = self.opened.place(self.rows[row] as usize);
        let opened = &*self.opened;
        opened.shards[shard].encoded(row_in_shard, &opened.layout.root, shard as u32, &opened.pages)
    }

    /// Where a row comes from: "data/train-00000-of-00003.parquet row 17", counted from 0, or the path of its file.
    pub fn origin(&self, row: usize) -> String {
        let (shard, row_in_shard) = self.opened.place(self.rows[row] as usize);
        self.opened.shards[shard].origin(row_in_shard)
    }

    /// Some of the rows, in the order given; all must be below `len()`.
    pub fn select(&self, rows: &[u32]) -> Dataset {
        Dataset {
            opened: self.opened.clone(),
            classes: self.classes.clone(),
            rows: rows.iter().map(|&row| self.rows[row as usize]).collect(),
            labels: rows.iter().map(|&row| self.labels[row as usize]).collect(),
        }
    }

    /// Random rows, no more than `most`: those of `datasets.Dataset.shuffle(seed=seed).select(range(most))`.
    pub fn sample(&self, most: usize, seed: u64) -> Dataset {
        let order = numpy_rng::permutation(self.len(), seed);
        self.select(&order[..most.min(self.len())])
    }

    /// Does the dataset have a split of exactly this name?
    pub fn has_split(&self, name: &str) -> bool {
        self.opened.layout.splits.iter().any(|split| split.name == name)
    }

    /// The same rows under the class numbers of a model: classes are matched by their names, or by their numbers where one side
    /// has no names. Errors: a class with rows that the model does not know.
    pub fn with_classes(&self, classes: &[String]) -> Result<Dataset> {
        let path = &self.opened.layout.path;
        let by_name = |name: &String| classes.iter().position(|class| class == name);
        let places: Vec<Option<usize>> = match self.classes.iter().any(|name| by_name(name).is_some()) {
            true => self.classes.iter().map(by_name).collect(),
            false if has_no_names(classes) || has_no_names(&self.classes) => (0..self.classes.len())
                .map(|class| (class < classes.len()).then_some(class))
                .collect(),
            false => vec![None; self.classes.len()],
        };
        let labels: Result<Vec<u32>> = self
            .labels
            .iter()
            .map(|&label| match places[label as usize] {
                Some(class) => Ok(class as u32),
                None => Err(Error::dataset(
                    path,
                    format!(
                        "the model does not know the class `{}`; it has {} classes: {}",
                        self.classes[label as usize],
                        classes.len(),
                        classes
                            .iter()
                            .take(8)
                            .map(String::as_str)
                            .collect::<Vec<_>>()
                            .join(", ")
                    ),
                    "choose a model that was trained on these classes, or another --label-column-name",
                )),
            })
            .collect();
        Ok(Dataset {
            labels: labels?.into(),
            classes: classes.into(),
            ..self.clone()
        })
    }

    /// (train, test): the same rows in the same order as `datasets.Dataset.train_test_split(test_size, seed=seed)` gives.
    pub fn train_test_split(&self, test: TestSize, seed: u64) -> Result<(Dataset, Dataset)> {
        let test_rows = test.rows_of(self.len())?;
        let order = numpy_rng::permutation(self.len(), seed);
        let (test, train) = order.split_at(test_rows);
        Ok((self.select(train), self.select(test)))
    }
}

/// How many rows of a split must be known: up to the last one that a slice takes; None: all.
fn rows_needed(slices: &[Slice], split: &str) -> Option<usize> {
    let meant = keywords::canonical(split);
    let same = slices.iter().filter(|slice| keywords::canonical(&slice.split) == meant);
    same.map(Slice::rows_needed)
        .collect::<Option<Vec<usize>>>()?
        .into_iter()
        .max()
}

/// Whether classes are only numbered: `0`, `1`, … or transformers' `LABEL_0`, `LABEL_1`, ….
fn has_no_names(classes: &[String]) -> bool {
    let is_number =
        |(number, name): (usize, &String)| name.strip_prefix("LABEL_").unwrap_or(name) == number.to_string();
    classes.iter().enumerate().all(is_number)
}

impl Samples for Dataset {
    fn encoded(&self, row: usize) -> Result<Bytes> {
        Dataset::encoded(self, row)
    }

    fn label(&self, row: usize) -> u32 {
        Dataset::label(self, row)
    }

    fn origin(&self, row: usize) -> String {
        Dataset::origin(self, row)
    }
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dataset({}, {} rows)", self.opened.layout.path.display(), self.len())
    }
}
