//! Byte ranges of a Parquet file for the `parquet` crate, and its footer.
//!
//! Reads are positional, so threads share nothing; a file is opened for each use, so that a dataset of thousands of shards
//! holds no descriptors.

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};

use crate::error::{Error, IoContext, Result, catch_foreign_panic};

/// A whole file, read piece by piece.
pub(super) struct Pieces {
    file: Arc<File>,
    length: u64,
}

impl Pieces {
    pub fn open(path: &Path) -> Result<Pieces> {
        let file = File::open(path).at("open", path)?;
        let length = file.metadata().at("look at", path)?.len();
        Ok(Pieces {
            file: Arc::new(file),
            length,
        })
    }

    fn read(&self, start: u64, length: usize) -> std::io::Result<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.length) {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }

    /// One column of one row group, in one read.
    pub fn column(&self, chunk: &ColumnChunkMetaData) -> ParquetResult<Window> {
        let (start, length) = chunk.byte_range();
        Ok(Window {
            start,
            bytes: self.read(start, length as usize)?,
        })
    }
}

impl Length for Pieces {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Pieces {
    type T = BufReader<Cursor>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        // Page headers are asked for in this way: some dozen bytes, more where they carry statistics.
        const HEADER_BYTES: usize = 1024;
        let file = self.file.clone();
        Ok(BufReader::with_capacity(HEADER_BYTES, Cursor { file, at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        Ok(self.read(start, length)?)
    }
}

/// A place in a file that belongs to one reader.
pub(super) struct Cursor {
    file: Arc<File>,
    at: u64,
}

impl Read for Cursor {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(bytes, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// A part of a file in memory, addressed by its place in the file.
pub(super) struct Window {
    start: u64,
    bytes: Bytes,
}

impl Window {
    fn from(&self, start: u64) -> ParquetResult<Bytes> {
        let skip = start
            .checked_sub(self.start)
            .filter(|&skip| skip <= self.bytes.len() as u64);
        let skip = skip.ok_or_else(|| ParquetError::EOF("a page lies outside its column".to_owned()))?;
        Ok(self.bytes.slice(skip as usize..))
    }
}

impl Length for Window {
    fn len(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl ChunkReader for Window {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let rest = self.from(start)?;
        if length > rest.len() {
            return Err(ParquetError::EOF("a page goes on beyond its column".to_owned()));
        }
        Ok(rest.slice(..length))
    }
}

/// The footer of a Parquet file, with every place that it names checked to lie within the file.
pub(super) fn footer(path: &Path) -> Result<ParquetMetaData> {
    const TAIL: u64 = 64 * 1024;
    const MAGIC: &[u8] = b"PAR1";
    let no_parquet = |what: &str| {
        Error::dataset(
            path,
            what,
            "the file is damaged, incomplete or not Parquet: download or copy it again",
        )
    };
    let pieces = Pieces::open(path)?;
    if pieces.length < 12 {
        return Err(no_parquet(&format!(
            "a file of {} bytes is no Parquet file",
            pieces.length
        )));
    }
    let tail_bytes = pieces.length.min(TAIL) as usize;
    let mut tail = pieces
        .read(pieces.length - tail_bytes as u64, tail_bytes)
        .at("read", path)?;
    let end = tail.slice(tail.len() - 8..);
    if &end[4..] != MAGIC {
        let encrypted = &end[4..] == b"PARE";
        return Err(no_parquet(match encrypted {
            true => "it is an encrypted Parquet file",
            false => "it does not end as a Parquet file ends",
        }));
    }
    let length = u32::from_le_bytes([end[0], end[1], end[2], end[3]]) as u64 + 8;
    if length > pieces.length {
        return Err(no_parquet("its footer is longer than the file"));
    }
    if length as usize > tail.len() {
        tail = pieces.read(pieces.length - length, length as usize).at("read", path)?;
    }
    let footer = tail.slice(tail.len() - length as usize..tail.len() - 8);
    let metadata = guarded(|| ParquetMetaDataReader::decode_metadata(&footer))
        .map_err(|error| no_parquet(&format!("its footer cannot be read: {error}")))?;
    check_places(&metadata, pieces.length).map_err(|what| no_parquet(&what))?;
    Ok(metadata)
}

fn check_places(metadata: &ParquetMetaData, length: u64) -> Result<(), String> {
    let mut rows = 0i64;
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let wrong = |what: &str| format!("row group {number} {what}");
        if group.num_rows() < 0 || group.num_rows() > u32::MAX.into() {
            return Err(wrong(&format!("claims {} rows", group.num_rows())));
        }
        rows += group.num_rows();
        if group.num_columns() != metadata.file_metadata().schema_descr().num_columns() {
            return Err(wrong("has another number of columns than the schema"));
        }
        for column in group.columns() {
            let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
            let end = start.checked_add(column.compressed_size());
            let inside = start >= 0 && column.compressed_size() >= 0 && end.is_some_and(|end| end as u64 <= length);
            if !inside {
                return Err(wrong(&format!(
                    "has its column {} outside the file",
                    column.column_path()
                )));
            }
        }
    }
    match rows == metadata.file_metadata().num_rows() {
        true => Ok(()),
        false => Err(format!(
            "it claims {} rows, but its row groups have {rows}",
            metadata.file_metadata().num_rows()
        )),
    }
}

/// Calls into the `parquet` crate, which may panic on a damaged file: that is an error of the file's, not a bug of ours.
pub(super) fn guarded<T>(read: impl FnOnce() -> ParquetResult<T>) -> Result<T, String> {
    match catch_foreign_panic(read) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => Err(format!("the data contradict themselves ({panic})")),
    }
}
