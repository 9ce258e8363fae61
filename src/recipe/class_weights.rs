//! `class_weights`: how much the samples of each class count in the training loss, as a recipe says it.

use std::path::PathBuf;

use serde::de::Deserializer;
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// One word, numbers, or a file of numbers; which classes there are is only known with the dataset.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ClassWeights {
    /// All count alike.
    #[default]
    None,
    /// samples / (classes · samples of the class), as scikit-learn's `balanced`.
    Balanced,
    /// In the order of the classes.
    Listed(Vec<f64>),
    /// JSON: a list in the order of the classes, or numbers by the classes' names.
    File(PathBuf),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Numbers(Vec<f64>),
}

impl ClassWeights {
    /// What a flag's value means.
    pub fn read(text: &str) -> ClassWeights {
        let numbers: Result<Vec<f64>, _> = text.split(',').map(|number| number.trim().parse()).collect();
        match (text, numbers) {
            ("none", _) => ClassWeights::None,
            ("balanced", _) => ClassWeights::Balanced,
            (_, Ok(numbers)) => ClassWeights::Listed(numbers),
            (path, Err(_)) => ClassWeights::File(path.into()),
        }
    }
}

impl std::fmt::Display for ClassWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ClassWeights::None => write!(f, "none"),
            ClassWeights::Balanced => write!(f, "balanced"),
            ClassWeights::Listed(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(f64::to_string).collect();
                write!(f, "{}", numbers.join(","))
            }
            ClassWeights::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl<'de> Deserialize<'de> for ClassWeights {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(match Written::deserialize(from)? {
            Written::Text(text) => ClassWeights::read(&text),
            Written::Numbers(numbers) => ClassWeights::Listed(numbers),
        })
    }
}

impl Serialize for ClassWeights {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            ClassWeights::Listed(numbers) => numbers.serialize(to),
            other => other.to_string().serialize(to),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Table {
        class_weights: ClassWeights,
    }

    #[test]
    fn every_form_is_read_and_written_back() {
        for (text, expected) in [
            ("\"none\"", ClassWeights::None),
            ("\"balanced\"", ClassWeights::Balanced),
            ("\"1, 2.5\"", ClassWeights::Listed(vec![1.0, 2.5])),
            ("[1, 2.5]", ClassWeights::Listed(vec![1.0, 2.5])),
            ("\"a,b.json\"", ClassWeights::File("a,b.json".into())),
        ] {
            let read: Table = toml::from_str(&format!("class_weights = {text}")).unwrap();
            assert_eq!(read.class_weights, expected, "{text}");
            assert_eq!(toml::from_str::<Table>(&toml::to_string(&read).unwrap()).unwrap(), read);
        }
        assert!(toml::from_str::<Table>("class_weights = true").is_err());
    }
}
