//! Parquet shards: columns found at opening, labels read alone, images read page by page on demand.
//!
//! A page is about 1 MB, some twenty images: the unit that is read, decompressed and kept. The images handed out are slices
//! of it. Row groups, up to hundreds of MB, would make a shuffled read of a dataset larger than memory hopeless.

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
use super::shard::{Cell, Labels, Table};
use super::table_shard::Stretch;
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
            page_starts: metadata.row_groups().iter().map(|_| OnceLock::new()).collect(),
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
