//! Which leaf columns of a Parquet file hold the images and the labels.
//!
//! A struct column has a leaf for each of its fields. Source: the Parquet format, "Nested Encoding" and "Logical Types".

use std::path::Path;

use parquet::arrow::parquet_to_arrow_schema;
use parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use parquet::file::metadata::ParquetMetaData;
use parquet::schema::types::ColumnDescriptor;

use super::features::{Chosen, Columns, Features, StoredColumn, StoredKind};
use super::parquet_file::guarded;
use crate::error::Result;

/// The columns that are read, by name and as leaves.
pub(super) struct ParquetColumns {
    pub chosen: Chosen,
    /// Columns that are not read.
    pub others: Vec<String>,
    pub label: usize,
    pub image_bytes: Option<usize>,
    pub image_path: Option<usize>,
}

impl ParquetColumns {
    /// `features` are those declared outside of the file; its own come first. `path` is named in errors.
    pub fn find(
        metadata: &ParquetMetaData,
        columns: &Columns,
        features: Option<&Features>,
        path: &Path,
    ) -> Result<Self> {
        let own_features = declared(metadata);
        let features = own_features.as_ref().or(features).cloned().unwrap_or_default();

        let schema = metadata.file_metadata().schema_descr();
        let roots = schema.root_schema().get_fields();
        let leaves_of =
            |root: usize| (0..schema.num_columns()).filter(move |&leaf| schema.get_column_root_idx(leaf) == root);
        let leaf_of = |root: usize, path: &[&str]| {
            leaves_of(root).find(|&leaf| schema.column(leaf).path().parts()[1..].iter().eq(path.iter()))
        };
        let stored: Vec<StoredColumn> = (0..roots.len())
            .map(|root| StoredColumn {
                name: roots[root].name().to_owned(),
                kind: match leaves_of(root).next() {
                    Some(leaf) if schema.column(leaf).path().parts().len() == 1 => kind_of(&schema.column(leaf)),
                    Some(_) => match (leaf_of(root, &["bytes"]), leaf_of(root, &["path"])) {
                        (Some(leaf), _) if kind_of(&schema.column(leaf)) == StoredKind::Binary => {
                            StoredKind::ImageStruct
                        }
                        (None, Some(leaf)) if kind_of(&schema.column(leaf)) == StoredKind::Text => {
                            StoredKind::ImageStruct
                        }
                        _ => StoredKind::Other,
                    },
                    None => StoredKind::Other,
                },
            })
            .collect();
        let chosen = features.choose(&stored, columns, path)?;
        let place = |name: &str| {
            stored
                .iter()
                .position(|column| column.name == name && column.kind != StoredKind::Other)
                .expect("chosen from these")
        };

        let image = place(&chosen.image);
        let (image_bytes, image_path) = match stored[image].kind {
            StoredKind::Binary => (leaf_of(image, &[]), None),
            StoredKind::Text => (None, leaf_of(image, &[])),
            _ => (
                leaf_of(image, &["bytes"]),
                leaf_of(image, &["path"]).filter(|&leaf| kind_of(&schema.column(leaf)) == StoredKind::Text),
            ),
        };
        let label = leaf_of(place(&chosen.label), &[]).expect("a label column has no parts");

        let others = stored.into_iter().map(|column| column.name);
        let others = others
            .filter(|name| *name != chosen.image && *name != chosen.label)
            .collect();
        Ok(ParquetColumns {
            chosen,
            others,
            label,
            image_bytes,
            image_path,
        })
    }
}

/// The column types that the file's metadata declare.
fn declared(metadata: &ParquetMetaData) -> Option<Features> {
    let entries = metadata.file_metadata().key_value_metadata()?;
    let value = |key: &str| {
        entries
            .iter()
            .find(|entry| entry.key == key)
            .and_then(|entry| entry.value.as_deref())
    };
    if let Some(text) = value("huggingface") {
        return Features::from_json(text);
    }
    // Writers that are not pyarrow keep the metadata of an Arrow schema only inside of it.
    value("ARROW:schema")?;
    let schema = guarded(|| parquet_to_arrow_schema(metadata.file_metadata().schema_descr(), Some(entries))).ok()?;
    schema
        .metadata()
        .get("huggingface")
        .and_then(|text| Features::from_json(text))
}

/// What a leaf column can serve for. Lists serve for nothing here.
fn kind_of(column: &ColumnDescriptor) -> StoredKind {
    use ConvertedType::*;
    if column.max_rep_level() > 0 {
        return StoredKind::Other;
    }
    match (
        column.physical_type(),
        column.logical_type_ref(),
        column.converted_type(),
    ) {
        (Physical::BYTE_ARRAY, Some(LogicalType::String | LogicalType::Enum), _) => StoredKind::Text,
        (Physical::BYTE_ARRAY, _, UTF8 | ENUM) => StoredKind::Text,
        (Physical::BYTE_ARRAY, None, NONE) => StoredKind::Binary,
        (Physical::BOOLEAN, ..) => StoredKind::Number,
        (Physical::INT32 | Physical::INT64, Some(LogicalType::Integer { .. }), _) => StoredKind::Number,
        (Physical::INT32 | Physical::INT64, None, NONE) => StoredKind::Number,
        (Physical::INT32 | Physical::INT64, None, INT_8 | INT_16 | INT_32 | INT_64) => StoredKind::Number,
        (Physical::INT32 | Physical::INT64, None, UINT_8 | UINT_16 | UINT_32 | UINT_64) => StoredKind::Number,
        _ => StoredKind::Other,
    }
}
