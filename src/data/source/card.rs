//! The front matter of a dataset's README: which files are which split, and what the columns hold.
//!
//! Every scalar is read as text (so a class called `no` keeps its name), aliases are refused, nesting is bounded: a README
//! comes from somebody else.

use std::path::Path;

use saphyr_parser::{Event, Parser};
use serde_json::{Map, Value};

use super::features::Features;
use crate::error::{Error, IoContext, Result};

/// What the front matter says about one configuration of a dataset.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Config {
    pub name: String,
    /// Directory that everything else is relative to.
    pub data_dir: Option<String>,
    /// Split names with the patterns of their files, in the order of the README.
    pub data_files: Option<Vec<(String, Vec<String>)>>,
    pub features: Option<Features>,
}

impl Config {
    /// The configuration `wanted`, or the only or default one; `None` if the README, or its front matter, is not there.
    pub fn read(root: &Path, wanted: Option<&str>) -> Result<Option<Config>> {
        let path = root.join("README.md");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).at("read", &path),
        };
        let text = String::from_utf8_lossy(&bytes);
        let Some(front_matter) = front_matter(&text) else {
            return Ok(None);
        };
        let front = parse(front_matter).map_err(|what| {
            Error::dataset(
                &path,
                format!("the front matter is not the YAML that it should be: {what}"),
                "correct the lines between the two ---, or remove them",
            )
        })?;
        choose(&front, wanted, &path)
    }
}

/// The lines between a first line `---` and the next one.
fn front_matter(text: &str) -> Option<&str> {
    let text = text.trim_start_matches('\u{feff}');
    let body = text.strip_prefix("---")?.trim_start_matches([' ', '\t', '\r']);
    let body = body.strip_prefix('\n')?;
    if body.starts_with("---") {
        return Some("");
    }
    body.find("\n---").map(|end| &body[..end + 1])
}

/// A YAML document as a tree of text.
fn parse(text: &str) -> Result<Value, String> {
    const DEEPEST: usize = 64;
    enum Open {
        List(Vec<Value>),
        Map(Map<String, Value>, Option<String>),
    }
    let mut open: Vec<Open> = Vec::new();
    let mut document = Value::Null;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| error.to_string())?;
        let finished = match event {
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                None
            }
            Event::MappingStart(..) => {
                open.push(Open::Map(Map::new(), None));
                None
            }
            Event::Scalar(text, ..) => Some(Value::String(text.into_owned())),
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(list)) => Some(Value::Array(list)),
                Some(Open::Map(map, _)) => Some(Value::Object(map)),
                None => None,
            },
            Event::Alias(_) => return Err(format!("line {} has an alias (`*name`)", span.start.line())),
            Event::DocumentEnd => break,
            _ => None,
        };
        if open.len() > DEEPEST {
            return Err(format!(
                "line {} is nested more than {DEEPEST} levels deep",
                span.start.line()
            ));
        }
        let Some(value) = finished else { continue };
        match open.last_mut() {
            None => document = value,
            Some(Open::List(list)) => list.push(value),
            Some(Open::Map(map, key)) => match key.take() {
                Some(key) => {
                    map.insert(key, value);
                }
                None => match value {
                    Value::String(text) => *key = Some(text),
                    _ => return Err(format!("line {} has a key that is not text", span.start.line())),
                },
            },
        }
    }
    Ok(document)
}

fn choose(front: &Value, wanted: Option<&str>, path: &Path) -> Result<Option<Config>> {
    let configs: Vec<&Value> = front
        .get("configs")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .collect();
    let infos: Vec<&Value> = match front.get("dataset_info") {
        Some(Value::Array(infos)) => infos.iter().collect(),
        Some(info) => vec![info],
        None => Vec::new(),
    };
    let mut names: Vec<&str> = configs.iter().map(|config| name_of(config)).collect();
    if names.is_empty() {
        names = infos.iter().map(|info| name_of(info)).collect();
    }
    let is_default = |name: &&&str| {
        configs
            .iter()
            .any(|config| name_of(config) == **name && text(config, "default") == Some("true"))
    };
    let name = match wanted {
        Some(wanted) if names.contains(&wanted) => wanted,
        Some(wanted) if !names.is_empty() => {
            return Err(Error::dataset(
                path,
                format!("there is no configuration `{wanted}`"),
                format!("choose one of: {}", names.join(", ")),
            ));
        }
        Some(_) => return Ok(None),
        None => match names.as_slice() {
            [] => return Ok(None),
            [only] => only,
            _ => match names
                .iter()
                .find(is_default)
                .or_else(|| names.iter().find(|name| **name == "default"))
            {
                Some(name) => name,
                None => {
                    return Err(Error::dataset(
                        path,
                        format!("there are {} configurations and none is the default", names.len()),
                        format!("choose one with --dataset-config-name: {}", names.join(", ")),
                    ));
                }
            },
        },
    };
    let config = configs.iter().find(|config| name_of(config) == name);
    let info = infos.iter().find(|info| name_of(info) == name);
    // A single dataset_info without a name belongs to whatever the single configuration is called.
    let info = info.or(match infos.as_slice() {
        [only] if configs.len() <= 1 => Some(only),
        _ => None,
    });
    Ok(Some(Config {
        name: name.to_owned(),
        data_dir: config.and_then(|config| text(config, "data_dir")).map(str::to_owned),
        data_files: match config.and_then(|config| config.get("data_files")) {
            Some(files) => Some(data_files(files).ok_or_else(|| {
                Error::dataset(
                    path,
                    format!("`data_files` of configuration `{name}` is not a list of splits and paths"),
                    "write it as a list of `- split: train` with `path: data/train-*`",
                )
            })?),
            None => None,
        },
        features: info.and_then(|info| info.get("features")).and_then(Features::from_card),
    }))
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

fn name_of(value: &Value) -> &str {
    text(value, "config_name").unwrap_or("default")
}

/// A pattern, a list of patterns (both mean train), or a list of {split, path}.
fn data_files(value: &Value) -> Option<Vec<(String, Vec<String>)>> {
    let patterns = |value: &Value| match value {
        Value::String(pattern) => Some(vec![pattern.clone()]),
        Value::Array(list) => list.iter().map(|pattern| pattern.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    if let Some(patterns) = patterns(value) {
        return Some(vec![("train".to_owned(), patterns)]);
    }
    let entries = value.as_array()?.iter();
    entries
        .map(|entry| Some((text(entry, "split")?.to_owned(), patterns(entry.get("path")?)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str, wanted: Option<&str>) -> Result<Option<Config>> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("README.md"), text).unwrap();
        Config::read(dir.path(), wanted)
    }

    #[test]
    fn the_usual_front_matter_is_read() {
        let text = "---\nlicense: mit\ndataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    \
            dtype:\n      class_label:\n        names:\n          '0': cat\n          '1': no\n  splits:\n  - name: train\n    \
            num_examples: 3\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n  \
            - split: test\n    path:\n    - data/a-*\n    - data/b-*\n---\n# Words\n---\nmore: [\n";
        let config = config(text, None).unwrap().unwrap();
        assert_eq!(config.name, "default");
        let files = config.data_files.unwrap();
        assert_eq!(files[0], ("train".into(), vec!["data/train-*".into()]));
        assert_eq!(files[1], ("test".into(), vec!["data/a-*".into(), "data/b-*".into()]));
        let expected = Features::from_json(
            r#"{"features":{"image":{"_type":"Image"},"label":{"_type":"ClassLabel","names":["cat","no"]}}}"#,
        );
        assert_eq!(config.features, expected);
    }

    #[test]
    fn configurations_are_chosen_by_name_or_default() {
        let text = "---\nconfigs:\n- config_name: a\n  data_files: a/*\n- config_name: b\n  data_dir: bb\n---\n";
        let error = config(text, None).unwrap_err().to_string();
        assert!(error.contains("a, b"), "{error}");
        let b = config(text, Some("b")).unwrap().unwrap();
        assert_eq!((b.data_dir.as_deref(), b.data_files), (Some("bb"), None));
        assert!(config(text, Some("c")).unwrap_err().to_string().contains("a, b"));
        let with_default = text.replace("data_dir: bb", "default: true");
        assert_eq!(config(&with_default, None).unwrap().unwrap().name, "b");
    }

    #[test]
    fn a_readme_without_front_matter_says_nothing() {
        for text in [
            "",
            "# Title\n",
            "---",
            "---\n",
            "---\nno end\n",
            "--- \n---\n",
            "\u{feff}---\r\nlicense: mit\r\n---\r\n",
        ] {
            assert_eq!(config(text, None).unwrap(), None, "{text:?}");
        }
    }

    #[test]
    fn hostile_front_matter_is_an_error() {
        let deep = format!("---\n{}x\n---\n", "- ".repeat(100_000));
        let brackets = format!("---\na: {}\n---\n", "[".repeat(100_000));
        let bomb = "---\na: &a [x, x]\nb: &b [*a, *a]\n---\n".to_owned();
        let wrong = "---\nconfigs:\n- config_name: default\n  data_files:\n  - splits: train\n---\n".to_owned();
        for text in [
            deep,
            brackets,
            bomb,
            wrong,
            "---\na: [1\nb: }\n---\n".into(),
            "---\n[a]: {b: c}\n---\n".into(),
        ] {
            let error = config(&text, None).unwrap_err().to_string();
            assert!(error.contains("README.md") && error.contains("to do:"), "{error}");
        }
    }
}
