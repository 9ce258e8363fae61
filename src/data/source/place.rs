//! Where a dataset lies, and which of its files have to come from elsewhere before it can be opened.

use std::path::{Path, PathBuf};

use super::Columns;
use super::layout::{Kind, Layout, kind_of};
use super::opened::Opened;
use super::rows_needed;
use super::shard::Shard;
use super::walk::Listing;
use crate::data::split::Slice;
use crate::error::Result;
use crate::recipe::AUTO_SPLIT;

/// A dataset to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Directory or file.
    pub path: PathBuf,
    /// One of several configurations.
    pub configuration: Option<String>,
    /// All files of the dataset, where the directory has only some of them: relative, separated by `/`.
    pub files: Option<Vec<String>>,
}

/// How archives end that hold images elsewhere.
const ARCHIVES: [&str; 5] = [".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz"];

impl Source {
    /// A directory or file that has everything.
    pub fn local(path: &Path) -> Source {
        Source {
            path: path.to_owned(),
            configuration: None,
            files: None,
        }
    }

    /// Whether there are shards or images to read: not so where a script, an archive or text makes the dataset.
    pub fn is_readable(&self) -> bool {
        let Some(files) = &self.files else { return true };
        let archive = |file: &String| ARCHIVES.iter().any(|end| file.ends_with(end));
        match kind_of(&Listing::of_names(files)) {
            Some(Kind::Tables) => true,
            Some(Kind::Images) => !files.iter().any(archive),
            None => false,
        }
    }

    /// The splits, with their numbers of files.
    pub fn splits(&self) -> Result<Vec<(String, usize)>> {
        let layout = Layout::discover(self)?;
        Ok(layout
            .splits
            .into_iter()
            .map(|split| (split.name, split.files.len()))
            .collect())
    }

    /// Files that must come before `splits` can be opened; empty: none. What comes may show that more is needed, so ask until
    /// there is nothing to bring. Of shards, those with wanted rows; of image folders everything, since any directory
    /// may be a class.
    pub fn missing(&self, splits: &[&str], columns: &Columns) -> Result<Vec<String>> {
        let is_missing = |file: &&String| !self.path.join(file).exists();
        let all = self.files.iter().flatten();
        // What save_to_disk wrote describes itself in files beside its shards.
        if all
            .clone()
            .any(|file| ["dataset_dict.json", "state.json"].contains(&file.as_str()))
        {
            return Ok(all.filter(is_missing).cloned().collect());
        }
        if let Some(readme) = all.clone().find(|file| *file == "README.md").filter(is_missing) {
            return Ok(vec![readme.clone()]);
        }
        let layout = Layout::discover(self)?;
        let of_all_splits = |layout: &Layout| -> Vec<String> {
            let files = layout.splits.iter().flat_map(|split| &split.files);
            files.filter(is_missing).cloned().collect()
        };
        if layout.kind == Kind::Images {
            return Ok(of_all_splits(&layout));
        }
        let has_validation = layout.splits.iter().any(|split| split.name == "validation");
        let splits: Vec<&str> = splits
            .iter()
            .filter(|&&split| split != AUTO_SPLIT || has_validation)
            .map(|&split| if split == AUTO_SPLIT { "validation" } else { split })
            .collect();
        let mut opened = Opened::new(layout, columns)?;
        let mut missing = Vec::new();
        for expression in &splits {
            let slices = Slice::parse_sum(expression)?;
            for slice in &slices {
                let files = opened.layout.split(&slice.split)?.files.clone();
                let needed = rows_needed(&slices, &slice.split);
                for file in files_to_bring(&opened, &files, needed)? {
                    if !missing.contains(&file) {
                        missing.push(file);
                    }
                }
            }
        }
        if !missing.is_empty() {
            return Ok(missing);
        }
        // Without declared names, the classes are whatever occurs anywhere.
        for expression in &splits {
            for slice in Slice::parse_sum(expression)? {
                opened.open_split(&slice.split, Some(1))?;
            }
        }
        match opened
            .shards
            .iter()
            .filter_map(Shard::table)
            .all(|table| table.classes.is_some())
        {
            true => Ok(Vec::new()),
            false => Ok(of_all_splits(&opened.layout)),
        }
    }
}

/// Those of a split's shards that are missing; with a number of `needed` rows, only as many as hold them, so far as can be
/// told from the shards that are here.
fn files_to_bring(opened: &Opened, files: &[String], needed: Option<usize>) -> Result<Vec<String>> {
    let is_here = |file: &String| opened.layout.root.join(file).exists();
    let Some(needed) = needed else {
        return Ok(files.iter().filter(|file| !is_here(file)).cloned().collect());
    };
    let (mut rows, mut here) = (0, 0);
    for file in files.iter().take_while(|file| is_here(file)) {
        if rows >= needed {
            break;
        }
        rows += opened.open_shard(file)?.rows();
        here += 1;
    }
    if rows >= needed {
        return Ok(Vec::new());
    }
    // Shards of a dataset have about the same number of rows.
    let more = match rows.checked_div(here) {
        None | Some(0) => 1,
        Some(each) => (needed - rows).div_ceil(each),
    };
    Ok(files[here..]
        .iter()
        .take(more)
        .filter(|file| !is_here(file))
        .cloned()
        .collect())
}
