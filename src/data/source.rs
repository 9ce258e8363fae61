//! A dataset: rows of one or more shards, with labels in memory and encoded images on demand.
//!
//! Opening reads the footers of the shards of the wanted split and the labels of the wanted rows, nothing else. Decoding,
//! order and batches are the loader's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::features::Columns;
use super::folder::Folder;
use super::layout::{Kind, Layout};
use super::loader::Samples;
use super::numpy_rng;
use super::parquet::Pages;
use super::shard::{Labels, Shard};
use super::split::{Slice, TestSize};
use crate::error::{Error, Result};

/// Rows of a dataset, each with an encoded image and a class. Cheap to clone; clones share what was read.
#[derive(Clone)]
pub struct Dataset {
    opened: Arc<Opened>,
    /// Which rows of the opened shards, in this dataset's order.
    rows: Arc<[u32]>,
    /// Class of each of them.
    labels: Arc<[u32]>,
}

/// The shards of the splits that a dataset takes rows from.
struct Opened {
    layout: Layout,
    columns: Columns,
    shards: Vec<Shard>,
    /// First row of each shard in the numbering of all of them, and the number of rows at the end.
    starts: Vec<usize>,
    classes: Vec<String>,
    notes: Vec<String>,
    other_columns: Vec<String>,
    pages: Pages,
}

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

/// Encoded images that a dataset keeps in memory at most.
const CACHE_BYTES: usize = 2 << 30;

impl Dataset {
    /// Opens rows of a local dataset: a directory in the Hub's layout, one of `save_to_disk`, a folder of images, or one
    /// `.parquet` or `.arrow` file (whose split is `train`).
    ///
    /// `split` is `train`, `train[:5000]`, `train[10%:20%]+validation[-100:]`; see [`Slice`]. Every label of the wanted rows
    /// is checked here.
    pub fn open(path: &Path, split: &str, columns: &Columns) -> Result<Dataset> {
        Dataset::open_configuration(path, None, split, columns)
    }

    /// The same for one of several configurations of a dataset.
    pub fn open_configuration(
        path: &Path,
        configuration: Option<&str>,
        split: &str,
        columns: &Columns,
    ) -> Result<Dataset> {
        let slices = Slice::parse_sum(split)?;
        let layout = Layout::discover(path, configuration)?;
        let mut folder = match layout.kind {
            Kind::Images => Some(Folder::open(&layout, columns)?),
            Kind::Tables => None,
        };
        let mut opened = Opened {
            columns: columns.clone(),
            shards: Vec::new(),
            starts: vec![0],
            classes: Vec::new(),
            notes: layout.notes.clone(),
            other_columns: Vec::new(),
            pages: Pages::new(CACHE_BYTES),
            layout,
        };
        if let Some(folder) = &mut folder {
            opened.notes.append(&mut folder.notes);
            opened.other_columns.append(&mut folder.other_columns);
        }

        // The classes that an image folder has are those of all its splits, whatever is opened.
        let mut names = None;
        if let Some(folder) = &folder {
            names = Some(class_names(
                &opened.layout.path,
                folder.splits.iter().map(|(_, shard)| &shard.labels),
            )?);
        }
        let mut split_rows: BTreeMap<String, Range<usize>> = BTreeMap::new();
        let mut wanted = Vec::new();
        for slice in &slices {
            let name = opened.layout.split(&slice.split)?.name.clone();
            if !split_rows.contains_key(&name) {
                let first = opened.starts[opened.starts.len() - 1];
                for shard in opened.layout.shards(&name, columns, folder.as_mut())? {
                    opened
                        .starts
                        .push(opened.starts[opened.starts.len() - 1] + shard.rows());
                    opened.shards.push(shard);
                }
                split_rows.insert(name.clone(), first..opened.starts[opened.starts.len() - 1]);
            }
            let rows = &split_rows[&name];
            let range = slice.range(rows.len())?;
            wanted.push(rows.start + range.start..rows.start + range.end);
        }
        let all = opened.starts[opened.starts.len() - 1];
        if u32::try_from(all).is_err() {
            return Err(Error::dataset(
                path,
                format!("{all} rows are more than dtrain can number"),
                "open a part of it",
            ));
        }
        if wanted.iter().all(Range::is_empty) {
            return Err(Error::dataset(
                path,
                format!("`{split}` has no rows: {}", rows_in_words(&split_rows)),
                "choose a slice that contains rows",
            ));
        }

        opened.classes = match (names, opened.declared_classes()?) {
            (Some(names), _) | (None, Some(names)) => names,
            (None, None) => opened.classes_of_all_splits()?,
        };
        let labels = opened.labels(&wanted)?;
        let rows = wanted.into_iter().flatten().map(|row| row as u32).collect();
        let columns = opened
            .shards
            .iter()
            .filter_map(Shard::table)
            .flat_map(|table| &table.other_columns);
        let columns: BTreeSet<String> = columns.cloned().collect();
        opened.other_columns.extend(columns);
        Ok(Dataset {
            opened: Arc::new(opened),
            rows,
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
        &self.opened.classes
    }

    /// Class of a row, below `classes().len()`.
    pub fn label(&self, row: usize) -> u32 {
        self.labels[row]
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
            rows: rows.iter().map(|&row| self.rows[row as usize]).collect(),
            labels: rows.iter().map(|&row| self.labels[row as usize]).collect(),
        }
    }

    /// (train, test): the same rows in the same order as `datasets.Dataset.train_test_split(test_size, seed=seed)` gives.
    pub fn train_test_split(&self, test: TestSize, seed: u64) -> Result<(Dataset, Dataset)> {
        let test_rows = test.rows_of(self.len())?;
        let order = numpy_rng::permutation(self.len(), seed);
        let (test, train) = order.split_at(test_rows);
        Ok((self.select(train), self.select(test)))
    }

    /// What the dataset is made of. Opens the footers of the splits that are not open yet.
    pub fn describe(&self) -> Description {
        let opened = &*self.opened;
        let mut counts = vec![0; opened.classes.len()];
        for &label in self.labels.iter() {
            counts[label as usize] += 1;
        }
        let table = opened.shards.iter().find_map(Shard::table);
        let mut notes = opened.notes.clone();
        let splits = opened.layout.splits.iter().map(|split| {
            let rows = opened.layout.count_rows(&split.name, &opened.columns);
            if let Err(error) = &rows {
                notes.push(format!("split {} cannot be opened: {error}", split.name));
            }
            SplitDescription {
                name: split.name.clone(),
                files: split.files.len(),
                rows: rows.ok(),
            }
        });
        Description {
            path: opened.layout.path.clone(),
            splits: splits.collect(),
            image_column: table.map(|table| table.image_column.clone()),
            label_column: table.map(|table| table.label_column.clone()),
            ignored_columns: opened.other_columns.clone(),
            classes: opened.classes.iter().cloned().zip(counts).collect(),
            notes,
        }
    }
}

impl Layout {
    /// Opens the shards of a split.
    fn shards(&self, split: &str, columns: &Columns, folder: Option<&mut Folder>) -> Result<Vec<Shard>> {
        if let Some(folder) = folder {
            let place = folder
                .splits
                .iter()
                .position(|(name, _)| name == split)
                .expect("a folder has the layout's splits");
            return Ok(vec![Shard::Folder(folder.splits.swap_remove(place).1)]);
        }
        let files = &self.split(split)?.files;
        files
            .iter()
            .map(|file| Shard::open(&self.root, file, columns, self.features.as_ref()))
            .collect()
    }

    fn count_rows(&self, split: &str, columns: &Columns) -> Result<usize> {
        let mut folder = match self.kind {
            Kind::Images => Some(Folder::open(self, columns)?),
            Kind::Tables => None,
        };
        Ok(self
            .shards(split, columns, folder.as_mut())?
            .iter()
            .map(Shard::rows)
            .sum())
    }
}

impl Opened {
    /// Shard of a row, and its place in it.
    fn place(&self, row: usize) -> (usize, usize) {
        let shard = self.starts.partition_point(|&start| start <= row) - 1;
        (shard, row - self.starts[shard])
    }

    /// The class names that the shards declare, if they do; all must agree.
    fn declared_classes(&self) -> Result<Option<Vec<String>>> {
        let mut tables = self.shards.iter().filter_map(Shard::table);
        let Some(first) = tables.next() else {
            return Ok(None);
        };
        if let Some(other) = tables.find(|table| table.classes != first.classes) {
            return Err(Error::dataset(
                &self.layout.path,
                format!("{} and {} do not have the same classes", first.name, other.name),
                "use shards of one dataset only",
            ));
        }
        Ok(first.classes.clone())
    }

    /// Without declared names: the texts that occur, sorted, or the numbers up to the largest one. All splits count, so
    /// that training and validation agree.
    fn classes_of_all_splits(&self) -> Result<Vec<String>> {
        let mut labels = Vec::new();
        for split in &self.layout.splits {
            for shard in self.layout.shards(&split.name, &self.columns, None)? {
                labels.push(shard.labels(0..shard.rows())?);
            }
        }
        class_names(&self.layout.path, labels.iter())
    }

    /// Classes of some rows, checked.
    fn labels(&self, wanted: &[Range<usize>]) -> Result<Vec<u32>> {
        let places: BTreeMap<&str, u32> = self
            .classes
            .iter()
            .zip(0u32..)
            .map(|(name, place)| (name.as_str(), place))
            .collect();
        let mut classes = Vec::new();
        for range in wanted {
            for (number, shard) in self.shards.iter().enumerate() {
                let (start, end) = (self.starts[number], self.starts[number + 1]);
                let (from, to) = (range.start.max(start), range.end.min(end));
                if from >= to {
                    continue;
                }
                let wrong = |place: usize, what: String| {
                    Error::dataset(
                        &self.layout.path,
                        format!("{}: {what}", shard.origin(from - start + place)),
                        "correct the label, or choose other rows, another split or another --label-column-name",
                    )
                };
                let last = self.classes.len().saturating_sub(1);
                match shard.labels(from - start..to - start)? {
                    Labels::Numbers(numbers) => {
                        for (place, number) in numbers.into_iter().enumerate() {
                            classes.push(match number {
                                Some(number) if (0..=last as i64).contains(&number) => number as u32,
                                Some(-1) => {
                                    return Err(wrong(place, "the label is -1, which means unknown".to_owned()));
                                }
                                None => return Err(wrong(place, "the label is missing".to_owned())),
                                Some(number) => {
                                    return Err(wrong(
                                        place,
                                        format!("the label is {number}, but classes go from 0 to {last}"),
                                    ));
                                }
                            });
                        }
                    }
                    Labels::Names(names) => {
                        for (place, name) in names.into_iter().enumerate() {
                            let name = name.ok_or_else(|| wrong(place, "the label is missing".to_owned()))?;
                            let class = places.get(name.as_str());
                            classes.push(*class.ok_or_else(|| wrong(place, format!("there is no class `{name}`")))?);
                        }
                    }
                }
            }
        }
        Ok(classes)
    }
}

/// Sorted texts, or the numbers from 0 to the largest. Nulls and negative numbers make no class.
fn class_names<'a>(path: &Path, labels: impl Iterator<Item = &'a Labels>) -> Result<Vec<String>> {
    const MOST: i64 = 1_000_000;
    let mut largest = -1;
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for labels in labels {
        match labels {
            Labels::Numbers(numbers) => largest = largest.max(numbers.iter().flatten().copied().max().unwrap_or(-1)),
            Labels::Names(texts) => names.extend(texts.iter().flatten().map(String::as_str)),
        }
    }
    if largest >= MOST {
        return Err(Error::dataset(
            path,
            format!("the largest label is {largest}: these are no class numbers"),
            "choose another --label-column-name",
        ));
    }
    if largest >= 0 && !names.is_empty() {
        return Err(Error::dataset(
            path,
            "labels are names in one place and numbers in another",
            "use one of the two",
        ));
    }
    let numbers = (0..=largest).map(|number| number.to_string());
    let classes: Vec<String> = numbers.chain(names.into_iter().map(str::to_owned)).collect();
    if classes.is_empty() {
        return Err(Error::dataset(
            path,
            "no row has a label",
            "choose another dataset or another --label-column-name",
        ));
    }
    Ok(classes)
}

fn rows_in_words(splits: &BTreeMap<String, Range<usize>>) -> String {
    let each: Vec<String> = splits
        .iter()
        .map(|(name, rows)| format!("{name} has {}", rows.len()))
        .collect();
    each.join(", ")
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
