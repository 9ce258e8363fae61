//! `freeze`: parts of a model that are not trained, by the names of their modules.

use std::fmt;
use std::ops::RangeInclusive;

/// Some parts of a model; which ones it has is known with the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrozenPart {
    /// `3`: what comes before the layers (or stages), and so many of the lowest of them.
    Lowest(usize),
    /// `embeddings`, or `layers`: all of them.
    Named(String),
    /// `layers.0-5`, or `layers.3`.
    Numbered(String, RangeInclusive<usize>),
}

impl FrozenPart {
    /// None: it is neither a number nor a name.
    pub fn read(text: &str) -> Option<FrozenPart> {
        if let Ok(lowest) = text.parse() {
            return Some(FrozenPart::Lowest(lowest));
        }
        let (name, numbers) = match text.split_once('.') {
            None => (text, None),
            Some((name, numbers)) => (name, Some(numbers)),
        };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphabetic() || c == '_') {
            return None;
        }
        let Some(numbers) = numbers else {
            return Some(FrozenPart::Named(name.to_owned()));
        };
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last).then(|| FrozenPart::Numbered(name.to_owned(), first..=last))
    }
}

impl fmt::Display for FrozenPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrozenPart::Lowest(lowest) => write!(f, "{lowest}"),
            FrozenPart::Named(name) => write!(f, "{name}"),
            FrozenPart::Numbered(name, numbers) if numbers.start() == numbers.end() => {
                write!(f, "{name}.{}", numbers.start())
            }
            FrozenPart::Numbered(name, numbers) => write!(f, "{name}.{}-{}", numbers.start(), numbers.end()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_and_written_back() {
        for text in [
            "0",
            "12",
            "embeddings",
            "layers",
            "layers.3",
            "layers.0-5",
            "stages.1-1",
        ] {
            let part = FrozenPart::read(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(part.to_string(), text.replace("1-1", "1"));
        }
        for text in [
            "",
            "-1",
            "layers.",
            "layers.a",
            "layers.5-3",
            "layers.1.2",
            "3x",
            ".3",
            "a b",
        ] {
            assert_eq!(FrozenPart::read(text), None, "{text}");
        }
    }
}
