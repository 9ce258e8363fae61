//! Access to the fields of a config.json, and the ones about classes, which all models have.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::{Error, IoContext, Result};

/// `dir/config.json` and its path. Errors: no such file, no JSON.
pub(super) fn read(dir: &Path) -> Result<(Value, PathBuf)> {
    let path = dir.join("config.json");
    let text = std::fs::read_to_string(&path).at("read", &path)?;
    let json = serde_json::from_str(&text)
        .map_err(|e| Error::model(&path, format!("not valid JSON: {e}"), "download the checkpoint again"))?;
    Ok((json, path))
}

/// The file as it was, for a classifier of these classes.
pub(super) fn with_classes(json: &Value, classes: &[String], architecture: &str) -> Value {
    let mut json = json.clone();
    let Value::Object(fields) = &mut json else {
        unreachable!("a config without fields has no model_type");
    };
    let by_number = classes.iter().enumerate().map(|(i, name)| (i.to_string(), json!(name)));
    let by_name = classes.iter().enumerate().map(|(i, name)| (name.clone(), json!(i)));
    fields.insert("architectures".into(), json!([architecture]));
    fields.insert("id2label".into(), Value::Object(by_number.collect()));
    fields.insert("label2id".into(), Value::Object(by_name.collect()));
    fields.insert("problem_type".into(), json!("single_label_classification"));
    if fields.contains_key("num_labels") {
        fields.insert("num_labels".into(), json!(classes.len()));
    }
    json
}

/// Names out of id2label by number; without it as many as num_labels (2 by default, as transformers has it).
pub(super) fn class_names(json: &Value) -> Vec<String> {
    if let Some(Value::Object(map)) = json.get("id2label") {
        let mut named: Vec<(usize, String)> = map
            .iter()
            .filter_map(|(id, name)| Some((id.parse().ok()?, name.as_str()?.to_owned())))
            .collect();
        named.sort();
        return named.into_iter().map(|(_, name)| name).collect();
    }
    let n = json.get("num_labels").and_then(Value::as_u64).unwrap_or(2);
    (0..n).map(|i| format!("LABEL_{i}")).collect()
}

/// Typed access to fields; what is absent has transformers' default.
pub(super) struct Fields<'a> {
    pub json: &'a Value,
    pub path: &'a Path,
}

impl Fields<'_> {
    pub fn is(&self, name: &str, expected: &str, fix: &str) -> Result<()> {
        match self.json.get(name) {
            Some(Value::String(value)) if value == expected => Ok(()),
            None if name != "model_type" => Ok(()),
            None => Err(Error::model(self.path, format!("it has no {name}"), fix)),
            Some(other) => Err(Error::model(
                self.path,
                format!("{name} is {other}, not \"{expected}\""),
                fix,
            )),
        }
    }

    pub fn is_zero(&self, name: &str, fix: &str) -> Result<()> {
        match self.number(name, 0.0)? {
            0.0 => Ok(()),
            other => Err(Error::model(self.path, format!("{name} is {other}, not 0"), fix)),
        }
    }

    pub fn number(&self, name: &str, default: f64) -> Result<f64> {
        match self.json.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| self.nonsense(name, value)),
        }
    }

    pub fn count(&self, name: &str, default: usize) -> Result<usize> {
        match self.json.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => self.positive(name, value),
        }
    }

    /// One number for both, or [height, width].
    pub fn pair(&self, name: &str, default: usize) -> Result<[usize; 2]> {
        match self.json.get(name) {
            None | Some(Value::Null) => Ok([default; 2]),
            Some(value @ Value::Array(two)) => match two.as_slice() {
                [height, width] => Ok([self.positive(name, height)?, self.positive(name, width)?]),
                _ => Err(self.nonsense(name, value)),
            },
            Some(value) => Ok([self.positive(name, value)?; 2]),
        }
    }

    fn positive(&self, name: &str, value: &Value) -> Result<usize> {
        match value.as_u64() {
            Some(n) if n > 0 => Ok(n as usize),
            _ => Err(self.nonsense(name, value)),
        }
    }

    fn nonsense(&self, name: &str, value: &Value) -> Error {
        Error::model(self.path, format!("{name} cannot be {value}"), "check config.json")
    }

    /// A list of counts.
    pub fn counts(&self, name: &str, default: &[usize]) -> Result<Vec<usize>> {
        match self.json.get(name) {
            None | Some(Value::Null) => Ok(default.to_vec()),
            Some(Value::Array(list)) => list.iter().map(|value| self.positive(name, value)).collect(),
            Some(other) => Err(self.nonsense(name, other)),
        }
    }
}
