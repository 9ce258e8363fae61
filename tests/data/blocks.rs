//! Which rows lie together: row groups, runs of record batches, runs of files.

use arrow::ipc::writer::StreamWriter;
use dtrain::data::{Access, Blocks, Dataset};

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
