//! Directories and files that appear whole or not at all: written beside, made durable, renamed.
//!
//! A kill at any instant leaves either the old content under a name or the new one. What a killed run left beside is put
//! right by [`clean`] when the next one begins.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{IoContext, Result};

/// Prefixes of names that are not to be seen after an orderly end.
const WRITING: &str = ".writing-";
const REPLACED: &str = ".replaced-";
const DELETED: &str = ".deleted-";

/// Makes directory `path`, filled by `fill`; one that has this name is replaced. If `fill` fails nothing has changed.
pub fn directory(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let written = sibling(path, WRITING);
    write_beside(&written, fill)?;
    let replaced = sibling(path, REPLACED);
    if path.exists() {
        remove(&replaced)?;
        fs::rename(path, &replaced).at("rename", path)?;
    }
    fs::rename(&written, path).at("rename", &written)?;
    sync_directory(parent(path))?;
    remove(&replaced)
}

/// Puts the files that `fill` writes into directory `path`, which exists, each replacing one of its name. If `fill` fails
/// nothing has changed.
pub fn files(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let written = path.join(format!("{WRITING}files"));
    write_beside(&written, fill)?;
    for file in entries(&written)? {
        let place = path.join(file.file_name().unwrap_or_default());
        fs::rename(&file, &place).at("rename", &file)?;
    }
    sync_directory(path)?;
    remove(&written)
}

/// Deletes directory `path`; a kill in between leaves no half of it under its name.
pub fn delete(path: &Path) -> Result<()> {
    let deleted = sibling(path, DELETED);
    remove(&deleted)?;
    fs::rename(path, &deleted).at("rename", path)?;
    remove(&deleted)
}

/// Removes from `directory` what killed runs left there, and gives a replaced directory its name back if the new one never
/// came. Returns the names of what was removed.
pub fn clean(directory: &Path) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for entry in entries(directory)? {
        let Some(name) = entry.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let original = name.strip_prefix(REPLACED).map(|name| directory.join(name));
        match original {
            Some(original) if !original.exists() => fs::rename(&entry, &original).at("rename", &entry)?,
            None if !name.starts_with(WRITING) && !name.starts_with(DELETED) => {}
            _ => {
                remove(&entry)?;
                removed.push(name.to_owned());
            }
        }
    }
    Ok(removed)
}

/// What lies in `directory`, sorted by name.
pub fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).at("list", directory)? {
        paths.push(entry.at("list", directory)?.path());
    }
    paths.sort();
    Ok(paths)
}

/// A new directory with the files of `fill` in it, on the disk; removed again if anything fails.
fn write_beside(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    remove(path)?;
    fs::create_dir(path).at("create", path)?;
    let done = fill(path).and_then(|()| {
        for file in entries(path)? {
            File::open(&file).and_then(|file| file.sync_all()).at("write", &file)?;
        }
        sync_directory(path)
    });
    if done.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_dir_all(path);
    }
    done
}

fn sync_directory(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .at("write", path)
}

/// Removes a directory if it is there.
fn remove(path: &Path) -> Result<()> {
    match path.exists() {
        true => fs::remove_dir_all(path).at("remove", path),
        false => Ok(()),
    }
}

fn sibling(path: &Path, prefix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    parent(path).join(format!("{prefix}{name}"))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn put(directory: &Path, name: &str, text: &str) -> Result<()> {
        let path = directory.join(name);
        fs::write(&path, text).at("write", &path)
    }

    fn names(directory: &Path) -> Vec<String> {
        let paths = entries(directory).unwrap();
        paths
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn a_directory_is_replaced_as_a_whole() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("checkpoint-7");
        directory(&path, |d| put(d, "a", "old").and_then(|()| put(d, "b", "old"))).unwrap();
        directory(&path, |d| put(d, "a", "new")).unwrap();
        assert_eq!(
            (names(place.path()), names(&path)),
            (vec!["checkpoint-7".into()], vec!["a".into()])
        );
        assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "new");
    }

    #[test]
    fn a_failure_changes_nothing() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("checkpoint-7");
        directory(&path, |d| put(d, "a", "old")).unwrap();
        let failing = |d: &Path| put(d, "a", "new").and_then(|()| Err(Error::usage("disk full", "free some")));
        assert!(directory(&path, failing).is_err());
        assert!(files(place.path(), failing).is_err());
        assert_eq!(names(place.path()), ["checkpoint-7"]);
        assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "old");
    }

    #[test]
    fn files_come_beside_what_is_there() {
        let place = tempfile::tempdir().unwrap();
        put(place.path(), "old", "1").unwrap();
        put(place.path(), "both", "1").unwrap();
        files(place.path(), |d| put(d, "both", "2").and_then(|()| put(d, "new", "2"))).unwrap();
        assert_eq!(names(place.path()), ["both", "new", "old"]);
        assert_eq!(fs::read_to_string(place.path().join("both")).unwrap(), "2");
    }

    #[test]
    fn cleaning_puts_right_what_a_kill_left_at_any_instant() {
        let place = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            fs::create_dir(place.path().join(name)).unwrap();
            put(&place.path().join(name), "file", name).unwrap();
        };
        // Killed while writing 3, between the two renames of 2, after both of 1, and while deleting 0.
        for name in [
            ".writing-c-3",
            ".replaced-c-2",
            ".writing-c-2",
            "c-1",
            ".replaced-c-1",
            ".deleted-c-0",
            ".hidden",
        ] {
            make(name);
        }
        assert_eq!(
            clean(place.path()).unwrap(),
            [".deleted-c-0", ".replaced-c-1", ".writing-c-2", ".writing-c-3"]
        );
        assert_eq!(names(place.path()), [".hidden", "c-1", "c-2"]);
        assert_eq!(fs::read_to_string(place.path().join("c-1/file")).unwrap(), "c-1");
    }
}
