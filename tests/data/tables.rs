//! Columns of Parquet shards: how they are found, and how images and labels may be stored.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Int32Array, Int64Array, LargeBinaryArray, StringArray, UInt8Array,
};
use dtrain::data::{Columns, Dataset};
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterVersion};

use super::fixtures::*;

#[test]
fn every_page_layout_gives_the_same_rows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let batch = usual(150, Some(&features(&["a", "b", "c"])), |row| (row % 3) as i64);
    let version_2 = |builder: WriterProperties| builder.into_builder().set_writer_version(WriterVersion::PARQUET_2_0);
    let layouts = [
        small_pages(Compression::SNAPPY),
        small_pages(Compression::UNCOMPRESSED),
        small_pages(Compression::ZSTD(ZstdLevel::default())),
        small_pages(Compression::GZIP(GzipLevel::default())),
        small_pages(Compression::LZ4_RAW),
        version_2(small_pages(Compression::SNAPPY)).build(),
        version_2(small_pages(Compression::UNCOMPRESSED))
            .set_dictionary_enabled(false)
            .build(),
        WriterProperties::default(),
    ];
    let expected: Vec<String> = images(150)
        .into_iter()
        .map(|image| String::from_utf8(image.unwrap()).unwrap())
        .collect();
    for properties in layouts {
        write_parquet_as(&path, &batch, properties.clone());
        let dataset = open(&path, "train").unwrap();
        assert_eq!(texts(&dataset), expected, "{properties:?}");
        assert_eq!(labels(&dataset), (0..150).map(|row| row % 3).collect::<Vec<_>>());
        // Backwards, and only one row, from a fresh start.
        let dataset = open(&path, "train").unwrap();
        assert_eq!(dataset.encoded(149).unwrap(), expected[149].as_bytes());
        let dataset = open(&path, "train[45:46]").unwrap();
        assert_eq!(texts(&dataset), [expected[45].clone()]);
        assert_eq!(dataset.origin(0), "x.parquet row 45");
    }
}

#[test]
fn labels_may_be_numbers_of_any_width_names_or_flags() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let open_with = |label: ArrayRef, huggingface: Option<&str>| {
        let image: ArrayRef = Arc::new(BinaryArray::from_iter_values(images(4).iter().flatten()));
        write_parquet(
            &path,
            &batch(
                &[
                    ("img", image),
                    ("labels", label),
                    ("id", Arc::new(Int64Array::from(vec![9; 4]))),
                ],
                huggingface,
            ),
        );
        let dataset = open(&path, "train").unwrap();
        assert_eq!(dataset.describe().ignored_columns, ["id"]);
        (dataset.classes().to_vec(), labels(&dataset))
    };
    let numbers = (
        vec!["0", "1", "2"].into_iter().map(str::to_owned).collect::<Vec<_>>(),
        vec![2, 0, 1, 2],
    );
    assert_eq!(open_with(Arc::new(Int32Array::from(vec![2, 0, 1, 2])), None), numbers);
    assert_eq!(open_with(Arc::new(UInt8Array::from(vec![2, 0, 1, 2])), None), numbers);
    let names = open_with(Arc::new(StringArray::from(vec!["wolf", "ape", "cat", "wolf"])), None);
    assert_eq!(
        names,
        (vec!["ape".into(), "cat".into(), "wolf".into()], vec![2, 0, 1, 2])
    );
    let flags = open_with(Arc::new(BooleanArray::from(vec![true, false, false, true])), None);
    assert_eq!(flags, (vec!["0".into(), "1".into()], vec![1, 0, 0, 1]));
    let text = r#"{"info":{"features":{"labels":{"_type":"ClassLabel","names":["x","y","z","never"]}}}}"#;
    let (classes, found) = open_with(Arc::new(Int64Array::from(vec![2, 0, 1, 2])), Some(text));
    assert_eq!((classes.len(), found), (4, vec![2, 0, 1, 2]));
}

#[test]
fn undeclared_classes_are_those_of_all_splits() {
    let dir = tempfile::tempdir().unwrap();
    let names = |names: &[&str]| {
        let label: ArrayRef = Arc::new(StringArray::from(names.to_vec()));
        batch(
            &[
                ("image", image_column(&images(names.len()), &vec![None; names.len()])),
                ("label", label),
            ],
            None,
        )
    };
    write_parquet(&dir.path().join("train.parquet"), &names(&["c", "a"]));
    write_parquet(&dir.path().join("test.parquet"), &names(&["b", "c"]));
    assert_eq!(labels(&open(dir.path(), "train").unwrap()), [2, 0]);
    let test = open(dir.path(), "test").unwrap();
    assert_eq!((labels(&test), test.classes().len()), (vec![1, 2], 3));
    assert_eq!(test.describe().classes[0], ("a".to_owned(), 0));
}

#[test]
fn columns_are_taken_from_the_readme_where_shards_say_nothing() {
    let dir = tempfile::tempdir().unwrap();
    write(
        &dir.path().join("README.md"),
        "---\ndataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n      \
         class_label:\n        names:\n          '0': no\n          '1': yes\n---\n",
    );
    write_parquet(
        &dir.path().join("data/train-00000-of-00001.parquet"),
        &usual(4, None, |row| (row % 2) as i64),
    );
    assert_eq!(open(dir.path(), "train").unwrap().classes(), ["no", "yes"]);
}

#[test]
fn columns_are_chosen_by_the_user() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let thumb: ArrayRef = Arc::new(LargeBinaryArray::from_iter_values([b"t0", b"t1"]));
    let fine: ArrayRef = Arc::new(Int64Array::from(vec![5, 6]));
    let label: ArrayRef = Arc::new(Int64Array::from(vec![0, 1]));
    let image = image_column(&images(2), &[None, None]);
    write_parquet(
        &path,
        &batch(
            &[("image", image), ("thumb", thumb), ("label", label), ("fine", fine)],
            None,
        ),
    );
    let columns = |image: &str, label: &str| Columns {
        image: Some(image.to_owned()),
        label: Some(label.to_owned()),
    };
    let dataset = Dataset::open(&path, "train", &columns("thumb", "fine")).unwrap();
    assert_eq!(
        (texts(&dataset), labels(&dataset)),
        (vec!["t0".into(), "t1".into()], vec![5, 6])
    );
    assert_eq!(dataset.describe().ignored_columns, ["image", "label"]);
    let message = refusal_of(Dataset::open(&path, "train", &columns("photo", "fine")));
    assert!(
        message.contains("no column `photo`") && message.contains("thumb, label"),
        "{message}"
    );
    let message = refusal_of(Dataset::open(&path, "train", &columns("label", "fine")));
    assert!(message.contains("cannot hold images"), "{message}");
}

#[test]
fn images_outside_of_the_shard_are_found_by_their_path() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("pictures/a.jpg"), "picture a");
    write(&dir.path().join("data/b.jpg"), "picture b");
    let bytes = [None, Some(b"inside".to_vec()), None, None, None];
    let paths = [
        Some("pictures/a.jpg"),
        Some("pictures/a.jpg"),
        Some("b.jpg"),
        Some("gone.jpg"),
        None,
    ];
    let label: ArrayRef = Arc::new(Int64Array::from(vec![0; 5]));
    let batch = batch(
        &[("image", image_column(&bytes, &paths)), ("label", label)],
        Some(&features(&["only"])),
    );
    write_parquet(&dir.path().join("data/train-00000-of-00001.parquet"), &batch);
    let dataset = open(dir.path(), "train").unwrap();
    let three = texts(&dataset.select(&[0, 1, 2]));
    assert_eq!(three, ["picture a", "inside", "picture b"]);
    for (row, word) in [(3, "gone.jpg"), (4, "neither")] {
        let error = dataset.encoded(row).unwrap_err();
        let place = format!("image data/train-00000-of-00001.parquet row {row}: ");
        assert!(matches!(error, dtrain::error::Error::Image { .. }));
        assert!(
            error.to_string().starts_with(&place) && error.to_string().contains(word),
            "{error}"
        );
    }
}

#[test]
fn labels_out_of_range_name_their_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let bad = |label: Option<i64>, huggingface: Option<&str>| {
        let values = (0..90).map(|row| if row == 77 { label } else { Some(row % 2) });
        let label: ArrayRef = Arc::new(Int64Array::from_iter(values));
        write_parquet(
            &path,
            &batch(
                &[("image", image_column(&images(90), &vec![None; 90])), ("label", label)],
                huggingface,
            ),
        );
        assert_eq!(open(&path, "train[:77]").unwrap().len(), 77, "the rows before are good");
        refusal(&path, "train[10:]")
    };
    let two = features(&["a", "b"]);
    for (label, word) in [
        (Some(2), "is 2, but classes go from 0 to 1"),
        (Some(-1), "-1, which means unknown"),
        (None, "missing"),
    ] {
        let message = bad(label, Some(&two));
        assert!(
            message.contains("x.parquet row 77") && message.contains(word),
            "{message}"
        );
    }
    let message = bad(Some(-1), None);
    assert!(message.contains("row 77") && message.contains("unknown"), "{message}");
    let message = bad(Some(i64::MAX), Some(&two));
    assert!(message.contains("row 77"), "{message}");
}
