//! Command lines of transformers' `run_image_classification.py`, in dtrain's flags.
//!
//! `FLAGS.md` beside this file is both the documentation and the table that is read here. What a flag that works means is
//! the recipe's matter; here it is only spelled as dtrain spells it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, IoContext, Result};

const TABLE: &str = include_str!("drop_in/FLAGS.md");
/// Flags that only the script has, so that a command line with one of them is meant for it.
const SCRIPTS_OWN: [&str; 3] = ["do_train", "do_eval", "do_predict"];
/// What the script does unless told otherwise, before what was typed.
const IMPLIED: [&str; 4] = [
    "--recipe=image-classification",
    "--do-train=false",
    "--do-eval=false",
    "--validation-split=auto",
];

/// What is done with a flag of the script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    Works,
    AnyValue,
    Only(Vec<&'static str>),
    Refused,
}

/// A row of the table.
#[derive(Clone, Debug)]
pub struct ScriptFlag {
    pub name: &'static str,
    pub rule: Rule,
    pub why: &'static str,
}

/// A command line for dtrain's parser, and lines for people about flags that are accepted without effect.
#[derive(Debug)]
pub struct Translated {
    pub arguments: Vec<OsString>,
    pub notes: Vec<String>,
}

/// All flags of the script, in the order of the table.
pub fn table() -> Vec<ScriptFlag> {
    let rows = TABLE.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let mut cells = row.split('|').map(str::trim);
        let mut cell = || cells.next().unwrap_or_default();
        let (name, rule, why) = (cell().trim_end_matches('`'), cell(), cell());
        let rule = match rule.strip_prefix("only ") {
            Some(values) => Rule::Only(values.split(',').map(str::trim).collect()),
            None if rule == "works" => Rule::Works,
            None if rule == "any value" => Rule::AnyValue,
            None => Rule::Refused,
        };
        ScriptFlag { name, rule, why }
    })
    .collect()
}

/// The command line that `typed` stands for. Errors: a flag or value that dtrain does not support, with the reason; a .json file
/// that cannot be read.
pub fn translate(typed: impl Iterator<Item = OsString>) -> Result<Translated> {
    let mut typed: Vec<OsString> = typed.collect();
    let from_file = match typed.as_slice() {
        [_, only]
            if only
                .to_str()
                .is_some_and(|only| only.ends_with(".json") && !only.starts_with('-')) =>
        {
            let read = flags_of_file(Path::new(only))?;
            typed.truncate(1);
            typed.extend(read.into_iter().map(OsString::from));
            true
        }
        _ => false,
    };
    let begins = match typed.get(1).and_then(|first| first.to_str()) {
        Some("train") => 2,
        Some(command) if !command.starts_with('-') => {
            return Ok(Translated {
                arguments: typed,
                notes: Vec::new(),
            });
        }
        _ => 1.min(typed.len()),
    };
    let (mut arguments, flags) = (typed[..begins].to_vec(), &typed[begins..]);
    let table = table();
    let mut translation = Translation {
        table: &table,
        seen: BTreeSet::new(),
        arguments: Vec::new(),
        notes: Vec::new(),
    };
    translation.read(flags)?;
    let Translation {
        seen,
        arguments: rest,
        notes,
        ..
    } = translation;
    let meant_for_the_script = from_file || SCRIPTS_OWN.iter().any(|name| seen.contains(*name));
    if meant_for_the_script && !seen.contains("recipe") {
        // What is typed twice counts the last time, but a split that was typed must not be typed twice.
        let implied = IMPLIED
            .iter()
            .filter(|flag| !(flag.contains("validation-split") && seen.contains("validation_split")));
        arguments.extend(implied.map(OsString::from));
    }
    arguments.extend(rest);
    Ok(Translated { arguments, notes })
}

struct Translation<'a> {
    table: &'a [ScriptFlag],
    /// Names of flags, with underscores.
    seen: BTreeSet<String>,
    arguments: Vec<OsString>,
    notes: Vec<String>,
}

impl Translation<'_> {
    fn read(&mut self, flags: &[OsString]) -> Result<()> {
        let mut at = 0;
        while at < flags.len() {
            let Some((name, inline)) = flags[at].to_str().and_then(flag) else {
                self.arguments.push(flags[at].clone());
                at += 1;
                continue;
            };
            let mut end = at + 1;
            while inline.is_none() && end < flags.len() && !flags[end].to_string_lossy().starts_with("--") {
                end += 1;
            }
            let following = flags[at + 1..end]
                .iter()
                .map(|value| value.to_string_lossy().into_owned());
            let values: Vec<String> = inline.map(str::to_owned).into_iter().chain(following).collect();
            self.take(&name.replace('-', "_"), &values, &flags[at..end])?;
            at = end;
        }
        Ok(())
    }

    /// One flag with its values; `typed` is how they stood there.
    fn take(&mut self, name: &str, values: &[String], typed: &[OsString]) -> Result<()> {
        let find = |name: &str| self.table.iter().find(|flag| flag.name == name).cloned();
        let (flag, values, negated) = match (find(name), name.strip_prefix("no_").and_then(find)) {
            (Some(flag), _) => (flag, values.to_vec(), false),
            (None, Some(flag)) if values.is_empty() => (flag, vec!["false".to_owned()], true),
            _ => {
                self.seen.insert(name.to_owned());
                self.arguments.extend_from_slice(typed);
                return Ok(());
            }
        };
        self.seen.insert(flag.name.to_owned());
        let spelled = match values.is_empty() {
            true => format!("--{name}"),
            false => format!("--{name} {}", values.join(" ")),
        };
        let refuse = |what: &str| Err(Error::usage(format!("{spelled}: {what}: {}", flag.why), "leave it out"));
        match &flag.rule {
            Rule::Works if ["use_cpu", "no_cuda"].contains(&flag.name) => {
                if values.first().is_none_or(|value| is_true(value)) {
                    self.arguments.push("--device=cpu".into());
                }
            }
            Rule::Works if negated => self.arguments.push(format!("--{}=false", flag.name).into()),
            Rule::Works => self.arguments.extend_from_slice(typed),
            Rule::AnyValue => self
                .notes
                .push(format!("{spelled}: changes nothing here: {}", flag.why)),
            Rule::Only(allowed) => {
                let values = if values.is_empty() {
                    vec!["true".to_owned()]
                } else {
                    values
                };
                if !values
                    .iter()
                    .all(|value| allowed.iter().any(|allowed| means(value, allowed)))
                {
                    return refuse(&format!("dtrain supports {} alone", allowed.join(", ")));
                }
            }
            Rule::Refused => return refuse("dtrain does not support this flag"),
        }
        Ok(())
    }
}

/// Name and value of `--name=value`, or the name of `--name`.
fn flag(text: &str) -> Option<(&str, Option<&str>)> {
    let flag = text.strip_prefix("--").filter(|flag| !flag.is_empty())?;
    Some(match flag.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (flag, None),
    })
}

fn is_true(value: &str) -> bool {
    ["true", "t", "yes", "y", "1"].contains(&value.to_ascii_lowercase().as_str())
}

/// Is `value` what the table calls `allowed`? Booleans and numbers have several spellings.
fn means(value: &str, allowed: &str) -> bool {
    let value = value.trim().to_ascii_lowercase();
    let number = |text: &str| text.parse::<f64>().ok();
    match allowed {
        "true" => is_true(&value),
        "false" => ["false", "f", "no", "n", "0"].contains(&value.as_str()),
        _ => value == allowed || number(&value).is_some_and(|value| number(allowed) == Some(value)),
    }
}

/// The entries of a .json file as flags; what is null or empty is not given.
fn flags_of_file(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).at("read the arguments", path)?;
    let broken = |what: String| {
        Error::usage(
            format!("{}: {what}", path.display()),
            "give one JSON object of flags and values, without dashes: {\"learning_rate\": 5e-5}",
        )
    };
    let Value::Object(entries) = serde_json::from_str(&text).map_err(|e| broken(format!("this is no JSON: {e}")))?
    else {
        return Err(broken("this is no JSON object".to_owned()));
    };
    let text_of = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut flags = Vec::new();
    for (name, value) in &entries {
        match value {
            Value::Null => {}
            Value::String(text) if text.is_empty() => {}
            Value::Array(values) if values.is_empty() => {}
            Value::Array(values) => {
                flags.push(format!("--{name}"));
                flags.extend(values.iter().map(text_of));
            }
            value => flags.push(format!("--{name}={}", text_of(value))),
        }
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(typed: &[&str]) -> Result<Vec<String>> {
        let typed = ["dtrain"].iter().chain(typed).map(OsString::from);
        let arguments = translate(typed)?.arguments.into_iter();
        Ok(arguments
            .skip(1)
            .map(|argument| argument.into_string().unwrap())
            .collect())
    }

    fn implied(and: &[&str]) -> Vec<String> {
        IMPLIED.iter().chain(and).map(|flag| (*flag).to_owned()).collect()
    }

    #[test]
    fn a_command_line_of_the_script_is_told_by_what_it_does() {
        let typed = [
            "--train_dir",
            "pets",
            "--do_train",
            "--remove_unused_columns",
            "False",
            "--seed=3",
        ];
        assert_eq!(
            translated(&typed).unwrap(),
            implied(&["--train_dir", "pets", "--do_train", "--seed=3"])
        );
        for own in [
            &["--recipe", "vit-lora", "--do_train=false"][..],
            &["demo", "x"],
            &["recipes"],
            &[],
        ] {
            assert_eq!(translated(own).unwrap(), own);
        }
    }

    #[test]
    fn values_belong_to_the_flag_before_them() {
        let typed = [
            "--do_eval",
            "--report_to",
            "none",
            "all",
            "--max_steps",
            "-1",
            "--no_dataloader_pin_memory",
            "--no_do_train",
        ];
        assert_eq!(
            translated(&typed).unwrap(),
            implied(&[
                "--do_eval",
                "--report_to",
                "none",
                "all",
                "--max_steps",
                "-1",
                "--do_train=false"
            ])
        );
        assert_eq!(
            translated(&["--do_eval", "--use_cpu"]).unwrap(),
            implied(&["--do_eval", "--device=cpu"])
        );
        assert_eq!(
            translated(&["--do_eval", "--no_cuda", "False"]).unwrap(),
            implied(&["--do_eval"])
        );
    }

    #[test]
    fn what_is_not_supported_says_why() {
        for (typed, part) in [
            (
                &["--include_num_input_tokens_seen", "no", "all"][..],
                "--include_num_input_tokens_seen no all",
            ),
            (&["--torch-compile"], "no PyTorch"),
            (&["--activation_checkpointing", "True"], "gradient_checkpointing"),
            (&["--deepspeed=ds.json"], "DeepSpeed"),
            (&["--eval_delay", "2"], "eval_delay 2"),
        ] {
            let error = translated(typed).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("to do"), "{error}");
        }
        for typed in [
            &["--eval_delay", "0.0"][..],
            &["--optim", "adamw_torch"],
            &["--activation_checkpointing", "False"],
        ] {
            assert_eq!(translated(typed).unwrap(), [""; 0]);
        }
    }

    #[test]
    fn a_file_says_the_same_as_flags() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("arguments.json");
        let text = r#"{"do_train": true, "learning_rate": 2e-05, "run_name": null, "report_to": ["none"], "train_dir": "a b",
            "dataloader_drop_last": false}"#;
        std::fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap();
        assert_eq!(
            translated(&[path]).unwrap(),
            implied(&[
                "--do_train=true",
                "--learning_rate=0.00002",
                "--report_to",
                "none",
                "--train_dir=a b"
            ])
        );
        std::fs::write(path, "[1]").unwrap();
        assert!(translated(&[path]).unwrap_err().to_string().contains("no JSON object"));
    }

    #[test]
    fn every_row_of_the_table_is_read() {
        let table = table();
        let names: BTreeSet<&str> = table.iter().map(|flag| flag.name).collect();
        assert!(table.len() > 150 && names.len() == table.len(), "{} rows", table.len());
        for flag in &table {
            assert!(
                flag.rule == Rule::Works || !flag.why.is_empty(),
                "{} without a reason",
                flag.name
            );
        }
    }

    /// Is `--name value` known to dtrain's own parser, whatever it says of the value?
    fn is_parsed(name: &str) -> bool {
        let typed = ["dtrain".to_owned(), format!("--{name}"), "1".to_owned()];
        let arguments = super::super::spelling::normalise(typed.iter().map(OsString::from));
        match super::super::command().try_get_matches_from(arguments) {
            Ok(_) => true,
            Err(error) => error.kind() != clap::error::ErrorKind::UnknownArgument,
        }
    }

    #[test]
    fn the_table_says_what_the_program_does() {
        for flag in table() {
            let name = flag.name;
            let typed = |value: &str| translated(&[&format!("--{name}"), value]);
            match &flag.rule {
                Rule::Works if ["use_cpu", "no_cuda"].contains(&name) => {
                    assert_eq!(typed("true").unwrap().last().unwrap(), "--device=cpu")
                }
                Rule::Works => assert!(is_parsed(name), "{name} is said to work"),
                _ => assert!(!is_parsed(name), "{name} works by now: say so in the table"),
            }
            match &flag.rule {
                Rule::Works => {}
                Rule::AnyValue => {
                    let typed = ["dtrain", &format!("--{name}"), "x"].map(OsString::from);
                    let translated = translate(typed.into_iter()).unwrap();
                    assert!(
                        translated.arguments.len() == 1 && translated.notes[0].contains(flag.why),
                        "{name}"
                    );
                }
                Rule::Only(allowed) => {
                    allowed.iter().for_each(|value| drop(typed(value).unwrap()));
                    assert!(typed("7777").unwrap_err().to_string().contains(flag.why), "{name}");
                }
                Rule::Refused => assert!(typed("x").unwrap_err().to_string().contains(flag.why), "{name}"),
            }
        }
    }

    /// Every field of transformers 5.23's TrainingArguments, and of the script's own two classes.
    #[test]
    fn the_table_has_all_flags_of_the_script() {
        let names: BTreeSet<&str> = table().iter().map(|flag| flag.name).collect();
        for name in include_str!("../../tests/fixtures/script_flags.txt").split_whitespace() {
            assert!(names.contains(name), "{name} is missing");
        }
    }
}
