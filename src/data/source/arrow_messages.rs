//! The messages of an Arrow file: its schema, and where the buffers of its record batches lie.
//!
//! Only headers are read. The file format is the stream format with a mark before and an index behind, which is not needed.
//! Source: the Arrow columnar format, "IPC streaming format" and "IPC file format".

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use arrow::datatypes::Schema;
use arrow::ipc;

use crate::error::{Error, IoContext, Result};

/// A record batch: its rows, and where in the file its buffers lie.
pub(super) struct Batch {
    pub rows: usize,
    /// Number of nulls of each node.
    pub nulls: Vec<u64>,
    pub buffers: Vec<Range<u64>>,
}

/// Reads the headers of all messages of a file.
pub(super) fn messages(path: &Path) -> Result<(Schema, Vec<Batch>)> {
    const FILE_FORMAT: &[u8] = b"ARROW1\0\0";
    const CONTINUES: u32 = u32::MAX;
    let file = File::open(path).at("open", path)?;
    let length = file.metadata().at("look at", path)?.len();
    let cut_off = || damaged(path, "the file ends in the middle of a message");
    let read = |range: Range<u64>| match range.end <= length {
        true => exact(&file, range).at("read", path),
        false => Err(cut_off()),
    };
    let number = |at: u64| Ok::<u32, Error>(u32::from_le_bytes(read(at..at + 4)?.try_into().expect("4 bytes")));

    let file_format = length >= 8 && read(0..8)? == FILE_FORMAT;
    let mut at = if file_format { 8 } else { 0 };
    let mut schema = None;
    let mut batches = Vec::new();
    loop {
        if at == length {
            return Err(damaged(path, "the file ends without the mark of the end"));
        }
        let mut size = number(at)?;
        at += 4;
        // Before version 0.15 the size came without a mark.
        if size == CONTINUES {
            size = number(at)?;
            at += 4;
        }
        if size == 0 {
            // Some writers pad the mark of the file format to more than 8 bytes.
            if file_format && schema.is_none() {
                continue;
            }
            break;
        }
        let header = read(at..at + size as u64)?;
        at += size as u64;
        let no_message = || damaged(path, "it is no Arrow file, or a message in it is damaged");
        let message = ipc::root_as_message(&header).map_err(|_| no_message())?;
        let body_length = u64::try_from(message.bodyLength()).map_err(|_| no_message())?;
        let body = at..at.checked_add(body_length).ok_or_else(cut_off)?;
        if body.end > length {
            return Err(cut_off());
        }
        at = body.end;
        if let Some(header) = message.header_as_schema() {
            if header.endianness() != ipc::Endianness::Little {
                return Err(damaged(path, "its numbers are big-endian"));
            }
            schema = Some(ipc::convert::try_fb_to_schema(header).map_err(|_| no_message())?);
        } else if let Some(batch) = message.header_as_record_batch() {
            if batch.compression().is_some() {
                return Err(Error::dataset(
                    path,
                    "its buffers are compressed, which datasets never does and dtrain does not read",
                    "write the file without compression, or as Parquet",
                ));
            }
            batches.push(batch_of(batch, &body).ok_or_else(no_message)?);
        }
    }
    let schema = schema.ok_or_else(|| damaged(path, "it has no schema"))?;
    Ok((schema, batches))
}

/// `None` if a buffer lies outside the body.
fn batch_of(batch: ipc::RecordBatch, body: &Range<u64>) -> Option<Batch> {
    let buffers = batch.buffers()?.iter().map(|buffer| {
        let start = body.start.checked_add(u64::try_from(buffer.offset()).ok()?)?;
        let end = start.checked_add(u64::try_from(buffer.length()).ok()?)?;
        (end <= body.end).then_some(start..end)
    });
    Some(Batch {
        rows: u32::try_from(batch.length()).ok()? as usize,
        nulls: batch
            .nodes()?
            .iter()
            .map(|node| node.null_count().max(0) as u64)
            .collect(),
        buffers: buffers.collect::<Option<_>>()?,
    })
}

/// Bytes `range` of a file.
pub(super) fn exact(file: &File, range: Range<u64>) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes)
}

pub(super) fn damaged(path: &Path, what: &str) -> Error {
    Error::dataset(
        path,
        what,
        "the file is damaged or incomplete: copy it, or save the dataset, again",
    )
}
