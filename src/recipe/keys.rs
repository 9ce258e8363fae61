//! The names of a recipe's values: which there are, which other names mean the same, which exclude one another.

use std::sync::LazyLock;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor, value::Error};
use toml::Value;

use super::Recipe;

/// Names that Hugging Face's scripts use, and what they are called here.
pub const ALIASES: &[(&str, &str)] = &[
    ("model_name_or_path", "model"),
    ("dataset_name", "dataset"),
    ("train_val_split", "test_size"),
    ("evaluation_strategy", "eval_strategy"),
    ("hub_token", "token"),
    ("push_to_hub_token", "token"),
    ("push_to_hub_model_id", "hub_model_id"),
];

/// Every key of a recipe, in the order of the struct.
pub fn all() -> &'static [&'static str] {
    static KEYS: LazyLock<&'static [&'static str]> = LazyLock::new(|| {
        let mut keys: &'static [&'static str] = &[];
        // The error is expected: there is nothing to read behind the names.
        let _ = Recipe::deserialize(FieldNames(&mut keys));
        keys
    });
    &KEYS
}

/// The key and value that `typed = value` stands for; None: the value is taken back to "not set".
pub fn canonical(typed: &str, value: &Value) -> (String, Option<Value>) {
    let key = ALIASES
        .iter()
        .find(|(alias, _)| *alias == typed)
        .map_or(typed, |(_, key)| key);
    match (key, value) {
        // Trainer's word for "as many as the epochs take".
        ("max_steps", Value::Integer(-1)) => (key.to_owned(), None),
        // Trainer of transformers 5 reads a fraction as a ratio.
        ("warmup_steps", Value::Float(ratio)) if *ratio > 0.0 && *ratio < 1.0 => {
            ("warmup_ratio".to_owned(), Some(value.clone()))
        }
        ("warmup_steps", Value::Float(steps)) if *steps >= 0.0 && steps.fract() == 0.0 && *steps < 1e15 => {
            (key.to_owned(), Some(Value::Integer(*steps as i64)))
        }
        ("fp16" | "bf16", Value::Boolean(true)) => ("precision".to_owned(), Some(Value::String(key.to_owned()))),
        ("fp16" | "bf16", Value::Boolean(false)) => ("precision".to_owned(), Some(Value::String("fp32".to_owned()))),
        _ => (key.to_owned(), Some(value.clone())),
    }
}

/// Keys that a higher layer's `key` puts back to their defaults, because both say the same thing in other words.
pub fn replaced_by(key: &str) -> &'static [&'static str] {
    match key {
        "validation_split" => &["test_size"],
        "test_size" => &["validation_split"],
        "num_train_epochs" => &["max_steps"],
        "warmup_ratio" => &["warmup_steps"],
        "warmup_steps" => &["warmup_ratio"],
        _ => &[],
    }
}

/// The candidate that `typed` was probably meant to be: at most a third of its letters wrong.
pub fn nearest<'a>(typed: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (edit_distance(typed, candidate), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance * 3 <= candidate.len().max(typed.len()))
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, one row of the table at a time.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// A deserializer that reads nothing, but notes which fields a struct asks for: so the struct is the only list of keys.
struct FieldNames<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(serde::de::Error::custom("only the names are read"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        Err(serde::de::Error::custom("only the names are read"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}
