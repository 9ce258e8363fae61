//! The weights of a dataset's classes in the training loss (`--class-weights`).

use std::path::Path;

use serde_json::Value;

use crate::data::Dataset;
use crate::error::{Error, IoContext, Result};
use crate::recipe::ClassWeights;

/// A weight for each class; None: all count alike. Errors: the weights are not those of these classes, or not above 0.
pub fn class_weights(wanted: &ClassWeights, train: &Dataset) -> Result<Option<Vec<f32>>> {
    let classes = train.classes();
    let weights = match wanted {
        ClassWeights::None => return Ok(None),
        ClassWeights::Balanced => return Ok(Some(balanced(&train.class_counts()))),
        ClassWeights::Listed(numbers) => numbers.clone(),
        ClassWeights::File(path) => from_file(path, classes)?,
    };
    let fix = format!(
        "give one number above 0 for each class, in this order: {}",
        classes.join(", ")
    );
    if weights.len() != classes.len() {
        let what = format!(
            "--class-weights {wanted}: {} weights for {} classes",
            weights.len(),
            classes.len()
        );
        return Err(Error::usage(what, fix));
    }
    let weights: Vec<f32> = weights.into_iter().map(|weight| weight as f32).collect();
    match weights.iter().find(|weight| !(**weight > 0.0 && weight.is_finite())) {
        Some(weight) => Err(Error::usage(
            format!("--class-weights {wanted}: {weight} is out of range"),
            fix,
        )),
        None => Ok(Some(weights)),
    }
}

/// Samples / (classes that have some · samples of the class); a class without samples has nothing to weigh, 0.
fn balanced(counts: &[usize]) -> Vec<f32> {
    let samples: usize = counts.iter().sum();
    let present = counts.iter().filter(|count| **count > 0).count();
    let weight = |count: &usize| match count {
        0 => 0.0,
        count => (samples as f64 / (present * count) as f64) as f32,
    };
    counts.iter().map(weight).collect()
}

/// Numbers out of a JSON file, in the order of the classes.
fn from_file(path: &Path, classes: &[String]) -> Result<Vec<f64>> {
    let text = std::fs::read_to_string(path).at("read the class weights", path)?;
    let wrong = |what: &str| {
        Error::usage(
            format!("--class-weights {}: {what}", path.display()),
            "write JSON: a list of numbers in the order of the classes, or {\"name of a class\": number, …} with all of them",
        )
    };
    let number = |value: &Value, of: &str| {
        value
            .as_f64()
            .ok_or_else(|| wrong(&format!("the weight of {of} is {value}")))
    };
    match serde_json::from_str(&text) {
        Ok(Value::Array(numbers)) => numbers
            .iter()
            .zip(1..)
            .map(|(value, i)| number(value, &format!("class {i}")))
            .collect(),
        Ok(Value::Object(by_name)) => {
            if let Some(name) = by_name.keys().find(|name| !classes.contains(name)) {
                return Err(wrong(&format!("there is no class \"{name}\"")));
            }
            let of = |name: &String| match by_name.get(name) {
                Some(value) => number(value, name),
                None => Err(wrong(&format!("class \"{name}\" has no weight"))),
            };
            classes.iter().map(of).collect()
        }
        Ok(_) => Err(wrong("it is neither a list nor an object")),
        Err(error) => Err(wrong(&format!("it is no JSON: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// sklearn.utils.class_weight.compute_class_weight("balanced", classes=[0, 2, 3], y=[0, 0, 0, 2, 3, 3]).
    #[test]
    fn balanced_weights_are_scikit_learns() {
        assert_eq!(balanced(&[3, 0, 1, 2]), [2.0 / 3.0, 0.0, 2.0, 1.0]);
    }

    #[test]
    fn a_file_has_a_list_or_names_and_says_what_is_wrong_with_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("weights.json");
        let classes = ["ant".to_owned(), "bee".to_owned()];
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            from_file(&path, &classes).map_err(|error| error.to_string())
        };
        assert_eq!(read("[1, 0.5]").unwrap(), [1.0, 0.5]);
        assert_eq!(read("{\"bee\": 2, \"ant\": 3.5}").unwrap(), [3.5, 2.0]);
        for (text, said) in [
            ("{\"bee\": 2}", "class \"ant\" has no weight"),
            ("{\"bee\": 2, \"ant\": 1, \"wasp\": 1}", "no class \"wasp\""),
            ("{\"bee\": \"2\", \"ant\": 1}", "the weight of bee is \"2\""),
            ("[1, null]", "class 2"),
            ("3", "neither a list nor an object"),
            ("ant 1", "no JSON"),
        ] {
            let error = read(text).unwrap_err();
            assert!(
                error.contains(said) && error.contains("weights.json"),
                "{text}: {error}"
            );
        }
    }
}
