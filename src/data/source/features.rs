//! Which column holds the images and which the labels, and what the labels are called.
//!
//! datasets writes the types of the columns into the schema metadata of every shard (key `huggingface`), into the README's
//! front matter and into `dataset_info.json`. Where none of them says anything, the usual names of columns decide.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};

/// The columns that the user names; `None` finds them by type and name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns {
    pub image: Option<String>,
    pub label: Option<String>,
}

/// The declared types of a dataset's columns, as far as they matter here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Features {
    columns: Vec<(String, Feature)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Feature {
    Image,
    /// With its class names, if it has any.
    ClassLabel(Vec<String>),
    Other,
}

/// A column of a shard as the file itself describes it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StoredColumn {
    pub name: String,
    pub kind: StoredKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoredKind {
    /// struct<bytes: binary, path: string>, or one of the two.
    ImageStruct,
    Binary,
    Text,
    /// Integers and booleans.
    Number,
    Other,
}

/// The columns that were chosen for a shard.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Chosen {
    pub image: String,
    pub label: String,
    /// Class names in the order of their numbers; `None` when nothing declares them.
    pub classes: Option<Vec<String>>,
}

const IMAGE_NAMES: [&str; 2] = ["image", "img"];
pub(super) const LABEL_NAMES: [&str; 3] = ["label", "labels", "fine_label"];

impl Features {
    /// Reads the value of the schema metadata key `huggingface`, or a `dataset_info.json`.
    pub fn from_json(text: &str) -> Option<Features> {
        let value: Value = serde_json::from_str(text).ok()?;
        let features = value.pointer("/info/features").or_else(|| value.get("features"))?;
        let columns = features.as_object()?.iter().map(|(name, feature)| {
            let kind = match feature.get("_type").and_then(Value::as_str) {
                Some("Image") => Feature::Image,
                Some("ClassLabel") => Feature::ClassLabel(class_names(feature)),
                _ => Feature::Other,
            };
            (name.clone(), kind)
        });
        Some(Features {
            columns: columns.collect(),
        })
    }

    /// Reads the list `dataset_info.features` of a README's front matter.
    pub fn from_card(features: &Value) -> Option<Features> {
        let columns = features.as_array()?.iter().filter_map(|feature| {
            let name = feature.get("name")?.as_str()?.to_owned();
            let kind = match feature.get("dtype") {
                Some(Value::String(dtype)) if dtype == "image" => Feature::Image,
                Some(dtype) => match dtype.get("class_label") {
                    Some(label) => Feature::ClassLabel(class_names(label)),
                    None => Feature::Other,
                },
                None => Feature::Other,
            };
            Some((name, kind))
        });
        Some(Features {
            columns: columns.collect(),
        })
    }

    fn of(&self, column: &str) -> Option<&Feature> {
        self.columns
            .iter()
            .find(|(name, _)| name == column)
            .map(|(_, feature)| feature)
    }

    /// Chooses the columns of a shard. `shard` is named in errors.
    pub(super) fn choose(&self, stored: &[StoredColumn], wanted: &Columns, shard: &Path) -> Result<Chosen> {
        use StoredKind::*;
        let image = Search {
            what: "image",
            flag: "--image-column-name",
            wanted: wanted.image.as_deref(),
            usual_names: &IMAGE_NAMES,
            usable: |kind| matches!(kind, ImageStruct | Binary),
            // An Image column may also hold nothing but paths, and a column that the user names too.
            usable_if_declared: |kind| matches!(kind, ImageStruct | Binary | Text),
            declared: |feature| matches!(feature, Feature::Image),
        };
        let label = Search {
            what: "label",
            flag: "--label-column-name",
            wanted: wanted.label.as_deref(),
            usual_names: &LABEL_NAMES,
            usable: |kind| matches!(kind, Number | Text),
            usable_if_declared: |kind| matches!(kind, Number | Text),
            declared: |feature| matches!(feature, Feature::ClassLabel(_)),
        };
        let image = image.run(self, stored, shard)?;
        let label = label.run(self, stored, shard)?;
        let classes = match self.of(&label) {
            Some(Feature::ClassLabel(names)) if !names.is_empty() => Some(names.clone()),
            _ => None,
        };
        Ok(Chosen { image, label, classes })
    }
}

/// How one column is found: by the user's word, by its declared type, by its name, as the only one of its kind.
struct Search<'a> {
    what: &'static str,
    flag: &'static str,
    wanted: Option<&'a str>,
    usual_names: &'static [&'static str],
    usable: fn(StoredKind) -> bool,
    usable_if_declared: fn(StoredKind) -> bool,
    declared: fn(&Feature) -> bool,
}

impl Search<'_> {
    fn run(&self, features: &Features, stored: &[StoredColumn], shard: &Path) -> Result<String> {
        let Search { what, flag, .. } = self;
        let present = || {
            let names: Vec<&str> = stored.iter().map(|column| column.name.as_str()).collect();
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            }
        };
        if let Some(wanted) = self.wanted {
            return match stored.iter().find(|column| column.name == wanted) {
                Some(column) if (self.usable_if_declared)(column.kind) => Ok(wanted.to_owned()),
                Some(_) => Err(Error::dataset(
                    shard,
                    format!("column `{wanted}` cannot hold {what}s: its type is not one that {what}s are stored in"),
                    format!("give another {flag}; the columns are: {}", present()),
                )),
                None => Err(Error::dataset(
                    shard,
                    format!("there is no column `{wanted}`"),
                    format!("give another {flag}; the columns are: {}", present()),
                )),
            };
        }

        let declared = |column: &&StoredColumn| {
            (self.usable_if_declared)(column.kind) && features.of(&column.name).is_some_and(self.declared)
        };
        let usable = |column: &&StoredColumn| (self.usable)(column.kind);
        for candidates in [
            stored.iter().filter(declared).collect::<Vec<_>>(),
            stored.iter().filter(usable).collect(),
        ] {
            let usual = self
                .usual_names
                .iter()
                .find_map(|name| candidates.iter().find(|column| column.name == *name));
            match (usual, candidates.as_slice()) {
                (Some(column), _) => return Ok(column.name.clone()),
                (None, [only]) if declared(only) || only.kind == StoredKind::ImageStruct => {
                    return Ok(only.name.clone());
                }
                (None, [first, .., last]) if declared(first) => {
                    return Err(Error::dataset(
                        shard,
                        format!("several {what} columns, from `{}` to `{}`", first.name, last.name),
                        format!("choose one with {flag}; the columns are: {}", present()),
                    ));
                }
                _ => {}
            }
        }
        Err(Error::dataset(
            shard,
            format!("there is no {what} column; the columns are: {}", present()),
            format!("name the {what} column with {flag}, or choose another dataset"),
        ))
    }
}

/// `names` as a list, or as a map from "0", "1", … as READMEs have it; without names, the numbers up to `num_classes`.
fn class_names(label: &Value) -> Vec<String> {
    match label.get("names") {
        Some(Value::Array(names)) => names.iter().map(scalar_text).collect(),
        Some(Value::Object(names)) => {
            let mut numbered: Vec<_> = names
                .iter()
                .filter_map(|(number, name)| Some((number.parse::<u32>().ok()?, scalar_text(name))))
                .collect();
            numbered.sort();
            numbered.into_iter().map(|(_, name)| name).collect()
        }
        _ => {
            let count = label.get("num_classes").and_then(Value::as_u64).unwrap_or(0);
            (0..count.min(1 << 20)).map(|number| number.to_string()).collect()
        }
    }
}

fn scalar_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(columns: &[(&str, StoredKind)]) -> Vec<StoredColumn> {
        let column = |&(name, kind): &(&str, StoredKind)| StoredColumn {
            name: name.to_owned(),
            kind,
        };
        columns.iter().map(column).collect()
    }

    fn choose(features: &Features, columns: &[(&str, StoredKind)], wanted: &Columns) -> Result<Chosen> {
        features.choose(&stored(columns), wanted, Path::new("x.parquet"))
    }

    fn named(image: Option<&str>, label: Option<&str>) -> Columns {
        Columns {
            image: image.map(str::to_owned),
            label: label.map(str::to_owned),
        }
    }

    #[test]
    fn declared_types_come_before_names() {
        let features = Features::from_json(
            r#"{"info":{"features":{"photo":{"_type":"Image"},"label":{"dtype":"string","_type":"Value"},
            "kind":{"names":["a","b"],"_type":"ClassLabel"}}}}"#,
        )
        .unwrap();
        let columns = [
            ("image", StoredKind::Binary),
            ("photo", StoredKind::ImageStruct),
            ("label", StoredKind::Text),
            ("kind", StoredKind::Number),
        ];
        let chosen = choose(&features, &columns, &Columns::default()).unwrap();
        assert_eq!((chosen.image.as_str(), chosen.label.as_str()), ("photo", "kind"));
        assert_eq!(chosen.classes.unwrap(), ["a", "b"]);
        let chosen = choose(&features, &columns, &named(Some("image"), Some("label"))).unwrap();
        assert_eq!((chosen.image.as_str(), chosen.label.as_str()), ("image", "label"));
        assert_eq!(chosen.classes, None);
    }

    #[test]
    fn several_declared_labels_need_a_usual_name_or_a_word_from_the_user() {
        let features = |names: [&str; 2]| Features {
            columns: vec![
                ("img".into(), Feature::Image),
                (names[0].into(), Feature::ClassLabel(vec!["x".into()])),
                (names[1].into(), Feature::ClassLabel(vec!["y".into()])),
            ],
        };
        let columns = |names: [&'static str; 2]| {
            [
                ("img", StoredKind::ImageStruct),
                (names[0], StoredKind::Number),
                (names[1], StoredKind::Number),
            ]
        };
        let cifar = ["coarse_label", "fine_label"];
        let chosen = choose(&features(cifar), &columns(cifar), &Columns::default()).unwrap();
        assert_eq!(chosen.label, "fine_label");
        let odd = ["breed", "species"];
        let error = choose(&features(odd), &columns(odd), &Columns::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("breed") && error.contains("--label-column-name"),
            "{error}"
        );
    }

    #[test]
    fn without_declarations_names_and_kinds_decide() {
        let none = Features::default();
        let chosen = choose(
            &none,
            &[
                ("img", StoredKind::Binary),
                ("labels", StoredKind::Number),
                ("id", StoredKind::Number),
            ],
            &Columns::default(),
        );
        assert_eq!(chosen.unwrap().label, "labels");
        for columns in [
            &[("text", StoredKind::Text), ("label", StoredKind::Number)][..],
            &[("image", StoredKind::Number), ("label", StoredKind::Number)],
            &[("image", StoredKind::Binary), ("label", StoredKind::Other)],
            &[("image", StoredKind::Binary)],
            &[],
        ] {
            let error = choose(&none, columns, &Columns::default()).unwrap_err().to_string();
            assert!(
                error.contains("there is no") && error.contains("column-name"),
                "{error}"
            );
        }
        let error = choose(&none, &[("image", StoredKind::Binary)], &named(Some("picture"), None)).unwrap_err();
        assert!(error.to_string().contains("no column `picture`"), "{error}");
    }

    #[test]
    fn a_card_declares_classes_by_number() {
        let card = serde_json::json!([
            {"name": "image", "dtype": "image"},
            {"name": "label", "dtype": {"class_label": {"names": {"0": "z", "10": "k", "2": "b", "1": "a"}}}},
            {"name": "id", "dtype": "int64"}
        ]);
        let features = Features::from_card(&card).unwrap();
        assert_eq!(features.of("image"), Some(&Feature::Image));
        let names = ["z", "a", "b", "k"].map(str::to_owned).to_vec();
        assert_eq!(features.of("label"), Some(&Feature::ClassLabel(names)));
        assert_eq!(features.of("id"), Some(&Feature::Other));
    }

    #[test]
    fn broken_metadata_declares_nothing() {
        for text in ["", "{", "[]", r#"{"info":{}}"#, r#"{"info":{"features":[]}}"#] {
            assert_eq!(Features::from_json(text), None, "{text}");
        }
    }
}
