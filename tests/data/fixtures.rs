//! Datasets made on the spot, and what tests ask of a dataset.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Fields, Schema};
use dtrain::data::{Columns, Dataset};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

/// Metadata of an Image column `image` and a ClassLabel column `label`.
pub fn features(classes: &[&str]) -> String {
    serde_json::json!({"info": {"features": {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": classes},
    }}})
    .to_string()
}

/// `n` images that are none, each of them different: "image 3 …", the longer the higher the number.
pub fn images(n: usize) -> Vec<Option<Vec<u8>>> {
    (0..n)
        .map(|i| Some(format!("image {i} {}", "x".repeat(i % 50)).into_bytes()))
        .collect()
}

/// A struct column of bytes and paths, as datasets stores images.
pub fn image_column(bytes: &[Option<Vec<u8>>], paths: &[Option<&str>]) -> ArrayRef {
    let fields = Fields::from(vec![
        Field::new("bytes", DataType::Binary, true),
        Field::new("path", DataType::Utf8, true),
    ]);
    let bytes = BinaryArray::from_iter(bytes.iter().map(|bytes| bytes.as_deref()));
    let paths = StringArray::from_iter(paths.iter().copied());
    Arc::new(StructArray::new(fields, vec![Arc::new(bytes), Arc::new(paths)], None))
}

/// Columns under their names, with the metadata key `huggingface` if there is something to say.
pub fn batch(columns: &[(&str, ArrayRef)], huggingface: Option<&str>) -> RecordBatch {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, column)| Field::new(*name, column.data_type().clone(), true))
        .collect();
    let metadata = huggingface.map(|text| ("huggingface".to_owned(), text.to_owned()));
    let schema = Schema::new(fields).with_metadata(metadata.into_iter().collect::<std::collections::HashMap<_, _>>());
    RecordBatch::try_new(
        Arc::new(schema),
        columns.iter().map(|(_, column)| column.clone()).collect(),
    )
    .unwrap()
}

/// The usual columns: `n` images, labels from a function of the row.
pub fn usual(n: usize, huggingface: Option<&str>, label: impl Fn(usize) -> i64) -> RecordBatch {
    let labels = arrow::array::Int64Array::from_iter_values((0..n).map(label));
    let columns: [(&str, ArrayRef); 2] = [
        ("image", image_column(&images(n), &vec![None; n])),
        ("label", Arc::new(labels)),
    ];
    batch(&columns, huggingface)
}

/// Small pages and row groups, so that few rows make many of both.
pub fn small_pages(compression: Compression) -> WriterProperties {
    WriterProperties::builder()
        .set_compression(compression)
        .set_max_row_group_row_count(Some(40))
        .set_data_page_size_limit(300)
        .set_dictionary_page_size_limit(200)
        .set_write_batch_size(4)
        .build()
}

pub fn write_parquet(path: &Path, batch: &RecordBatch) {
    write_parquet_as(path, batch, small_pages(Compression::SNAPPY));
}

pub fn write_parquet_as(path: &Path, batch: &RecordBatch, properties: WriterProperties) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

pub fn write(path: &Path, text: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

pub fn open(path: &Path, split: &str) -> dtrain::error::Result<Dataset> {
    Dataset::open(path, split, &Columns::default())
}

/// The message of the error that opening must end in, which must say what to do.
pub fn refusal(path: &Path, split: &str) -> String {
    refusal_of(open(path, split))
}

pub fn refusal_of(opened: dtrain::error::Result<Dataset>) -> String {
    let message = opened.expect_err("this dataset must not open").to_string();
    assert!(message.contains("to do:"), "{message}");
    message
}

pub fn labels(dataset: &Dataset) -> Vec<u32> {
    (0..dataset.len()).map(|row| dataset.label(row)).collect()
}

pub fn texts(dataset: &Dataset) -> Vec<String> {
    let text = |row| String::from_utf8(dataset.encoded(row).unwrap().to_vec()).unwrap();
    (0..dataset.len()).map(text).collect()
}

/// A number that every label and every image, in their order, have a part in; the same in Python:
/// `h = (h * 1000003 + label * 31 + len(b) + b[len(b) // 2]) % 2**64`.
pub fn fingerprint(dataset: &Dataset) -> u64 {
    (0..dataset.len()).fold(0u64, |h, row| {
        let bytes = dataset.encoded(row).unwrap();
        let own = dataset.label(row) as u64 * 31 + bytes.len() as u64 + bytes[bytes.len() / 2] as u64;
        h.wrapping_mul(1_000_003).wrapping_add(own)
    })
}
