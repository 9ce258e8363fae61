//! A small dataset drawn by ourselves, in the exact layout of a dataset on the Hub: for the demonstration and for tests.
//!
//! Parquet shards `data/{split}-NNNNN-of-NNNNN.parquet` with JPEG images and ClassLabel metadata, and a README with front
//! matter. Equal specifications give equal files.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Fields, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use rayon::prelude::*;

use super::drawing::{self, Motif};
use crate::error::{Error, IoContext, Result};

/// What is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DemoDataset {
    pub subject: DemoSubject,
    pub train_rows: usize,
    pub validation_rows: usize,
    pub seed: u64,
}

/// Two sets of eight classes each that have none in common: one to train a base model on, one to fine-tune it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DemoSubject {
    /// checkers, crosses, discs, rings, squares, stripes, triangles, waves
    FineTuning,
    /// bars, crescents, ellipses, grids, half_discs, stars, targets, zigzags
    BaseModel,
}

impl DemoDataset {
    /// 2,304 images, 2,048 of them to train on.
    pub fn new(subject: DemoSubject) -> Self {
        DemoDataset {
            subject,
            train_rows: 2048,
            validation_rows: 256,
            seed: 42,
        }
    }
}

impl DemoSubject {
    fn motifs(self) -> [Motif; 8] {
        use Motif::*;
        match self {
            DemoSubject::FineTuning => [Checkers, Crosses, Discs, Rings, Squares, Stripes, Triangles, Waves],
            DemoSubject::BaseModel => [Bars, Crescents, Ellipses, Grids, HalfDiscs, Stars, Targets, Zigzags],
        }
    }

    /// Names of the classes, by number.
    pub fn classes(self) -> [&'static str; 8] {
        self.motifs().map(Motif::name)
    }
}

/// A file of the dataset: its rows are numbered through all splits, so that no image occurs twice.
struct ShardPlan {
    split: &'static str,
    number: usize,
    total: usize,
    rows: std::ops::Range<usize>,
}

/// Writes the dataset into `dir`, which is made if need be. Files of the same names are replaced.
///
/// Rows go through the classes in turn, so that every slice of a split has them all alike.
pub fn write_demo_dataset(dir: &Path, demo: &DemoDataset) -> Result<()> {
    let data = dir.join("data");
    std::fs::create_dir_all(&data).at("create", &data)?;
    let (train, all) = (demo.train_rows, demo.train_rows + demo.validation_rows);
    let plan = |split, number, total, rows| ShardPlan {
        split,
        number,
        total,
        rows,
    };
    let shards = [
        plan("train", 0, 2, 0..train.div_ceil(2)),
        plan("train", 1, 2, train.div_ceil(2)..train),
        plan("validation", 0, 1, train..all),
    ];
    let mut bytes = [0; 3];
    for (shard, bytes) in shards.iter().zip(&mut bytes) {
        let name = format!("{}-{:05}-of-{:05}.parquet", shard.split, shard.number, shard.total);
        *bytes = write_shard(&data.join(name), demo, shard)?;
    }
    let card = card(demo, bytes[0] + bytes[1], bytes[2]);
    let path = dir.join("README.md");
    std::fs::write(&path, card).at("write", &path)
}

/// Draws and writes the rows of a shard; returns the size of their images in bytes.
fn write_shard(path: &Path, demo: &DemoDataset, shard: &ShardPlan) -> Result<usize> {
    let motifs = demo.subject.motifs();
    let class = |row: usize| row % motifs.len();
    let draw = |row: usize| drawing::draw(motifs[class(row)], demo.seed, row as u64);
    let images: Vec<Vec<u8>> = shard.rows.clone().into_par_iter().map(draw).collect();
    let names = shard
        .rows
        .clone()
        .map(|row| format!("{}_{row:05}.jpg", motifs[class(row)].name()));

    let image_parts = Fields::from(vec![
        Field::new("bytes", DataType::Binary, true),
        Field::new("path", DataType::Utf8, true),
    ]);
    let columns: [ArrayRef; 2] = [
        Arc::new(BinaryArray::from_iter_values(&images)),
        Arc::new(StringArray::from_iter_values(names)),
    ];
    let image = StructArray::new(image_parts.clone(), columns.to_vec(), None);
    let label = Int64Array::from_iter_values(shard.rows.clone().map(|row| class(row) as i64));
    let features = serde_json::json!({"info": {"features": {
        "image": {"_type": "Image"},
        "label": {"names": demo.subject.classes(), "_type": "ClassLabel"},
    }}});
    let schema = Schema::new(vec![
        Field::new("image", DataType::Struct(image_parts), true),
        Field::new("label", DataType::Int64, true),
    ]);
    let metadata = [("huggingface".to_owned(), features.to_string())];
    let schema = Arc::new(schema.with_metadata(metadata.clone()));
    // pyarrow repeats the schema's metadata as those of the file; datasets' row groups of images have 100 rows.
    let [(key, value)] = metadata;
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(100))
        .set_key_value_metadata(Some(vec![KeyValue::new(key, value)]))
        .build();

    let file = File::create(path).at("create", path)?;
    let write = || -> std::result::Result<(), ParquetError> {
        let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(image), Arc::new(label)])?;
        let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties))?;
        writer.write(&batch)?;
        writer.close().map(|_| ())
    };
    write().map_err(|error| {
        Error::dataset(
            path,
            format!("it could not be written: {error}"),
            "choose a directory with more space",
        )
    })?;
    Ok(images.iter().map(Vec::len).sum())
}

/// README.md, as `push_to_hub` writes it.
fn card(demo: &DemoDataset, train_bytes: usize, validation_bytes: usize) -> String {
    let names: String = (0..)
        .zip(demo.subject.classes())
        .map(|(i, name)| format!("          '{i}': {name}\n"))
        .collect();
    let all_bytes = train_bytes + validation_bytes;
    format!(
        "---\n\
         license: apache-2.0\n\
         task_categories:\n- image-classification\n\
         dataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n      class_label:\n        \
         names:\n{names}  \
         splits:\n  - name: train\n    num_bytes: {train_bytes}\n    num_examples: {}\n  - name: validation\n    \
         num_bytes: {validation_bytes}\n    num_examples: {}\n  download_size: {all_bytes}\n  dataset_size: {all_bytes}\n\
         configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n  - split: validation\n    \
         path: data/validation-*\n\
         ---\n\n\
         # Drawn shapes\n\n\
         {} images of eight kinds of shapes and patterns, drawn by `dtrain demo` with seed {}.\n",
        demo.train_rows,
        demo.validation_rows,
        demo.train_rows + demo.validation_rows,
        demo.seed,
    )
}
