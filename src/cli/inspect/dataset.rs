//! A dataset: its splits, classes and counts, and how large its images are that can be read.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::data::decode::decode;
use crate::data::{Columns, Dataset, Source};
use crate::error::Result;

/// Unreadable images that are named.
const NAMED: usize = 10;
/// Images that are looked at side by side: where one is read, its neighbours mostly are too.
const RUN: usize = 8;
/// Of encoded images that were read.
const MEMORY: usize = 64 << 20;

/// `splits`: those to look into; all if it is empty and everything is here. `images`: how many to decode of each.
pub fn describe(source: &Source, splits: &[&str], columns: &Columns, images: usize) -> Result<String> {
    let known = source.splits()?;
    let mut text = format!("dataset  {}\n", source.path.display());
    for (name, files) in &known {
        text += &format!("split    {name}: {files} file{}\n", if *files == 1 { "" } else { "s" });
    }
    let names: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
    let wanted = match (splits.is_empty(), &source.files) {
        (false, _) => splits.to_vec(),
        (true, None) => names,
        (true, Some(_)) => {
            text += "its rows are not downloaded: --split NAME does so, and tells classes and sizes\n";
            return Ok(text);
        }
    };
    let mut notes = Vec::new();
    for (number, split) in wanted.iter().enumerate() {
        let dataset = Dataset::open_source(source, split, columns)?;
        let description = dataset.describe();
        if number == 0 {
            let column = |name: &Option<String>| name.clone().unwrap_or("files and folders".to_owned());
            text += &format!(
                "columns  images in {}, labels in {}{}\n",
                column(&description.image_column),
                column(&description.label_column),
                match description.ignored_columns.as_slice() {
                    [] => String::new(),
                    ignored => format!("; not read: {}", ignored.join(", ")),
                }
            );
            notes = description.notes.clone();
        }
        text += &format!(
            "\n{split}: {} rows, {} classes\n",
            dataset.len(),
            dataset.classes().len()
        );
        let width = description
            .classes
            .iter()
            .map(|(name, _)| name.chars().count())
            .max()
            .unwrap_or(0);
        for (name, rows) in &description.classes {
            text += &format!("  {name:<width$} {rows:>7}\n");
        }
        text += &looked_at(&dataset, images)?;
    }
    for note in notes {
        text += &format!("note: {note}\n");
    }
    Ok(text)
}

/// Width and height of an image, or why it cannot be read.
type Size = Result<(usize, usize), String>;

/// Decodes some of the images.
fn looked_at(dataset: &Dataset, images: usize) -> Result<String> {
    let count = images.min(dataset.len());
    if count == 0 {
        return Ok(String::new());
    }
    dataset.keep_in_memory(MEMORY);
    let runs = count.div_ceil(RUN);
    let first = |total: usize, run: usize| total * run / runs;
    let rows = |run: usize| {
        let start = first(dataset.len(), run);
        let end = start + first(count, run + 1) - first(count, run);
        start..end.min(first(dataset.len(), run + 1))
    };
    let looked: Vec<(usize, Size)> = (0..runs)
        .into_par_iter()
        .flat_map_iter(rows)
        .map(|row| {
            let size = dataset
                .encoded(row)
                .map_err(|error| error.to_string())
                .and_then(|bytes| {
                    let picture = decode(&bytes)?;
                    Ok((picture.width, picture.height))
                });
            (row, size)
        })
        .collect();
    let mut sizes: Vec<(usize, usize)> = looked.iter().filter_map(|(_, size)| size.clone().ok()).collect();
    let mut text = format!("  {count} images decoded");
    if !sizes.is_empty() {
        let mut often: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        sizes.iter().for_each(|size| *often.entry(*size).or_default() += 1);
        let (most, times) = often.iter().max_by_key(|(_, times)| **times).expect("there are sizes");
        sizes.sort_by_key(|(width, height)| width * height);
        let size = |(width, height): (usize, usize)| format!("{width}x{height}");
        text += &format!(
            ": from {} over {} to {} pixels, {} most often ({times})",
            size(sizes[0]),
            size(sizes[sizes.len() / 2]),
            size(sizes[sizes.len() - 1]),
            size(*most)
        );
    }
    text.push('\n');
    let bad: Vec<String> = looked
        .iter()
        .filter_map(|(row, size)| Some(format!("{}: {}", dataset.origin(*row), size.as_ref().err()?)))
        .collect();
    if !bad.is_empty() {
        text += &format!("  {} cannot be read:\n", bad.len());
        bad.iter()
            .take(NAMED)
            .for_each(|line| text += &format!("    {}\n", line.replace('\n', " ")));
    }
    Ok(text)
}
