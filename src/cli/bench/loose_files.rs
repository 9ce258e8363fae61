//! A folder of image files, in the place of a dataset.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::data::Samples;
use crate::error::{IoContext, Result};

/// The files of a folder that has images directly in it, in memory.
#[derive(Clone)]
pub(super) struct LooseFiles(pub Arc<[(String, Bytes)]>);

impl Samples for LooseFiles {
    fn encoded(&self, row: usize) -> Result<Bytes> {
        Ok(self.0[row].1.clone())
    }

    fn label(&self, _row: usize) -> u32 {
        0
    }

    fn origin(&self, row: usize) -> String {
        self.0[row].0.clone()
    }
}

/// Empty if `folder` is something else, such as a dataset. Errors: a file in it cannot be read.
pub(super) fn loose_files(folder: &Path) -> Result<LooseFiles> {
    let mut files = Vec::new();
    if folder.is_dir() {
        let entries = std::fs::read_dir(folder).at("read", folder)?;
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.retain(|path| {
            let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
            ["jpg", "jpeg", "png", "webp", "bmp", "gif"].contains(&extension.to_ascii_lowercase().as_str())
        });
        paths.sort();
        for path in paths {
            let bytes = std::fs::read(&path).at("read", &path)?;
            files.push((path.display().to_string(), Bytes::from(bytes)));
        }
    }
    Ok(LooseFiles(files.into()))
}
