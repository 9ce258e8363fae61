//! Metadata files of image folders: file names and labels out of CSV, JSON lines or Parquet.

use std::path::Path;

use serde_json::Value;

use super::features::{Columns, LABEL_NAMES};
use super::parquet::ParquetShard;
use super::shard::Labels;
use crate::error::{Error, IoContext, Result};

/// The rows of a metadata file.
pub(super) struct Described {
    pub file_names: Vec<Option<String>>,
    pub labels: Labels,
    pub other_columns: Vec<String>,
}

pub(super) fn read(path: &Path, columns: &Columns) -> Result<Described> {
    let file_column = match columns.image.as_deref() {
        None | Some("image" | "file_name") => "file_name".to_owned(),
        Some(image) => format!("{image}_file_name"),
    };
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("csv") => csv(path, &file_column, columns),
        Some("jsonl") => json_lines(path, &file_column, columns),
        _ => parquet(path, &file_column, columns),
    }
}

fn parquet(path: &Path, file_column: &str, columns: &Columns) -> Result<Described> {
    let columns = Columns {
        image: Some(file_column.to_owned()),
        label: columns.label.clone(),
    };
    let shard = ParquetShard::open(path.to_owned(), &path.to_string_lossy(), &columns, None)?;
    Ok(Described {
        file_names: shard.paths()?,
        labels: shard.labels(0..shard.table.rows)?,
        other_columns: shard.table.other_columns,
    })
}

fn csv(path: &Path, file_column: &str, columns: &Columns) -> Result<Described> {
    let text = std::fs::read(path).at("read", path)?;
    let mut records = csv_records(&text).into_iter();
    let names = records.next().unwrap_or_default();
    let label_column = choose(path, &names, file_column, columns)?;
    let place = |name: &str| names.iter().position(|column| column == name);
    let (file_place, label_place) = (place(file_column), place(&label_column));
    let (mut file_names, mut texts) = (Vec::new(), Vec::new());
    for (row, record) in records.enumerate() {
        if record.len() != names.len() {
            return Err(Error::dataset(
                path,
                format!(
                    "row {row} has {} fields, but there are {} columns",
                    record.len(),
                    names.len()
                ),
                "correct the CSV file",
            ));
        }
        let field = |place: Option<usize>| record.get(place?).filter(|text| !text.is_empty()).cloned();
        file_names.push(field(file_place));
        texts.push(field(label_place));
    }
    // A column of numbers means class numbers; anything else in it makes it names.
    let numbers: Option<Vec<Option<i64>>> = texts
        .iter()
        .map(|text| text.as_ref().map(|text| text.parse()).transpose().ok())
        .collect();
    Ok(Described {
        file_names,
        labels: numbers.map_or(Labels::Names(texts), Labels::Numbers),
        other_columns: others(names, file_column, &label_column),
    })
}

/// The records of a CSV text; empty lines make none.
fn csv_records(mut text: &[u8]) -> Vec<Vec<String>> {
    use csv_core::ReadRecordResult::*;
    let mut reader = csv_core::Reader::new();
    let mut records = Vec::new();
    let (mut fields, mut ends) = (vec![0; text.len()], vec![0; 64]);
    let (mut fields_end, mut ends_end) = (0, 0);
    loop {
        let (result, read, written, ended) = reader.read_record(text, &mut fields[fields_end..], &mut ends[ends_end..]);
        text = &text[read..];
        fields_end += written;
        ends_end += ended;
        match result {
            // The next call has nothing to read, which ends the last record.
            InputEmpty => {}
            OutputFull => fields.resize(fields.len() * 2 + 1, 0),
            OutputEndsFull => ends.resize(ends.len() * 2, 0),
            Record => {
                let starts = std::iter::once(0).chain(ends[..ends_end].iter().copied());
                let ranges = starts.zip(&ends[..ends_end]);
                let field = |(start, &end): (usize, &usize)| String::from_utf8_lossy(&fields[start..end]).into_owned();
                records.push(ranges.map(field).collect());
                (fields_end, ends_end) = (0, 0);
            }
            End => return records,
        }
    }
}

fn json_lines(path: &Path, file_column: &str, columns: &Columns) -> Result<Described> {
    let text = std::fs::read_to_string(path).at("read", path)?;
    let broken =
        |row: usize, what: &str| Error::dataset(path, format!("row {row}: {what}"), "write one JSON object a line");
    let mut rows = Vec::new();
    for (row, line) in text
        .trim_start_matches('\u{feff}')
        .lines()
        .filter(|line| !line.trim().is_empty())
        .enumerate()
    {
        match serde_json::from_str(line) {
            Ok(Value::Object(object)) => rows.push(object),
            Ok(_) => return Err(broken(row, "it is not an object")),
            Err(error) => return Err(broken(row, &error.to_string())),
        }
    }
    let mut names: Vec<String> = rows.iter().flat_map(|row| row.keys().cloned()).collect();
    names.sort();
    names.dedup();
    let label_column = choose(path, &names, file_column, columns)?;
    let texts = rows
        .iter()
        .any(|row| matches!(row.get(&label_column), Some(Value::String(_))));
    let mut labels = match texts {
        true => Labels::Names(Vec::new()),
        false => Labels::Numbers(Vec::new()),
    };
    for (number, row) in rows.iter().enumerate() {
        let value = row.get(&label_column).unwrap_or(&Value::Null);
        let more = match value {
            Value::Null if texts => Labels::Names(vec![None]),
            Value::Null => Labels::Numbers(vec![None]),
            Value::String(text) => Labels::Names(vec![Some(text.clone())]),
            Value::Bool(flag) => Labels::Numbers(vec![Some((*flag).into())]),
            other => match other.as_i64() {
                Some(value) => Labels::Numbers(vec![Some(value)]),
                None => return Err(broken(number, &format!("{other} is not a label"))),
            },
        };
        labels
            .append(more)
            .ok_or_else(|| broken(number, &format!("{value} is a number among names")))?;
    }
    let file_names = rows
        .iter()
        .map(|row| row.get(file_column).and_then(Value::as_str).map(str::to_owned))
        .collect();
    Ok(Described {
        file_names,
        labels,
        other_columns: others(names, file_column, &label_column),
    })
}

/// The label column, once it is sure that there are file names.
fn choose(path: &Path, names: &[String], file_column: &str, columns: &Columns) -> Result<String> {
    let has = |name: &&str| names.iter().any(|column| column == *name);
    let listed = names.join(", ");
    if !has(&file_column) {
        return Err(Error::dataset(
            path,
            format!("there is no column {file_column}; the columns are: {listed}"),
            "call the column of the images' paths file_name",
        ));
    }
    let found = match &columns.label {
        Some(label) => has(&label.as_str()).then(|| label.clone()),
        None => LABEL_NAMES.iter().copied().find(|name| has(name)).map(str::to_owned),
    };
    found.ok_or_else(|| {
        Error::dataset(
            path,
            format!(
                "there is no column {}; the columns are: {listed}",
                columns.label.as_deref().unwrap_or("label")
            ),
            "name the label column with --label-column-name, or remove the file to take the directories as classes",
        )
    })
}

fn others(mut names: Vec<String>, file_column: &str, label_column: &str) -> Vec<String> {
    names.retain(|name| name != file_column && name != label_column);
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_has_quotes_line_ends_and_many_columns() {
        let records = csv_records("\u{feff}a,b\r\n\"x, \"\"y\"\"\nz\",1\n\n,\n".as_bytes());
        assert_eq!(records, [["a", "b"], ["x, \"y\"\nz", "1"], ["", ""]]);
        assert_eq!(csv_records(b"a,b\nlast,line"), [["a", "b"], ["last", "line"]]);
        assert!(csv_records(b"").is_empty());
        let wide = vec!["w"; 1000].join(",");
        assert_eq!(csv_records(wide.as_bytes())[0].len(), 1000);
    }
}
