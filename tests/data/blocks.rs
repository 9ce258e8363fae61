//! Which rows lie together: row groups, runs of record batches, runs of files.

use arrow::ipc::writer::StreamWriter;
use dtrain::data::{Access, Blocks, Dataset};
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::fixtures::*;

/// The number that an image of `fixtures::images` begins with.
fn number(dataset: &Dataset, row: u32) -> usize {
    let text = String::from_utf8(dataset.encoded(row as usize).unwrap().to_vec()).unwrap();
    text.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn sizes(blocks: &Blocks) -> Vec<u32> {
    blocks.starts.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// Every row once, and none before one that lies in front of it.
fn check(dataset: &Dataset, blocks: &Blocks, stored_number: impl Fn(u32) -> usize) {
    let mut rows = blocks.rows.clone();
    rows.sort_unstable();
    assert!(rows.iter().enumerate().all(|(at, &row)| at as u32 == row));
    assert_eq!(rows.len(), dataset.len());
    let numbers: Vec<usize> = blocks.rows.iter().map(|&row| stored_number(row)).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
}

#[test]
fn row_groups_are_blocks() {
    let dir = tempfile::tempdir().unwrap();
    // Row groups of 40.
    write_parquet(
        &dir.path().join("data/train-00000-of-00001.parquet"),
        &usual(100, None, |row| row as i64 % 3),
    );
    let dataset = open(dir.path(), "train").unwrap();
    let blocks = dataset.blocks();
    assert_eq!((sizes(&blocks), blocks.access), (vec![40, 40, 20], Access::ByBlock));
    let images: usize = (0..100).map(|row| dataset.encoded(row).unwrap().len()).sum();
    // Four bytes are the length of a value; pages and dictionaries have some of their own.
    assert!(
        blocks.bytes as usize > images / 2 && (blocks.bytes as usize) < 2 * images + 2000,
        "{} for {images}",
        blocks.bytes
    );
    check(&dataset, &blocks, |row| number(&dataset, row));

    // Rows that were chosen at random lie where they lay; a block without one is none.
    let some = dataset.select(&[99, 3, 81, 39, 90, 0]);
    let blocks = some.blocks();
    assert_eq!(
        (sizes(&blocks), blocks.rows.clone()),
        (vec![3, 3], vec![5, 1, 3, 2, 4, 0])
    );
    check(&some, &blocks, |row| number(&some, row));
    let stored: Vec<usize> = (0..6).map(|row| number(&some.as_stored(), row)).collect();
    assert_eq!(stored, [0, 3, 39, 81, 90, 99]);

    // The same rows twice are read together.
    let twice = open(dir.path(), "train[:2]+train[1:3]").unwrap();
    assert_eq!(
        (sizes(&twice.blocks()), twice.blocks().rows),
        (vec![4], vec![0, 1, 2, 3])
    );
}

/// A row group of 400 rows in pages of 8, one writer's with an offset index and another's without.
#[test]
fn a_large_row_group_is_cut_between_its_pages() {
    let mut of_writers = Vec::new();
    for (has_index, dictionary_bytes) in [(true, None), (false, None), (true, Some(2000)), (false, Some(2000))] {
        let dir = tempfile::tempdir().unwrap();
        let statistics = match has_index {
            true => EnabledStatistics::Page,
            false => EnabledStatistics::None,
        };
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(400))
            .set_data_page_row_count_limit(8)
            .set_write_batch_size(8)
            .set_dictionary_enabled(dictionary_bytes.is_some())
            .set_dictionary_page_size_limit(dictionary_bytes.unwrap_or(1))
            .set_statistics_enabled(statistics)
            .set_offset_index_disabled(!has_index)
            .build();
        let file = dir.path().join("data/train-00000-of-00001.parquet");
        write_parquet_as(&file, &usual(500, None, |row| row as i64 % 3), properties);
        let dataset = open(dir.path(), "train").unwrap();
        let whole = dataset.blocks();
        assert_eq!(sizes(&whole), [400, 100]);
        let images: Vec<Vec<u8>> = images(500).into_iter().map(Option::unwrap).collect();
        for row in [399, 0, 7, 8, 450, 200] {
            assert_eq!(dataset.encoded(row).unwrap(), images[row]);
        }
        let most = whole.bytes / 12;
        let cut = dataset.blocks_of_at_most(most).unwrap();
        check(&dataset, &cut, |row| number(&dataset, row));
        let sizes = sizes(&cut);
        let is_between_pages = |start: &u32| start.is_multiple_of(8) || (*start - 400).is_multiple_of(8);
        assert!(
            cut.starts[..cut.count()].iter().all(is_between_pages),
            "{:?}",
            cut.starts
        );
        assert!(cut.bytes <= whole.bytes && cut.bytes > whole.bytes * 9 / 10);
        // A dictionary belongs to the rows that it was begun for.
        let rows = sizes.iter().copied().max().unwrap();
        assert!(
            (11..=25).contains(&cut.count()) && rows <= 80,
            "{has_index}, {dictionary_bytes:?}: {sizes:?}"
        );
        assert_eq!(dataset.blocks_of_at_most(whole.bytes).unwrap(), whole);
        of_writers.push(sizes);
    }
    assert_eq!((&of_writers[0], &of_writers[2]), (&of_writers[1], &of_writers[3]));
}

#[test]
fn rows_that_are_read_alone_make_blocks_of_runs() {
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("rows.arrow")).unwrap();
    let mut writer = StreamWriter::try_new(file, &usual(1, None, |_| 0).schema()).unwrap();
    writer.write(&usual(300, None, |row| row as i64 % 3)).unwrap();
    writer.write(&usual(10, None, |row| row as i64 % 3)).unwrap();
    writer.finish().unwrap();
    let dataset = open(dir.path(), "train").unwrap();
    let blocks = dataset.blocks();
    assert_eq!((sizes(&blocks), blocks.access), (vec![128, 128, 44, 10], Access::ByRow));
    let images: usize = (0..dataset.len()).map(|row| dataset.encoded(row).unwrap().len()).sum();
    assert_eq!(blocks.bytes as usize, images);
    check(&dataset, &blocks, |row| row as usize);

    let folder = tempfile::tempdir().unwrap();
    for number in 0..150 {
        let name = format!("{}/{number:03}.jpg", ["ant", "bee"][number / 75]);
        write(&folder.path().join(name), format!("image {number:03}"));
    }
    let dataset = open(folder.path(), "train").unwrap();
    let blocks = dataset.blocks();
    assert_eq!((sizes(&blocks), blocks.bytes), (vec![128, 22], 150 * 9));
    check(&dataset, &blocks, |row| number(&dataset, row));
}
