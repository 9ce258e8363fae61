//! Arrow shards, as `save_to_disk` and datasets' cache write them: the stream format, and the file format around it.
//!
//! Only the messages' headers are read at opening. An image is read alone, by its offsets: the bodies are not compressed,
//! and may be far larger than memory. Source: the Arrow columnar format, "IPC streaming format".

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;

use arrow::datatypes::DataType;
use bytes::Bytes;

use super::arrow_columns::{Buffers, Place, locate};
use super::arrow_messages::{Batch, damaged, exact, messages};
use super::features::{Columns, Features, StoredColumn, StoredKind};
use super::shard::{Cell, Labels, Table};
use super::table_shard::Stretch;
use crate::error::{Error, IoContext, Result};

/// One Arrow file.
pub(super) struct ArrowShard {
    pub table: Table,
    batches: Vec<Batch>,
    /// First row of each batch, and the number of rows at the end.
    starts: Vec<usize>,
    /// Where the wanted columns' buffers are in every batch.
    label: Place,
    image: Place,
    image_bytes: Option<Place>,
    image_path: Option<Place>,
}

impl ArrowShard {
    pub fn open(path: PathBuf, name: &str, columns: &Columns, features: Option<&Features>) -> Result<Self> {
        let (schema, batches) = messages(&path)?;
        let own_features = schema
            .metadata()
            .get("huggingface")
            .and_then(|text| Features::from_json(text));
        let features = own_features.as_ref().or(features).cloned().unwrap_or_default();
        let places = locate(&schema)
            .map_err(|what| Error::dataset(&path, what, "save the dataset again without that column, or as Parquet"))?;
        let stored: Vec<StoredColumn> = schema
            .fields()
            .iter()
            .map(|field| StoredColumn {
                name: field.name().clone(),
                kind: kind_of(field.data_type()),
            })
            .collect();
        let chosen = features.choose(&stored, columns, &path)?;
        let place = |name: &str| {
            places
                .iter()
                .find(|place| place.name == name)
                .expect("chosen from these")
                .clone()
        };
        let image = place(&chosen.image);
        let child = |name: &str| image.children.iter().find(|child| child.name == name).cloned();
        let (image_bytes, image_path) = match kind_of(&image.data_type) {
            StoredKind::Binary => (Some(image.clone()), None),
            StoredKind::Text => (None, Some(image.clone())),
            _ => (
                child("bytes").filter(|place| kind_of(&place.data_type) == StoredKind::Binary),
                child("path").filter(|place| kind_of(&place.data_type) == StoredKind::Text),
            ),
        };
        let label = place(&chosen.label);

        let mut starts = vec![0usize];
        for batch in &batches {
            starts.push(starts[starts.len() - 1] + batch.rows);
        }
        let others = stored.into_iter().map(|column| column.name);
        let others = others
            .filter(|name| *name != chosen.image && *name != chosen.label)
            .collect();
        let shard = ArrowShard {
            table: Table {
                path,
                name: name.to_owned(),
                rows: starts[starts.len() - 1],
                image_column: chosen.image,
                label_column: chosen.label,
                other_columns: others,
                classes: chosen.classes.map(Into::into),
            },
            batches,
            starts,
            label,
            image,
            image_bytes,
            image_path,
        };
        let wanted = [
            Some(&shard.label),
            Some(&shard.image),
            shard.image_bytes.as_ref(),
            shard.image_path.as_ref(),
        ];
        for batch in &shard.batches {
            for place in wanted.into_iter().flatten() {
                if place.node >= batch.nulls.len() || place.buffer + place.buffers() > batch.buffers.len() {
                    return Err(damaged(
                        &shard.table.path,
                        "a record batch has fewer columns than the schema",
                    ));
                }
            }
        }
        Ok(shard)
    }

    /// Its record batches.
    pub fn stretches(&self) -> Vec<Stretch> {
        let values = self.image_bytes.as_ref().or(self.image_path.as_ref());
        let bytes = |batch: &Batch| {
            values.map_or(0, |place| {
                let data = &batch.buffers[place.buffer + 2];
                data.end - data.start
            })
        };
        self.batches
            .iter()
            .map(|batch| Stretch {
                rows: batch.rows as u32,
                bytes: bytes(batch),
            })
            .collect()
    }

    /// The labels of some rows.
    pub fn labels(&self, rows: Range<usize>) -> Result<Labels> {
        let path = &self.table.path;
        let file = File::open(path).at("open", path)?;
        let mut all = match kind_of(&self.label.data_type) {
            StoredKind::Text => Labels::Names(Vec::with_capacity(rows.len())),
            _ => Labels::Numbers(Vec::with_capacity(rows.len())),
        };
        for (number, batch) in self.batches.iter().enumerate() {
            let (start, end) = (self.starts[number], self.starts[number + 1]);
            let (from, to) = (rows.start.max(start), rows.end.min(end));
            if from >= to {
                continue;
            }
            let column = batch.read(&self.label, &file).at("read", path)?;
            let labels = column.labels(&self.label.data_type, from - start..to - start);
            let labels =
                labels.map_err(|what| damaged(path, &format!("labels of rows {start} to {}: {what}", end - 1)))?;
            all.append(labels).expect("one column has one kind of label");
        }
        Ok(all)
    }

    /// The image of a row.
    pub fn image(&self, row: usize) -> Result<Cell> {
        let path = &self.table.path;
        let number = self.starts.partition_point(|&start| start <= row) - 1;
        let (batch, row_in_batch) = (&self.batches[number], row - self.starts[number]);
        let file = File::open(path).at("open", path)?;
        let failed = |what: String| damaged(path, &format!("image of row {row}: {what}"));
        if !batch.is_valid(&self.image, row_in_batch, &file).map_err(failed)? {
            return Ok(Cell::Null);
        }
        if let Some(place) = &self.image_bytes
            && let Some(bytes) = batch.value(place, row_in_batch, &file).map_err(failed)?
        {
            return Ok(Cell::Bytes(Bytes::from(bytes)));
        }
        if let Some(place) = &self.image_path
            && let Some(text) = batch.value(place, row_in_batch, &file).map_err(failed)?
        {
            return Ok(Cell::Path(String::from_utf8_lossy(&text).into_owned()));
        }
        Ok(Cell::Null)
    }
}

impl Batch {
    /// All buffers of a column.
    fn read(&self, place: &Place, file: &File) -> std::io::Result<Buffers> {
        let buffer = |number: usize| match number < place.buffers() {
            true => exact(file, self.buffers[place.buffer + number].clone()),
            false => Ok(Vec::new()),
        };
        Ok(Buffers {
            validity: (self.nulls[place.node] > 0).then(|| buffer(0)).transpose()?,
            first: buffer(1)?,
            second: buffer(2)?,
        })
    }

    fn is_valid(&self, place: &Place, row: usize, file: &File) -> Result<bool, String> {
        if self.nulls[place.node] == 0 {
            return Ok(true);
        }
        let at = row as u64 / 8;
        let bits = part(file, &self.buffers[place.buffer], at..at + 1)?;
        Ok(bits[0] >> (row % 8) & 1 == 1)
    }

    /// One value of a column of texts or bytes; `None` is null.
    fn value(&self, place: &Place, row: usize, file: &File) -> Result<Option<Vec<u8>>, String> {
        if !self.is_valid(place, row, file)? {
            return Ok(None);
        }
        let row = row as u64;
        let (offsets, data) = (&self.buffers[place.buffer + 1], &self.buffers[place.buffer + 2]);
        let range = match place.data_type {
            DataType::LargeBinary | DataType::LargeUtf8 => {
                let pair = part(file, offsets, row * 8..row * 8 + 16)?;
                let offset = |at: usize| i64::from_le_bytes(pair[at..at + 8].try_into().expect("8 bytes"));
                offset(0)..offset(8)
            }
            _ => {
                let pair = part(file, offsets, row * 4..row * 4 + 8)?;
                let offset = |at: usize| i32::from_le_bytes(pair[at..at + 4].try_into().expect("4 bytes")) as i64;
                offset(0)..offset(4)
            }
        };
        if range.start < 0 || range.end < range.start {
            return Err(format!("its offsets are {} and {}", range.start, range.end));
        }
        part(file, data, range.start as u64..range.end as u64).map(Some)
    }
}

/// Bytes `range` of a buffer.
fn part(file: &File, buffer: &Range<u64>, range: Range<u64>) -> Result<Vec<u8>, String> {
    if range.end > buffer.end - buffer.start {
        return Err("it lies outside its buffer".to_owned());
    }
    exact(file, buffer.start + range.start..buffer.start + range.end).map_err(|error| error.to_string())
}

fn kind_of(data_type: &DataType) -> StoredKind {
    match data_type {
        DataType::Binary | DataType::LargeBinary => StoredKind::Binary,
        DataType::Utf8 | DataType::LargeUtf8 => StoredKind::Text,
        DataType::Boolean => StoredKind::Number,
        integer if integer.is_integer() => StoredKind::Number,
        DataType::Struct(fields) => {
            let has = |name: &str, kind| {
                fields
                    .iter()
                    .any(|field| field.name() == name && kind_of(field.data_type()) == kind)
            };
            match has("bytes", StoredKind::Binary) || has("path", StoredKind::Text) {
                true => StoredKind::ImageStruct,
                false => StoredKind::Other,
            }
        }
        _ => StoredKind::Other,
    }
}
