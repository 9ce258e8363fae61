//! The labels of a shard in few bytes, as the index keeps them.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::shard::Labels;

/// The largest number of a form stands for null.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StoredLabels {
    pub form: Form,
    /// A number for each row, little-endian.
    pub bytes: Bytes,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Form {
    Bytes,
    Words,
    Numbers,
    /// Places in this list, as 32-bit numbers.
    Names(Vec<String>),
}

impl StoredLabels {
    pub fn new(labels: &Labels) -> StoredLabels {
        match labels {
            Labels::Numbers(numbers) => StoredLabels::of_numbers(numbers),
            Labels::Names(names) => StoredLabels::of_names(names),
        }
    }

    fn of_numbers(numbers: &[Option<i64>]) -> StoredLabels {
        let most = |limit: i64| numbers.iter().flatten().all(|number| (0..limit).contains(number));
        let form = match () {
            () if most(u8::MAX.into()) => Form::Bytes,
            () if most(u16::MAX.into()) => Form::Words,
            // A label beyond all classes is refused whichever it is.
            () => Form::Numbers,
        };
        let mut bytes = Vec::with_capacity(numbers.len() * form.width());
        for number in numbers {
            match form {
                Form::Bytes => bytes.push(number.map_or(u8::MAX, |number| number as u8)),
                Form::Words => bytes.extend(number.map_or(u16::MAX, |number| number as u16).to_le_bytes()),
                _ => bytes.extend(number.map_or(i64::MAX, |number| number.min(i64::MAX - 1)).to_le_bytes()),
            }
        }
        StoredLabels {
            form,
            bytes: bytes.into(),
        }
    }

    fn of_names(names: &[Option<String>]) -> StoredLabels {
        let mut list: Vec<String> = Vec::new();
        let mut places: HashMap<&str, u32> = HashMap::new();
        let mut bytes = Vec::with_capacity(names.len() * 4);
        for name in names {
            let place = match name {
                None => u32::MAX,
                Some(name) => *places.entry(name).or_insert_with(|| {
                    list.push(name.clone());
                    list.len() as u32 - 1
                }),
            };
            bytes.extend(place.to_le_bytes());
        }
        StoredLabels {
            form: Form::Names(list),
            bytes: bytes.into(),
        }
    }

    pub fn rows(&self) -> usize {
        self.bytes.len() / self.form.width()
    }

    /// The labels of some rows, which must be there. Places that no name has are null.
    pub fn slice(&self, rows: Range<usize>) -> Labels {
        let width = self.form.width();
        let bytes = &self.bytes[rows.start * width..rows.end * width];
        match &self.form {
            Form::Bytes => Labels::Numbers(bytes.iter().map(|&n| (n < u8::MAX).then_some(n.into())).collect()),
            Form::Words => {
                let words = bytes.as_chunks().0.iter().map(|word| u16::from_le_bytes(*word));
                Labels::Numbers(words.map(|n| (n < u16::MAX).then_some(n.into())).collect())
            }
            Form::Numbers => {
                let numbers = bytes.as_chunks().0.iter().map(|number| i64::from_le_bytes(*number));
                Labels::Numbers(numbers.map(|n| (n < i64::MAX).then_some(n)).collect())
            }
            Form::Names(names) => {
                let places = bytes.as_chunks().0.iter().map(|place| u32::from_le_bytes(*place));
                Labels::Names(places.map(|place| names.get(place as usize).cloned()).collect())
            }
        }
    }
}

impl Form {
    pub fn width(&self) -> usize {
        match self {
            Form::Bytes => 1,
            Form::Words => 2,
            Form::Names(_) => 4,
            Form::Numbers => 8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_come_back() {
        let names = ["cat", "dog", "cat"].map(|name| Some(name.to_owned()));
        for (labels, width) in [
            (Labels::Numbers(vec![Some(0), None, Some(254)]), 1),
            (Labels::Numbers(vec![Some(0), None, Some(255)]), 2),
            (Labels::Numbers(vec![Some(999), None, Some(65_534)]), 2),
            (Labels::Numbers(vec![Some(65_535), None, Some(1)]), 8),
            (Labels::Numbers(vec![Some(-1), None, Some(i64::MAX - 1)]), 8),
            (Labels::Names([names.to_vec(), vec![None]].concat()), 4),
            (Labels::Numbers(Vec::new()), 1),
        ] {
            let stored = StoredLabels::new(&labels);
            assert_eq!(stored.form.width(), width);
            let rows = stored.rows();
            assert_eq!(stored.slice(0..rows), labels);
            if rows > 1 {
                assert_eq!(stored.slice(1..rows), labels.slice(1..rows));
            }
        }
    }
}
