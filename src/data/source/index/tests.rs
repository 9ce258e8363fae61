//! An index gives what the files give, or is not used: stale, damaged, unreadable, nowhere to write.

use std::os::unix::fs::PermissionsExt;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch};
use arrow::ipc::writer::StreamWriter;

use super::*;
use crate::data::source::layout::Layout;
use crate::data::source::opened::Opened;
use crate::data::source::place::Source;
use crate::data::source::shard::Shard;
use crate::data::{DemoDataset, DemoSubject, write_demo_dataset};
use crate::error::Result;

/// A dataset of two shards, and a cache of its own.
struct Place {
    dataset: tempfile::TempDir,
    cache: tempfile::TempDir,
}

/// What opening a dataset gave.
#[derive(Debug, PartialEq)]
struct Seen {
    classes: Vec<String>,
    labels: Vec<u32>,
    stretches: Vec<Stretch>,
    /// Shards that were found in the index.
    known: usize,
}

impl Place {
    fn new() -> Place {
        let place = Place {
            dataset: tempfile::tempdir().unwrap(),
            cache: tempfile::tempdir().unwrap(),
        };
        place.write(DemoSubject::FineTuning, 40);
        place
    }

    fn write(&self, subject: DemoSubject, train_rows: usize) {
        let demo = DemoDataset {
            train_rows,
            validation_rows: 8,
            ..DemoDataset::new(subject)
        };
        write_demo_dataset(self.dataset.path(), &demo).unwrap();
    }

    fn folder(&self) -> PathBuf {
        self.cache.path().join("dtrain/index")
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder()).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    fn open(&self) -> Seen {
        self.try_open(1).unwrap()
    }

    fn try_open(&self, from_rows: usize) -> Result<Seen> {
        let columns = Columns::default();
        let layout = Layout::discover(&Source::local(self.dataset.path()))?;
        let features = layout.features.clone();
        let index = Index::within(
            Some(&self.folder()),
            &layout.root,
            &columns,
            features.as_ref(),
            from_rows,
        );
        let mut opened = Opened::with_index(layout, &columns, index)?;
        let rows = opened.open_split("train", None)?;
        let tables = || {
            opened.shards.iter().map(|shard| match shard {
                Shard::Table(shard) => shard,
                Shard::Folder(_) => panic!("there are no folders here"),
            })
        };
        let known = tables().filter(|shard| shard.known_labels().is_some()).count();
        let stretches = tables().flat_map(|shard| shard.stretches.to_vec()).collect();
        opened.classes = opened.class_names()?;
        let labels = opened.labels(&[rows])?;
        opened.index.keep();
        // An image comes from a file that the index leaves closed.
        let image = opened.shards[0].encoded(0, &opened.layout.root, 0, &opened.pages)?;
        assert!(!image.is_empty());
        Ok(Seen {
            classes: opened.classes.clone(),
            labels,
            stretches,
            known,
        })
    }
}

fn with_known(seen: Seen, known: usize) -> Seen {
    Seen { known, ..seen }
}

#[test]
fn a_second_opening_finds_everything_in_the_index() {
    let place = Place::new();
    let first = place.open();
    assert_eq!((first.known, first.labels.len(), place.files().len()), (0, 40, 1));
    assert_eq!(place.open(), with_known(first, 2));
}

#[test]
fn small_datasets_have_none() {
    let place = Place::new();
    for _ in 0..2 {
        assert_eq!(place.try_open(41).unwrap().known, 0);
        assert!(place.files().is_empty());
    }
}

#[test]
fn a_changed_file_is_looked_into_again() {
    let place = Place::new();
    place.open();
    // Of other classes, and of another number of rows: the files are new in either case.
    place.write(DemoSubject::BaseModel, 40);
    let seen = place.open();
    assert_eq!(
        (seen.known, seen.classes[0].as_str(), seen.labels.len()),
        (0, "bars", 40)
    );
    place.write(DemoSubject::BaseModel, 48);
    assert_eq!((place.open().labels.len(), place.open().known), (48, 2));
    // The same bytes under another time count as another file: only what was not touched is known.
    let shard = place.dataset.path().join("data/train-00001-of-00002.parquet");
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, bytes).unwrap();
    assert_eq!(place.open().known, 1);
}

#[test]
fn a_damaged_index_is_made_anew() {
    let place = Place::new();
    let first = place.open();
    let file = place.files().remove(0);
    let good = std::fs::read(&file).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let version = [b"dtrain index 0\n", &good[MAGIC.len()..]].concat();
    for bad in [
        &good[..good.len() - 1],
        &good[..40],
        b"",
        &flipped,
        &version,
        b"no index at all",
    ] {
        std::fs::write(&file, bad).unwrap();
        let seen = place.open();
        assert_eq!(
            seen,
            Seen {
                known: 0,
                ..first_like(&first)
            }
        );
        assert_eq!(place.open().known, 2, "it was written again");
    }
}

fn first_like(seen: &Seen) -> Seen {
    Seen {
        classes: seen.classes.clone(),
        labels: seen.labels.clone(),
        stretches: seen.stretches.clone(),
        known: 0,
    }
}

/// A hash that is right says nothing about what a file with it claims.
#[test]
fn an_index_that_contradicts_itself_is_not_used() {
    let place = Place::new();
    place.open();
    let file = place.files().remove(0);
    let good = std::fs::read(&file).unwrap();
    let content = String::from_utf8_lossy(&good[..good.len() - HASH_BYTES]).into_owned();
    for (from, to) in [
        ("\"rows\":20", "\"rows\":21"),
        ("\"classes\":0", "\"classes\":7"),
        ("\"label_bytes\":20", "\"label_bytes\":90"),
    ] {
        assert!(content.contains(from), "{content}");
        let mut bad = content.replacen(from, to, 1).into_bytes();
        bad.extend_from_slice(digest(&SHA256, &bad.clone()).as_ref());
        std::fs::write(&file, &bad).unwrap();
        assert_eq!(place.open().known, 0, "{to}");
    }
}

#[test]
fn a_file_that_changes_after_it_was_indexed_is_an_error_and_no_wrong_picture() {
    let place = Place::new();
    place.open();
    let layout = Layout::discover(&Source::local(place.dataset.path())).unwrap();
    let features = layout.features.clone();
    let columns = Columns::default();
    let index = Index::within(Some(&place.folder()), &layout.root, &columns, features.as_ref(), 1);
    let mut opened = Opened::with_index(layout, &columns, index).unwrap();
    opened.open_split("train", None).unwrap();
    place.write(DemoSubject::FineTuning, 48);
    let error = opened.shards[0]
        .encoded(0, &opened.layout.root, 0, &opened.pages)
        .unwrap_err();
    assert!(error.to_string().contains("has changed"), "{error}");
}

#[test]
fn without_a_place_to_write_datasets_open_all_the_same() {
    let place = Place::new();
    let first = place.open();
    std::fs::remove_dir_all(place.folder()).unwrap();
    // A file where the folder should be: nobody can write below it, not even root.
    std::fs::write(place.folder(), "").unwrap();
    assert_eq!(place.open(), first_like(&first));
    std::fs::remove_file(place.folder()).unwrap();
    // An index that nobody may read, and a folder that nobody may change.
    place.open();
    let file = place.files().remove(0);
    let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(&file, 0o000);
    mode(&place.folder(), 0o555);
    assert_eq!(place.open().labels, first.labels);
    mode(&place.folder(), 0o755);
    assert_eq!(place.files().len(), 1);
}

#[test]
fn arrow_files_are_indexed_too() {
    let place = Place::new();
    std::fs::remove_dir_all(place.dataset.path().join("data")).unwrap();
    std::fs::remove_file(place.dataset.path().join("README.md")).unwrap();
    let batch = |from: i64, rows: i64| {
        let images: Vec<&[u8]> = (0..rows).map(|_| b"\xff\xd8\xff picture".as_slice()).collect();
        let images: ArrayRef = Arc::new(BinaryArray::from(images));
        let labels: ArrayRef = Arc::new(Int64Array::from_iter_values((from..from + rows).map(|row| row % 300)));
        RecordBatch::try_from_iter([("image", images), ("label", labels)]).unwrap()
    };
    for number in 0..2 {
        let file = std::fs::File::create(place.dataset.path().join(format!("{number}.arrow"))).unwrap();
        let mut writer = StreamWriter::try_new(file, &batch(0, 1).schema()).unwrap();
        writer.write(&batch(number * 300, 200)).unwrap();
        writer.write(&batch(number * 300 + 200, 100)).unwrap();
        writer.finish().unwrap();
    }
    let first = place.open();
    assert_eq!((first.known, first.labels[599], first.classes.len()), (0, 299, 300));
    let bytes = "\u{d8} picture".len() as u64 + 1;
    assert_eq!(
        first.stretches[..2],
        [200, 100].map(|rows| Stretch {
            rows,
            bytes: bytes * rows as u64
        })
    );
    assert_eq!(place.open(), with_known(first, 2));
}
