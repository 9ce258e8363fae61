//! Parquet shards: columns found at opening, labels read alone, images read page by page on demand.
//!
//! A page is the unit that is read, decompressed and kept, with most writers about 1 MB or a small row group. The images
//! handed out are slices of it. Row groups, up to hundreds of MB, would make a shuffled read of a dataset larger than memory
//! hopeless.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parquet::basic::Type as Physical;
use parquet::column::page::PageReader;
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{AsBytes, BoolType, ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::ChunkReader;
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::ColumnDescPtr;

use super::cache::BlockCache;
use super::features::{Columns, Features};
use super::parquet_columns::ParquetColumns;
use super::parquet_file::{self, Pieces, guarded};
use super::parquet_pages::PagePlaces;
use super::shard::{Cell, Labels, Table};
use super::table_shard::Stretch;
use crate::error::{Error, Result};

/// One Parquet file.
pub(super) struct ParquetShard {
    pub table: Table,
    metadata: ParquetMetaData,
    /// First row of each row group, and the number of rows at the end.
    group_starts: Vec<usize>,
    /// Of the image column, for each row group.
    pages: Vec<OnceLock<PagePlaces>>,
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
        let found = ParquetColumns::find(&metadata, columns, features, &path)?;
        let mut group_starts = vec![0];
        for group in metadata.row_groups() {
            group_starts.push(group_starts[group_starts.len() - 1] + group.num_rows() as usize);
        }
        Ok(ParquetShard {
            table: Table {
                path,
                name: name.to_owned(),
                rows: group_starts[group_starts.len() - 1],
                image_column: found.chosen.image,
                label_column: found.chosen.label,
                other_columns: found.others,
                classes: found.chosen.classes.map(Into::into),
            },
            pages: metadata.row_groups().iter().map(|_| OnceLock::new()).collect(),
            metadata,
            group_starts,
            label: found.label,
            image_bytes: found.image_bytes,
            image_path: found.image_path,
        })
    }

    /// Its row groups.
    pub fn stretches(&self) -> Vec<Stretch> {
        let image = self.image_bytes.or(self.image_path);
        let bytes = |group: &RowGroupMetaData| image.map_or(0, |leaf| group.column(leaf).uncompressed_size().max(0));
        let groups = self.metadata.row_groups().iter();
        groups
            .map(|group| Stretch {
                rows: group.num_rows() as u32,
                bytes: bytes(group) as u64,
            })
            .collect()
    }

    /// A row group in stretches of at most `most` bytes, if its pages are so small.
    pub fn cut(&self, group: usize, bytes: u64, most: u64) -> Result<Vec<Stretch>> {
        match self.image_bytes {
            Some(leaf) => {
                let chunk = self.metadata.row_group(group).column(leaf);
                Ok(self.pages(group, leaf)?.cut(chunk, bytes, most))
            }
            None => {
                let rows = self.metadata.row_group(group).num_rows() as u32;
                Ok(vec![Stretch { rows, bytes }])
            }
        }
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
            let starts = &self.pages(group, leaf)?.starts;
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

    /// The pages of a row group's images.
    fn pages(&self, group: usize, leaf: usize) -> Result<&PagePlaces> {
        let slot = &self.pages[group];
        if let Some(places) = slot.get() {
            return Ok(places);
        }
        let pieces = Arc::new(Pieces::open(&self.table.path)?);
        let chunk = self.metadata.row_group(group).column(leaf);
        let (first, end) = (self.group_starts[group], self.group_starts[group + 1]);
        let places = guarded(|| PagePlaces::find(pieces, chunk, end - first))
            .map_err(|error| self.damaged(format!("images of rows {first} to {}: {error}", end - 1)))?;
        // Another thread may have found them meanwhile: they are the same.
        Ok(slot.get_or_init(|| places))
    }

    /// Reads the page that holds `rows` of a row group; also its size in bytes.
    fn page(&self, group: usize, leaf: usize, rows: Range<usize>) -> Result<(Page, usize)> {
        let pieces = Arc::new(Pieces::open(&self.table.path)?);
        let chunk = self.metadata.row_group(group).column(leaf);
        let first = self.group_starts[group];
        let locations = self.pages(group, leaf)?.locations.clone();
        let images = guarded(|| {
            let group_rows = self.group_starts[group + 1] - first;
            let pages = SerializedPageReader::new(pieces, chunk, group_rows, Some(locations))?;
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

/// Values `rows` of a column chunk, counted from its start; pages before them are skipped unread.
fn read_rows<T: DataType, R: ChunkReader + 'static>(
    pages: SerializedPageReader<R>,
    descriptor: ColumnDescPtr,
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
