//! Damaged files: whatever they hold, an error or rows come of it, never a panic of ours, and never more rows than there were.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::ipc::writer::StreamWriter;
use parquet::basic::Compression;

use super::fixtures::*;

/// Opens a file and reads all of it; true if everything went well.
fn read_all(path: &Path, at_most: usize) -> bool {
    let outcome = catch_unwind(AssertUnwindSafe(|| match open(path, "train") {
        Ok(dataset) => {
            assert!(dataset.len() <= at_most, "{} rows out of {at_most}", dataset.len());
            (0..dataset.len()).all(|row| {
                dataset.origin(row);
                dataset
                    .encoded(row)
                    .inspect_err(|error| assert!(!error.to_string().is_empty()))
                    .is_ok()
            })
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.contains("to do:"), "{message}");
            false
        }
    }));
    outcome.unwrap_or_else(|_| panic!("{} made dtrain panic", path.display()))
}

/// Cuts a good file at every place, and turns bits of it over, one at a time.
fn torture(path: &Path, rows: usize, a_cut_must_fail: impl Fn(usize) -> bool) {
    let good = std::fs::read(path).unwrap();
    assert!(read_all(path, rows));
    for length in (0..good.len()).step_by(good.len() / 400 + 1) {
        replace(path, &good[..length]);
        assert!(
            !read_all(path, rows) || !a_cut_must_fail(length),
            "cut to {length} of {} bytes",
            good.len()
        );
    }
    let mut worked = 0;
    for (number, place) in (0..good.len()).step_by(good.len() / 3000 + 1).enumerate() {
        let mut bad = good.clone();
        bad[place] ^= 1 << (number % 8);
        replace(path, &bad);
        worked += read_all(path, rows) as usize;
    }
    // A bit within an image, or within statistics, is nobody's business here.
    eprintln!("{}: {worked} files with one wrong bit were read", path.display());
    replace(path, &good);
    assert!(read_all(path, rows));
}

/// A new file each time: writing over an old one makes some file systems wait for the disk.
fn replace(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn damaged_parquet_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    write_parquet(
        &path,
        &usual(60, Some(&features(&["a", "b", "c"])), |row| (row % 3) as i64),
    );
    torture(&path, 60, |_| true);
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(
        (0..60).map(|row| format!("name {}", row % 7)),
    ));
    let columns = [("image", image_column(&images(60), &[None; 60])), ("label", names)];
    write_parquet_as(&path, &batch(&columns, None), small_pages(Compression::UNCOMPRESSED));
    torture(&path, 60, |_| true);
}

#[test]
fn damaged_arrow_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.arrow");
    let batch = usual(30, Some(&features(&["a", "b", "c"])), |row| (row % 3) as i64);
    let mut writer = StreamWriter::try_new(std::fs::File::create(&path).unwrap(), &batch.schema()).unwrap();
    writer.write(&batch.slice(0, 20)).unwrap();
    writer.write(&batch.slice(20, 10)).unwrap();
    writer.finish().unwrap();
    torture(&path, 30, |_| true);
}

#[test]
fn messages_name_the_file_and_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("train.parquet");
    for (bytes, words) in [
        (&b""[..], "a file of 0 bytes"),
        (b"just some words, nothing else", "does not end as a Parquet file ends"),
        (
            b"<!DOCTYPE html><html>404</html>\xff\xff\xff\x00PAR1",
            "footer is longer than the file",
        ),
        (
            b"<!DOCTYPE html><html>404</html>\x08\x00\x00\x00PAR1",
            "footer cannot be read",
        ),
    ] {
        write(&path, bytes);
        let message = refusal(dir.path(), "train");
        assert!(
            message.contains("train.parquet") && message.contains(words),
            "{message}"
        );
    }
    let path = dir.path().join("x.arrow");
    for (bytes, words) in [
        (&b""[..], "ends without the mark"),
        (b"just some words, nothing else", "ends in the middle"),
        (b"\xff\xff\xff\xff\x08\0\0\0nonsense", "no Arrow file"),
        (b"\xff\xff\xff\xff\0\0\0\0", "no schema"),
    ] {
        write(&path, bytes);
        let message = refusal(&path, "train");
        assert!(message.contains("x.arrow") && message.contains(words), "{message}");
    }
}

/// A shard that breaks after opening, inside an image page: the rows of that page fail with their numbers, others do not.
#[test]
fn a_damaged_page_names_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let batch = usual(60, Some(&features(&["a"])), |_| 0);
    write_parquet_as(&path, &batch, small_pages(Compression::UNCOMPRESSED));
    let dataset = open(&path, "train").unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let middle = bytes.windows(9).position(|window| window == b"image 21 ").unwrap();
    let mut bad = bytes.clone();
    bad[middle - 60..middle].fill(0xff);
    std::fs::write(&path, bad).unwrap();
    let errors: Vec<(usize, String)> = (0..60)
        .filter_map(|row| Some((row, dataset.encoded(row).err()?.to_string())))
        .collect();
    assert!(!errors.is_empty() && errors.len() < 60);
    for (row, message) in errors {
        assert!(
            message.contains("x.parquet") && message.contains("rows") && message.contains("to do:"),
            "{row}: {message}"
        );
    }
}
