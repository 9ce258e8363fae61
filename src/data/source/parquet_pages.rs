//! Where the pages of a column lie in a row group: from the file's offset index, or else by the pages' headers.
//!
//! A page is the least that can be read of a column. Writers decide how large pages are: about 1 MB by default, but some write
//! a small row group as a single one.

use std::sync::{Arc, Mutex, PoisonError};

use parquet::column::page::PageReader;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::page_index::index_reader::decode_offset_index;
use parquet::file::page_index::offset_index::PageLocation;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;

use super::parquet_file::Pieces;
use super::table_shard::Stretch;

/// The data pages of a column in a row group.
pub(super) struct PagePlaces {
    /// First row of each page that has rows, counted within the group, and the group's rows at the end.
    pub starts: Vec<usize>,
    /// Of all pages, in the form that the `parquet` crate reads them by.
    pub locations: Vec<PageLocation>,
}

impl PagePlaces {
    /// Of a column chunk with `rows` rows.
    pub fn find(pieces: Arc<Pieces>, chunk: &ColumnChunkMetaData, rows: usize) -> ParquetResult<PagePlaces> {
        let locations = match indexed(&pieces, chunk, rows) {
            Some(locations) => locations,
            None => by_headers(pieces, chunk, rows)?,
        };
        let mut starts: Vec<usize> = locations.iter().map(|page| page.first_row_index as usize).collect();
        starts.push(rows);
        // Pages without rows begin where the next one does.
        starts.dedup();
        Ok(PagePlaces { starts, locations })
    }

    /// The group, which has `bytes` bytes, cut between pages: into stretches of about the same size, each of at most `most`
    /// bytes unless it is a single page.
    pub fn cut(&self, chunk: &ColumnChunkMetaData, bytes: u64, most: u64) -> Vec<Stretch> {
        let rows = self.starts[self.starts.len() - 1];
        let start = chunk.byte_range().0;
        let end_of = |page: &PageLocation| page.offset as u64 + page.compressed_page_size as u64 - start;
        let stored = self.locations.last().map_or(1, end_of).max(1);
        // Of each page: the rows and the bytes up to its end. A dictionary lies in front of the first page, whose values it has.
        let first_rows = self.locations.iter().skip(1).map(|page| page.first_row_index as usize);
        let ends = (self.locations.iter())
            .map(|page| (u128::from(bytes) * u128::from(end_of(page)) / u128::from(stored)) as u64);
        let pages: Vec<(usize, u64)> = first_rows.chain([rows]).zip(ends).collect();
        let target = bytes / bytes.div_ceil(most.max(1)).max(1);
        let (mut row, mut used) = (0, 0);
        let mut stretches = Vec::new();
        for (number, &(end, upto)) in pages.iter().enumerate() {
            let is_full = match pages.get(number + 1) {
                Some((_, with_next)) => upto - used >= target || with_next - used > most,
                None => true,
            };
            if is_full && end > row {
                stretches.push(Stretch {
                    rows: (end - row) as u32,
                    bytes: upto - used,
                });
                (row, used) = (end, upto);
            }
        }
        stretches
    }
}

/// What the offset index says, if there is one and it fits the column.
fn indexed(pieces: &Pieces, chunk: &ColumnChunkMetaData, rows: usize) -> Option<Vec<PageLocation>> {
    let range = chunk.offset_index_range()?;
    let length = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
    let bytes = pieces.get_bytes(range.start, length).ok()?;
    let locations = decode_offset_index(&bytes).ok()?.page_locations().clone();
    fits(&locations, chunk.byte_range(), rows).then_some(locations)
}

/// Whether pages follow each other up to the end of the column, without gaps but the dictionary, and rows within the group.
fn fits(locations: &[PageLocation], (start, length): (u64, u64), rows: usize) -> bool {
    let (mut at, mut row) = (start, 0);
    for page in locations {
        let (Ok(offset), Ok(size), Ok(first)) = (
            u64::try_from(page.offset),
            u64::try_from(page.compressed_page_size),
            usize::try_from(page.first_row_index),
        ) else {
            return false;
        };
        let follows = if at == start { offset >= at } else { offset == at };
        if !follows || size > (start + length).saturating_sub(offset) || first < row || first > rows {
            return false;
        }
        (at, row) = (offset + size, first);
    }
    at == start + length && locations.first().is_some_and(|page| page.first_row_index == 0)
}

/// Goes from header to header.
fn by_headers(pieces: Arc<Pieces>, chunk: &ColumnChunkMetaData, rows: usize) -> ParquetResult<Vec<PageLocation>> {
    let (start, length) = chunk.byte_range();
    let headers = Arc::new(Headers {
        pieces,
        latest: Mutex::new(start),
    });
    let mut pages = SerializedPageReader::new(headers.clone(), chunk, rows, None)?;
    let mut locations: Vec<PageLocation> = Vec::new();
    let mut row = 0;
    while let Some(page) = pages.peek_next_page()? {
        let offset = headers.latest();
        if let Some(previous) = locations.last_mut() {
            previous.compressed_page_size = i32::try_from(offset - previous.offset as u64)?;
        }
        if !page.is_dict {
            locations.push(PageLocation {
                offset: i64::try_from(offset)?,
                compressed_page_size: 0,
                first_row_index: row as i64,
            });
            row += page.num_rows.or(page.num_levels).unwrap_or(0);
            if row > rows {
                return Err(ParquetError::General("its pages have more rows than it".to_owned()));
            }
        }
        pages.skip_next_page()?;
    }
    if row < rows {
        return Err(ParquetError::General("its pages have fewer rows than it".to_owned()));
    }
    if let Some(last) = locations.last_mut() {
        last.compressed_page_size = i32::try_from(start + length - last.offset as u64)?;
    }
    Ok(locations)
}

/// A file of which the place of the header that was asked for last is known.
struct Headers {
    pieces: Arc<Pieces>,
    latest: Mutex<u64>,
}

impl Headers {
    fn latest(&self) -> u64 {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Length for Headers {
    fn len(&self) -> u64 {
        self.pieces.len()
    }
}

impl ChunkReader for Headers {
    type T = <Pieces as ChunkReader>::T;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = start;
        self.pieces.get_read(start)
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<bytes::Bytes> {
        self.pieces.get_bytes(start, length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_leaves_something_out_is_not_used() {
        let page = |offset, compressed_page_size, first_row_index| PageLocation {
            offset,
            compressed_page_size,
            first_row_index,
        };
        // A dictionary of 50 bytes at 100, then three pages.
        let whole = [page(150, 40, 0), page(190, 60, 7), page(250, 50, 9)];
        let fits = |pages: &[PageLocation]| fits(pages, (100, 200), 12);
        assert!(fits(&whole));
        assert!(!fits(&whole[..2]) && !fits(&whole[1..]) && !fits(&[]));
        let spoiled = |number: usize, page: PageLocation| {
            let mut pages = whole.clone();
            pages[number] = page;
            fits(&pages)
        };
        assert!(!spoiled(1, page(191, 59, 7)) && !spoiled(1, page(189, 61, 7)));
        assert!(!spoiled(2, page(250, 51, 9)) && !spoiled(2, page(250, 50, 6)) && !spoiled(2, page(250, 50, 13)));
    }
}
