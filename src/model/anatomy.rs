//! The parts that a model is made of from the bottom up, and which of them a run leaves as they are (`--freeze`).

use std::path::Path;

use crate::error::{Error, Result};
use crate::recipe::FrozenPart;

/// A model's parts, under the names of its modules; the classifier on top of them is always trained.
#[derive(Clone, Copy, Debug)]
pub(super) struct Anatomy {
    /// Where the pixels go in.
    pub bottom: &'static str,
    /// What follows, by number, and how many of it there are.
    pub repeated: &'static str,
    pub count: usize,
    /// What lies between these and the classifier.
    pub top: Option<&'static str>,
}

/// One part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Bottom,
    Repeated(usize),
    Top,
}

impl Anatomy {
    pub fn is_frozen(&self, part: Part, frozen: &[FrozenPart]) -> bool {
        frozen.iter().any(|frozen| match (frozen, part) {
            (FrozenPart::Lowest(_), Part::Bottom) => true,
            (FrozenPart::Lowest(lowest), Part::Repeated(number)) => number < *lowest,
            (FrozenPart::Lowest(_), Part::Top) => false,
            (FrozenPart::Named(name), Part::Bottom) => name == self.bottom,
            (FrozenPart::Named(name), Part::Repeated(_)) => name == self.repeated,
            (FrozenPart::Named(name), Part::Top) => Some(name.as_str()) == self.top,
            (FrozenPart::Numbered(name, numbers), Part::Repeated(number)) => {
                name == self.repeated && numbers.contains(&number)
            }
            (FrozenPart::Numbered(..), _) => false,
        })
    }

    /// Errors: a part that the model does not have. `path` is that of the model, for messages.
    pub fn check(&self, frozen: &[FrozenPart], path: &Path) -> Result<()> {
        let exists = |part: &&FrozenPart| match part {
            FrozenPart::Lowest(lowest) => *lowest <= self.count,
            FrozenPart::Named(name) => {
                [Some(self.bottom), Some(self.repeated), self.top].contains(&Some(name.as_str()))
            }
            FrozenPart::Numbered(name, numbers) => name == self.repeated && *numbers.end() < self.count,
        };
        let Some(missing) = frozen.iter().find(|part| !exists(part)) else {
            return Ok(());
        };
        let numbered = format!("{}.0-{}", self.repeated, self.count - 1);
        let parts: Vec<&str> = [self.bottom, &numbered].into_iter().chain(self.top).collect();
        Err(Error::model(
            path,
            format!("--freeze {missing}: the model has no such part"),
            format!(
                "choose among {}, or give how many of the lowest {}",
                parts.join(", "),
                self.repeated
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_and_those_that_are_not_there_are_named() {
        let anatomy = Anatomy {
            bottom: "embeddings",
            repeated: "layers",
            count: 4,
            top: Some("layernorm"),
        };
        let read = |text: &str| FrozenPart::read(text).unwrap();
        let parts = [
            Part::Bottom,
            Part::Repeated(0),
            Part::Repeated(1),
            Part::Repeated(2),
            Part::Repeated(3),
            Part::Top,
        ];
        for (text, expected) in [
            ("0", [true, false, false, false, false, false]),
            ("2", [true, true, true, false, false, false]),
            ("embeddings", [true, false, false, false, false, false]),
            ("layers", [false, true, true, true, true, false]),
            ("layers.1-2", [false, false, true, true, false, false]),
            ("layernorm", [false, false, false, false, false, true]),
        ] {
            let frozen = [read(text)];
            assert_eq!(parts.map(|part| anatomy.is_frozen(part, &frozen)), expected, "{text}");
            anatomy.check(&frozen, Path::new("m")).unwrap();
        }
        for text in ["5", "layers.4", "stages.0", "classifier", "embeddings.0"] {
            let error = anatomy
                .check(&[read("1"), read(text)], Path::new("m"))
                .unwrap_err()
                .to_string();
            assert!(error.contains(text) && error.contains("layers.0-3"), "{error}");
        }
    }
}
