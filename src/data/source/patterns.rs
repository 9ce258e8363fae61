//! The files that the patterns of a README mean: `data/train-*`, `**/*.parquet`.

use std::path::Path;

use super::layout::{Kind, SplitFiles, is_of_kind};
use super::shard_names::check_shards_are_complete;
use super::walk::Listing;
use crate::error::{Error, Result};

/// The splits that the README's patterns make.
pub(super) fn by_patterns(
    path: &Path,
    listing: &Listing,
    kind: Kind,
    data_dir: Option<&str>,
    entries: &[(String, Vec<String>)],
) -> Result<Vec<SplitFiles>> {
    let card = path.join("README.md");
    let options = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: false,
    };
    let mut splits = Vec::new();
    for (split, patterns) in entries {
        if splits.iter().any(|known: &SplitFiles| known.name == *split) {
            return Err(Error::dataset(
                &card,
                format!("split `{split}` stands in data_files more than once"),
                "give it once, with a list of paths",
            ));
        }
        let mut files: Vec<String> = Vec::new();
        let mut shards = Vec::new();
        for pattern in patterns {
            let wrong = |what: &str| {
                Error::dataset(
                    &card,
                    format!("the path `{pattern}` of split `{split}` {what}"),
                    "correct data_files in the README, or complete the download",
                )
            };
            let mut full = pattern.trim_start_matches("./").to_owned();
            if let Some(directory) = data_dir {
                full = format!("{}/{full}", directory.trim_start_matches("./").trim_end_matches('/'));
            }
            let compiled = glob::Pattern::new(&full).map_err(|_| wrong("is not a pattern"))?;
            let matches: Vec<&str> = listing
                .files
                .iter()
                .map(String::as_str)
                .filter(|file| compiled.matches_with(file, options))
                .collect();
            if matches.is_empty() {
                return Err(wrong("meets no file"));
            }
            let readable: Vec<&str> = matches.into_iter().filter(|file| is_of_kind(file, kind)).collect();
            if readable.is_empty() {
                return Err(wrong(
                    "meets only files that are neither Parquet nor Arrow shards nor images",
                ));
            }
            if full.contains(['*', '?', '[']) {
                shards.extend(readable.iter().copied());
            }
            for file in readable {
                if !files.iter().any(|known| known == file) {
                    files.push(file.to_owned());
                }
            }
        }
        // Shards that are named one by one may be a part on purpose.
        check_shards_are_complete(path, &shards)?;
        splits.push(SplitFiles {
            name: split.clone(),
            files,
        });
    }
    Ok(splits)
}
