//! What the names of files say about their splits, and whether files are missing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::keywords::{self, Place};
use super::layout::SplitFiles;
use crate::error::{Error, Result};

/// The splits that the names of files and directories make.
pub(super) fn by_names(path: &Path, files: &[&str], config: Option<&str>) -> Result<Vec<SplitFiles>> {
    let mut splits = hub_shards(files);
    if splits.is_empty() {
        splits = conversion_branch(path, files, config)?;
    }
    for place in [Place::Directory, Place::FileName] {
        if splits.is_empty() {
            let assigned = keywords::assign(files, place).into_iter();
            splits = assigned.map(|(name, files)| split_of(name, &files)).collect();
        }
    }
    if splits.is_empty() && !files.is_empty() {
        splits.push(split_of("train", files));
    }
    splits.sort_by(|a, b| keywords::sort_key(&a.name).cmp(&keywords::sort_key(&b.name)));
    for split in &splits {
        check_shards_are_complete(path, &split.files.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    Ok(splits)
}

fn split_of(name: &str, files: &[&str]) -> SplitFiles {
    SplitFiles {
        name: name.to_owned(),
        files: files.iter().map(|&file| file.to_owned()).collect(),
    }
}

/// `data/{split}-NNNNN-of-NNNNN*`
fn hub_shards(files: &[&str]) -> Vec<SplitFiles> {
    let mut by_split: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for file in files {
        if let Some(name) = file.strip_prefix("data/")
            && !name.contains('/')
            && let Some(shard) = ShardName::parse(name)
        {
            by_split.entry(shard.prefix).or_default().push(file);
        }
    }
    by_split
        .into_iter()
        .map(|(split, files)| split_of(split, &files))
        .collect()
}

/// `{config}/{split}/0000.parquet`, or `{split}/0000.parquet` where a configuration's directory itself was given.
fn conversion_branch(path: &Path, files: &[&str], config: Option<&str>) -> Result<Vec<SplitFiles>> {
    let mut by_config: BTreeMap<&str, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    for file in files {
        let parts: Vec<&str> = file.split('/').collect();
        let (config, split, name) = match parts.as_slice() {
            [config, split, name] => (*config, split, name),
            [split, name] => ("", split, name),
            _ => return Ok(Vec::new()),
        };
        let number = name.strip_suffix(".parquet").unwrap_or("");
        if number.len() != 4 || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(Vec::new());
        }
        by_config
            .entry(config)
            .or_default()
            .entry(split)
            .or_default()
            .push(file);
    }
    let names: Vec<&str> = by_config.keys().copied().collect();
    let chosen = match (config, names.as_slice()) {
        (_, []) => return Ok(Vec::new()),
        (Some(config), _) if by_config.contains_key(config) => config,
        (None, [only]) => only,
        (None, names) if names.contains(&"default") => "default",
        (given, _) => {
            return Err(Error::dataset(
                path,
                match given {
                    Some(config) => format!("there is no configuration `{config}`"),
                    None => format!("there are {} configurations", names.len()),
                },
                format!("choose one with --dataset-config-name: {}", names.join(", ")),
            ));
        }
    };
    let splits = by_config.remove(chosen).unwrap_or_default();
    for (split, files) in &splits {
        let last = files.len() - 1;
        if !files[last].ends_with(&format!("{last:04}.parquet")) {
            return Err(Error::dataset(
                path,
                format!(
                    "split `{split}` has {} shards, but the last one is called {}",
                    files.len(),
                    files[last]
                ),
                "complete the download",
            ));
        }
    }
    Ok(splits.iter().map(|(split, files)| split_of(split, files)).collect())
}

/// `{prefix}-{number}-of-{total}{rest}`, both numbers with five digits.
struct ShardName<'a> {
    prefix: &'a str,
    number: usize,
    total: usize,
    rest: &'a str,
}

impl ShardName<'_> {
    fn parse(file: &str) -> Option<ShardName<'_>> {
        const DIGITS: usize = 5;
        let number = |text: &str| match text.len() == DIGITS && text.bytes().all(|b| b.is_ascii_digit()) {
            true => text.parse().ok(),
            false => None,
        };
        let middle = file.rfind("-of-")?;
        let (before, after) = (&file[..middle], &file[middle + "-of-".len()..]);
        let (prefix, index) = before.rsplit_once('-')?;
        Some(ShardName {
            prefix,
            number: number(index)?,
            total: number(after.get(..DIGITS)?)?,
            rest: &after[DIGITS..],
        })
    }
}

/// Every sequence NNNNN-of-NNNNN must have all its members.
pub(super) fn check_shards_are_complete(path: &Path, files: &[&str]) -> Result<()> {
    let mut sequences: BTreeMap<(&str, usize), BTreeSet<usize>> = BTreeMap::new();
    for shard in files.iter().filter_map(|file| ShardName::parse(file)) {
        sequences
            .entry((shard.prefix, shard.total))
            .or_default()
            .insert(shard.number);
    }
    for ((prefix, total), numbers) in &sequences {
        let missing: Vec<usize> = (0..*total).filter(|number| !numbers.contains(number)).collect();
        if let Some(first) = missing.first() {
            let rest = files
                .iter()
                .filter_map(|file| ShardName::parse(file))
                .find(|shard| shard.prefix == *prefix);
            let rest = rest.map_or(".parquet", |shard| shard.rest);
            return Err(Error::dataset(
                path,
                format!(
                    "{} of {total} shards are missing, the first is {prefix}-{first:05}-of-{total:05}{rest}",
                    missing.len()
                ),
                "complete the download",
            ));
        }
        if let Some((_, other)) = sequences.keys().find(|(name, other)| name == prefix && other != total) {
            return Err(Error::dataset(
                path,
                format!("{prefix} has shards of two sequences, -of-{total:05} and -of-{other:05}"),
                "remove the older ones, or their rows count twice",
            ));
        }
    }
    Ok(())
}
