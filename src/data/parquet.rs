//! Parquet shards: columns found at opening, labels read alone, images read page by page on demand.
//!
//! A page is about 1 MB, some twenty images: the unit that is read, decompressed and kept. The images handed out are slices
//! of it. Row groups, up to hundreds of MB, would make a shuffled read of a dataset larger than memory hopeless.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parquet::arrow::parquet_to_arrow_schema;
use parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use parquet::column::page::PageReader;
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{AsBytes, BoolType, ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::ChunkReader;
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::ColumnDescriptor;

use super::cache::BlockCache;
use super::features::{Columns, Features, StoredColumn, StoredKind};
use super::parquet_file::{self, Pieces, guarded};
use super::shard::{Cell, Labels, Table};
use crate::error::{Error, Result};

/// One Parquet file.
pub(super) struct ParquetShard {
    pub table: Table,
    metadata: ParquetMetaData,
    /// First row of each row group, and the number of rows at the end.
    group_starts: Vec<usize>,
    /// For each row group: first row of each page of the image column within the group, and the group's rows at the end.
    page_starts: Vec<OnceLock<Vec<usize>>>,
    label: usize,
    /// Leaf columns of the images' bytes and paths.
    image_bytes: Option<usize>,
    image_path: Option<usize>,
}

/// Pages of image columns that were read, by shard, row group and page.
pub(super) type Pages = BlockCache<(u32, u32, u32), Page>;

/// The images of one page; `None` is null.
pub(super) struct Page {
    images: Vec<Option<ByteArray>>,
}

impl ParquetShard {
    pub fn open(path: PathBuf, name: &str, columns: &Columns, features: Option<&Features>) -> Result<Self> {
        let metadata = parquet_file::footer(&path)?;
        let own_features = declared(&metadata);
        let features = own_features.as_ref().or(features).cloned().unwrap_or_default();

        let schema = metadata.file_metadata().schema_descr();
        let roots = schema.root_schema().get_fields();
        let leaves_of =
            |root: usize| (0..schema.num_columns()).filter(move |&leaf| schema.get_column_root_idx(leaf) == root);
        let leaf_of = |root: usize, path: &[&str]| {
            leaves_of(root).find(|&leaf| schema.column(leaf).path().parts()[1..].iter().eq(path.iter()))
        };
        let stored: Vec<StoredColumn> = (0..roots.len())
            .map(|root| StoredColumn {
                name: roots[root].name().to_owned(),
                kind: match leaves_of(root).next() {
                    Some(leaf) if schema.column(leaf).path().parts().len() == 1 => kind_of(&schema.column(leaf)),
                    Some(_) => match (leaf_of(root, &["bytes"]), leaf_of(root, &["path"])) {
                        (Some(leaf), _) if kind_of(&schema.column(leaf)) == StoredKind::Binary => {
                            StoredKind::ImageStruct
                        }
                        (None, Some(leaf)) if kind_of(&schema.column(leaf)) == StoredKind::Text => {
                            StoredKind::ImageStruct
                        }
                        _ => StoredKind::Other,
                    },
                    None => StoredKind::Other,
                },
            })
            .collect();
        let chosen = features.choose(&stored, columns, &path)?;
        let place = |name: &str| {
            stored
                .iter()
                .position(|column| column.name == name)
                .expect("chosen from these")
        };

        let image = place(&chosen.image);
        let (image_bytes, image_path) = match stored[image].kind {
            StoredKind::Binary => (leaf_of(image, &[]), None),
            StoredKind::Text => (None, leaf_of(image, &[])),
            _ => (
                leaf_of(image, &["bytes"]),
                leaf_of(image, &["path"]).filter(|&leaf| kind_of(&schema.column(leaf)) == StoredKind::Text),
            ),
        };
        let label = leaf_of(place(&chosen.label), &[]).expect("a label column has no parts");

        let mut group_starts = vec![0];
        for group in metadata.row_groups() {
            group_starts.push(group_starts[group_starts.len() - 1] + group.num_rows() as usize);
        }
        let others = stored.into_iter().map(|column| column.name);
        let others = others
            .filter(|name| *name != chosen.image && *name != chosen.label)
            .collect();
        Ok(ParquetShard {
            table: Table {
                path,
                name: name.to_owned(),
                rows: group_starts[group_starts.len() - 1],
                image_column: chosen.image,
                label_column: chosen.label,
                other_columns: others,
                classes: chosen.classes,
            },
            page_starts: metadata.row_groups().iter().map(|_| OnceLock::new()).collect(),
            metadata,
            group_starts,
            label,
            image_bytes,
            image_path,
        })
    }

    /// The labels of some rows: the label column of the row groups that they lie in.
    pub fn labels(&self, rows: Range<usize>) -> Result<Labels> {
        let descriptor = self.metadata.file_metadata().schema_descr().column(self.label);
        let number = |value: i32| value as i64;
        match descriptor.physical_type() {
            Physical::INT64 => Ok(Labels::Numbers(self.column::<Int64Type, _>(
                self.label,
                rows,
                |value| value,
            )?)),
            Physical::INT32 => Ok(Labels::Numbers(self.column::<Int32Type, _>(self.label, rows, number)?)),
            Physical::BOOLEAN => Ok(Labels::Numbers(self.column::<BoolType, _>(
                self.label,
                rows,
                i64::from,
            )?)),
            _ => Ok(Labels::Names(self.column::<ByteArrayType, _>(self.label, rows, text)?)),
        }
    }

    /// The image of a row. `shard` is this shard's key in `pages`.
    pub fn image(&self, row: usize, shard: u32, pages: &Pages) -> Result<Cell> {
        let (group, row_in_group) = self.place(row);
        if let Some(leaf) = self.image_bytes {
            let starts = self.page_starts(group, leaf)?;
            let number = starts.partition_point(|&start| start <= row_in_group) - 1;
            let page = pages.get((shard, group as u32, number as u32), || {
                self.page(group, leaf, starts[number]..starts[number + 1])
            })?;
            if let Some(image) = &page.images[row_in_group - starts[number]] {
                return Ok(Cell::Bytes(Bytes::from_owner(Slice(image.clone()))));
            }
        }
        let Some(leaf) = self.image_path else {
            return Ok(Cell::Null);
        };
        let path = self
            .column::<ByteArrayType, _>(leaf, row..row + 1, text)?
            .pop()
            .flatten();
        Ok(path.map_or(Cell::Null, Cell::Path))
    }

    /// All paths of the image column.
    pub fn paths(&self) -> Result<Vec<Option<String>>> {
        match self.image_path {
            Some(leaf) => self.column::<ByteArrayType, _>(leaf, 0..self.table.rows, text),
            None => Ok(vec![None; self.table.rows]),
        }
    }

    /// Row group of a row, and its place in it.
    fn place(&self, row: usize) -> (usize, usize) {
        let group = self.group_starts.partition_point(|&start| start <= row) - 1;
        (group, row - self.group_starts[group])
    }

    fn damaged(&self, what: String) -> Error {
        Error::dataset(&self.table.path, what, "the file is damaged: download or copy it again")
    }

    /// Values of a leaf column; whole row groups are read.
    fn column<T: DataType, V>(
        &self,
        leaf: usize,
        rows: Range<usize>,
        convert: impl Fn(T::T) -> V + Copy,
    ) -> Result<Vec<Option<V>>> {
        let pieces = Pieces::open(&self.table.path)?;
        let mut all = Vec::with_capacity(rows.len());
        for group in 0..self.metadata.num_row_groups() {
            let (start, end) = (self.group_starts[group], self.group_starts[group + 1]);
            let (from, to) = (rows.start.max(start), rows.end.min(end));
            if from >= to {
                continue;
            }
            let chunk = self.metadata.row_group(group).column(leaf);
            let values = guarded(|| {
                let pages = SerializedPageReader::new(Arc::new(pieces.column(chunk)?), chunk, end - start, None)?;
                read_rows::<T, _>(pages, chunk.column_descr_ptr(), 0..end - start)
            })
            .map_err(|error| {
                self.damaged(format!(
                    "rows {start} to {} of column {}: {error}",
                    end - 1,
                    chunk.column_path()
                ))
            })?;
            all.extend(
                values
                    .into_iter()
                    .skip(from - start)
                    .take(to - from)
                    .map(|value| value.map(convert)),
            );
        }
        Ok(all)
    }

    /// Finds the pages of a row group by their headers.
    fn page_starts(&self, group: usize, leaf: usize) -> Result<&[usize]> {
        let slot = &self.page_starts[group];
        if let Some(starts) = slot.get() {
            return Ok(starts);
        }
        let pieces = Arc::new(Pieces::open(&self.table.path)?);
        let chunk = self.metadata.row_group(group).column(leaf);
        let (first, end) = (self.group_starts[group], self.group_starts[group + 1]);
        let starts = guarded(|| {
            let mut starts = vec![0];
            let mut pages = SerializedPageReader::new(pieces, chunk, end - first, None)?;
            while let Some(page) = pages.peek_next_page()? {
                if !page.is_dict {
                    let rows = page.num_rows.or(page.num_levels).unwrap_or(0);
                    let start = starts[starts.len() - 1];
                    match rows {
                        0 => {}
                        rows if rows <= end - first - start => starts.push(start + rows),
                        _ => return Err(ParquetError::General("its pages have more rows than it".to_owned())),
                    }
                }
                pages.skip_next_page()?;
            }
            match starts[starts.len() - 1] == end - first {
                true => Ok(starts),
                false => Err(ParquetError::General("its pages have fewer rows than it".to_owned())),
            }
        })
        .map_err(|error| self.damaged(format!("images of rows {first} to {}: {error}", end - 1)))?;
        // Another thread may have found them meanwhile: they are the same.
        Ok(slot.get_or_init(|| starts))
    }

    /// Reads the page that holds `rows` of a row group; also its size in bytes.
    fn page(&self, group: usize, leaf: usize, rows: Range<usize>) -> Result<(Page, usize)> {
        let pieces = Arc::new(Pieces::open(&self.table.path)?);
        let chunk = self.metadata.row_group(group).column(leaf);
        let first = self.group_starts[group];
        let images = guarded(|| {
            let pages = SerializedPageReader::new(pieces, chunk, self.group_starts[group + 1] - first, None)?;
            read_rows::<ByteArrayType, _>(pages, chunk.column_descr_ptr(), rows.clone())
        })
        .map_err(|error| {
            self.damaged(format!(
                "images of rows {} to {}: {error}",
                first + rows.start,
                first + rows.end - 1
            ))
        })?;
        let bytes: usize = images.iter().flatten().map(ByteArray::len).sum();
        // Never 0, which stands for a block that is not read yet.
        Ok((Page { images }, bytes + 64 * rows.len()))
    }
}

/// The column types that the file's metadata declare.
fn declared(metadata: &ParquetMetaData) -> Option<Features> {
    let entries = metadata.file_metadata().key_value_metadata()?;
    let value = |key: &str| {
        entries
            .iter()
            .find(|entry| entry.key == key)
            .and_then(|entry| entry.value.as_deref())
    };
    if let Some(text) = value("huggingface") {
        return Features::from_json(text);
    }
    // Writers that are not pyarrow keep the metadata of an Arrow schema only inside of it.
    value("ARROW:schema")?;
    let schema = guarded(|| parquet_to_arrow_schema(metadata.file_metadata().schema_descr(), Some(entries))).ok()?;
    schema
        .metadata()
        .get("huggingface")
        .and_then(|text| Features::from_json(text))
}

/// What a leaf column can serve for. Lists serve for nothing here.
fn kind_of(column: &ColumnDescriptor) -> StoredKind {
    use ConvertedType::*;
    if column.max_rep_level() > 0 {
        return StoredKind::Other;
    }
    match (
        column.physical_type(),
        column.logical_type_ref(),
        column.converted_type(),
    ) {
        (Physical::BYTE_ARRAY, Some(LogicalType::String | LogicalType::Enum), _) => StoredKind::Text,
        (Physical::BYTE_ARRAY, _, UTF8 | ENUM) => StoredKind::Text,
        (Physical::BYTE_ARRAY, None, NONE) => StoredKind::Binary,
        (Physical::BOOLEAN, ..) => StoredKind::Number,
        (Physical::INT32 | Physical::INT64, Some(LogicalType::Integer { .. }), _) => StoredKind::Number,
        (Physical::INT32 | Physical::INT64, None, NONE) => StoredKind::Number,
        (Physical::INT32 | Physical::INT64, None, INT_8 | INT_16 | INT_32 | INT_64) => StoredKind::Number,
        (Physical::INT32 | Physical::INT64, None, UINT_8 | UINT_16 | UINT_32 | UINT_64) => StoredKind::Number,
        _ => StoredKind::Other,
    }
}

/// Values `rows` of a column chunk, counted from its start; pages before them are skipped unread.
fn read_rows<T: DataType, R: ChunkReader + 'static>(
    pages: SerializedPageReader<R>,
    descriptor: parquet::schema::types::ColumnDescPtr,
    rows: Range<usize>,
) -> ParquetResult<Vec<Option<T::T>>>
where
    SerializedPageReader<R>: PageReader,
{
    let present = descriptor.max_def_level();
    let mut reader = ColumnReaderImpl::<T>::new(descriptor, Box::new(pages));
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    let skipped = reader.skip_records(rows.start)?;
    let (read, _, _) = reader.read_records(rows.len(), Some(&mut levels), None, &mut values)?;
    if skipped != rows.start || read != rows.len() {
        return Err(ParquetError::General(format!("only {} rows are there", skipped + read)));
    }
    if present == 0 {
        return Ok(values.into_iter().map(Some).collect());
    }
    let mut values = values.into_iter();
    Ok(levels
        .into_iter()
        .map(|level| if level == present { values.next() } else { None })
        .collect())
}

fn text(value: ByteArray) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// Lets `Bytes` share the page that a value lies in.
struct Slice(ByteArray);

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}
