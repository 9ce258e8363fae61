//! Labels as they are stored become classes 0, 1, …: what the classes are called, and whether every label is one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use super::opened::Opened;
use super::shard::{Labels, Shard};
use super::threads;
use crate::error::{Error, Result};

impl Opened {
    /// What the classes are called, by number.
    pub(super) fn class_names(&self) -> Result<Vec<String>> {
        match self.declared_classes()? {
            Some(names) => Ok(names),
            None => self.classes_of_all_splits(),
        }
    }

    /// The class names that the shards declare, if they do; all must agree.
    fn declared_classes(&self) -> Result<Option<Vec<String>>> {
        let mut tables = self.shards.iter().filter_map(Shard::table);
        let Some(first) = tables.next() else {
            return Ok(None);
        };
        if let Some(other) = tables.find(|table| table.classes != first.classes) {
            return Err(Error::dataset(
                &self.layout.path,
                format!("{} and {} do not have the same classes", first.name, other.name),
                "use shards of one dataset only",
            ));
        }
        Ok(first.classes.as_ref().map(|classes| classes.to_vec()))
    }

    /// Without declared names: the texts that occur, sorted, or the numbers up to the largest one. All splits count, so
    /// that training and validation agree.
    fn classes_of_all_splits(&self) -> Result<Vec<String>> {
        let mut labels = Vec::new();
        for split in &self.layout.splits {
            let shards = self.shards_of(&split.name)?;
            labels.extend(threads::each(shards.len(), |number| {
                self.labels_of(&shards[number], 0..shards[number].rows())
            })?);
        }
        class_names(&self.layout.path, labels.iter())
    }

    /// Classes of some rows, checked.
    pub(super) fn labels(&self, wanted: &[Range<usize>]) -> Result<Vec<u32>> {
        let places: BTreeMap<&str, u32> = self
            .classes
            .iter()
            .zip(0u32..)
            .map(|(name, place)| (name.as_str(), place))
            .collect();
        let mut classes = Vec::new();
        for range in wanted {
            let parts: Vec<(&Shard, Range<usize>)> = (self.shards.iter().enumerate())
                .map(|(number, shard)| {
                    let (start, end) = (self.starts[number], self.starts[number + 1]);
                    let part = range.start.clamp(start, end) - start..range.end.clamp(start, end) - start;
                    (shard, part)
                })
                .filter(|(_, part)| !part.is_empty())
                .collect();
            let labels = threads::each(parts.len(), |number| {
                let (shard, part) = &parts[number];
                self.labels_of(shard, part.clone())
            })?;
            for ((shard, part), labels) in parts.into_iter().zip(labels) {
                let wrong = |place: usize, what: String| {
                    Error::dataset(
                        &self.layout.path,
                        format!("{}: {what}", shard.origin(part.start + place)),
                        "correct the label, or choose other rows, another split or another --label-column-name",
                    )
                };
                let last = self.classes.len().saturating_sub(1);
                match labels {
                    Labels::Numbers(numbers) => {
                        for (place, number) in numbers.into_iter().enumerate() {
                            classes.push(match number {
                                Some(number) if (0..=last as i64).contains(&number) => number as u32,
                                Some(-1) => {
                                    return Err(wrong(place, "the label is -1, which means unknown".to_owned()));
                                }
                                None => return Err(wrong(place, "the label is missing".to_owned())),
                                Some(number) => {
                                    return Err(wrong(
                                        place,
                                        format!("the label is {number}, but classes go from 0 to {last}"),
                                    ));
                                }
                            });
                        }
                    }
                    Labels::Names(names) => {
                        for (place, name) in names.into_iter().enumerate() {
                            let name = name.ok_or_else(|| wrong(place, "the label is missing".to_owned()))?;
                            let class = places.get(name.as_str());
                            classes.push(*class.ok_or_else(|| wrong(place, format!("there is no class `{name}`")))?);
                        }
                    }
                }
            }
        }
        Ok(classes)
    }
}

/// Sorted texts, or the numbers from 0 to the largest. Nulls and negative numbers make no class.
fn class_names<'a>(path: &Path, labels: impl Iterator<Item = &'a Labels>) -> Result<Vec<String>> {
    const MOST: i64 = 1_000_000;
    let mut largest = -1;
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for labels in labels {
        match labels {
            Labels::Numbers(numbers) => largest = largest.max(numbers.iter().flatten().copied().max().unwrap_or(-1)),
            Labels::Names(texts) => names.extend(texts.iter().flatten().map(String::as_str)),
        }
    }
    if largest >= MOST {
        return Err(Error::dataset(
            path,
            format!("the largest label is {largest}: these are no class numbers"),
            "choose another --label-column-name",
        ));
    }
    if largest >= 0 && !names.is_empty() {
        return Err(Error::dataset(
            path,
            "labels are names in one place and numbers in another",
            "use one of the two",
        ));
    }
    let numbers = (0..=largest).map(|number| number.to_string());
    let classes: Vec<String> = numbers.chain(names.into_iter().map(str::to_owned)).collect();
    if classes.is_empty() {
        return Err(Error::dataset(
            path,
            "no row has a label",
            "choose another dataset or another --label-column-name",
        ));
    }
    Ok(classes)
}
