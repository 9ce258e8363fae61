//! Arrow: a directory that datasets 5.2.0 wrote with `save_to_disk`, and files of other writers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, StringArray, StructArray, UInt8Array};
use arrow::ipc::writer::{FileWriter, StreamWriter};

use super::fixtures::*;

fn saved() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/saved")
}

#[test]
fn what_save_to_disk_wrote_is_read() {
    let train = open(&saved(), "train").unwrap();
    assert_eq!(labels(&train), [0, 2, 1, 0, 2, 1, 0]);
    assert_eq!(train.classes(), ["ant", "bee", "cow"]);
    assert_eq!(train.describe().ignored_columns, ["note"]);
    assert_eq!(train.origin(4), "train/data-00001-of-00002.arrow row 0");
    let test = open(&saved(), "eval").unwrap();
    assert_eq!(labels(&test), [1, 0, 2]);
    // Image i is PNG of 4 x 4 pixels whose first value is i, or 100 + i.
    for (dataset, first) in [(&train, 0u8), (&test, 100)] {
        for row in 0..dataset.len() {
            let png = dataset.encoded(row).unwrap();
            let pixels = dtrain::data::decode(&png).unwrap();
            assert_eq!(
                (pixels.width, pixels.height, pixels.rgb_hwc[0]),
                (4, 4, first + row as u8)
            );
        }
    }
    let splits = train.describe().splits;
    assert_eq!(
        splits.iter().map(|split| split.rows).collect::<Vec<_>>(),
        [Some(7), Some(3)]
    );
}

#[test]
fn one_split_alone_is_a_training_split() {
    let train = open(&saved().join("train"), "train[5:]").unwrap();
    assert_eq!(labels(&train), [1, 0]);
    let file = open(&saved().join("test/data-00000-of-00001.arrow"), "train").unwrap();
    assert_eq!(labels(&file), [1, 0, 2]);
}

#[test]
fn missing_and_strange_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let copy = |name: &str| write(&dir.path().join(name), std::fs::read(saved().join(name)).unwrap());
    for name in [
        "dataset_dict.json",
        "train/state.json",
        "train/dataset_info.json",
        "test/state.json",
    ] {
        copy(name);
    }
    assert!(refusal(dir.path(), "train").contains("shard data-00000-of-00002.arrow is missing"));
    let state = |text: &str| write(&dir.path().join("train/state.json"), text);
    state(r#"{"_data_files": [{"filename": "../../secret.arrow"}]}"#);
    assert!(refusal(dir.path(), "train").contains("outside the dataset"));
    state(r#"{"_data_files": [], "_indices_data_files": [{"filename": "indices.arrow"}]}"#);
    assert!(refusal(dir.path(), "train").contains("flatten_indices"));
    for text in ["", "{}", r#"{"_data_files": [{}]}"#, r#"{"_data_files": 5}"#] {
        state(text);
        assert!(refusal(dir.path(), "train").contains("state.json"), "{text}");
    }
}

/// Nulls, several batches, columns of many types before those that count, and a batch that is a slice of a larger one.
#[test]
fn other_arrow_files_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let rows = 20;
    let bytes: Vec<_> = images(rows)
        .into_iter()
        .enumerate()
        .map(|(row, image)| image.filter(|_| row % 5 != 3))
        .collect();
    let paths: Vec<_> = (0..rows)
        .map(|row| (row % 5 == 3 && row != 8).then_some("beside.png"))
        .collect();
    let image = image_column(&bytes, &paths);
    let image = image.as_any().downcast_ref::<StructArray>().unwrap();
    let valid = (0..rows).map(|row| row != 11).collect::<Vec<_>>();
    let (fields, columns, _) = image.clone().into_parts();
    let image: ArrayRef = Arc::new(StructArray::new(fields, columns, Some(valid.into())));
    let list: ArrayRef = Arc::new(arrow::array::ListArray::from_iter_primitive::<
        arrow::datatypes::Int32Type,
        _,
        _,
    >((0..rows).map(|row| Some(vec![Some(row as i32); row % 3]))));
    let nothing: ArrayRef = Arc::new(arrow::array::NullArray::new(rows));
    let label: ArrayRef = Arc::new(UInt8Array::from_iter_values((0..rows).map(|row| row as u8 % 4)));
    let names: ArrayRef = Arc::new(StringArray::from_iter(
        (0..rows).map(|row| (row != 2).then(|| format!("n{}", row % 3))),
    ));
    let columns = [
        ("list", list),
        ("nothing", nothing),
        ("image", image),
        ("label", label),
        ("fine_label", names),
    ];
    let batch = batch(&columns, None);
    write(&dir.path().join("beside.png"), "beside");

    let parts = [batch.slice(0, 7), batch.slice(7, 0), batch.slice(7, 13)];
    let stream = dir.path().join("stream.arrow");
    let mut writer = StreamWriter::try_new(std::fs::File::create(&stream).unwrap(), &batch.schema()).unwrap();
    parts.iter().for_each(|part| writer.write(part).unwrap());
    writer.finish().unwrap();
    let file = dir.path().join("file.arrow");
    let mut writer = FileWriter::try_new(std::fs::File::create(&file).unwrap(), &batch.schema()).unwrap();
    parts.iter().for_each(|part| writer.write(part).unwrap());
    writer.finish().unwrap();

    for path in [stream, file] {
        let dataset = open(&path, "train").unwrap();
        assert_eq!(
            labels(&dataset),
            (0..rows as u32).map(|row| row % 4).collect::<Vec<_>>()
        );
        for row in 0..rows {
            let found = dataset.encoded(row);
            match row {
                8 | 11 => assert!(found.unwrap_err().to_string().contains("neither"), "{row}"),
                row if row % 5 == 3 => assert_eq!(found.unwrap(), "beside"),
                row => assert_eq!(found.unwrap(), bytes[row].as_deref().unwrap(), "{row}"),
            }
        }
        let by_name = dtrain::data::Columns {
            image: None,
            label: Some("fine_label".into()),
        };
        let dataset = dtrain::data::Dataset::open(&path, "train[3:9]", &by_name).unwrap();
        assert_eq!((labels(&dataset), dataset.classes().len()), (vec![0, 1, 2, 0, 1, 2], 3));
        let message = refusal_of(dtrain::data::Dataset::open(&path, "train", &by_name));
        assert!(message.contains("row 2: the label is missing"), "{message}");
    }
}

#[test]
fn label_types_of_arrow() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.arrow");
    let labels_of = |label: ArrayRef| {
        let rows = label.len();
        let batch = batch(
            &[
                ("image", image_column(&images(rows), &vec![None; rows])),
                ("label", label),
            ],
            None,
        );
        let mut writer = StreamWriter::try_new(std::fs::File::create(&path).unwrap(), &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        open(&path, "train").map(|dataset| labels(&dataset))
    };
    let numbers = Int64Array::from(vec![3, 0, 1, 2, 2]);
    for data_type in [
        "Int8",
        "Int16",
        "Int32",
        "Int64",
        "UInt16",
        "UInt32",
        "UInt64",
        "Utf8",
        "LargeUtf8",
    ] {
        let label = arrow::compute::cast(&numbers, &data_type.parse().unwrap()).unwrap();
        assert_eq!(labels_of(label).unwrap(), [3, 0, 1, 2, 2], "{data_type}");
    }
    let label = arrow::compute::cast(&numbers, &"Float64".parse().unwrap()).unwrap();
    assert!(refusal_of(labels_of(label).map(|_| unreachable!())).contains("no label column"));
}
