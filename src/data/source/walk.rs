//! Every file below a directory, under its path relative to it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::error::{IoContext, Result};

/// What lies below a directory. Paths are relative to it, separated by `/`, in the order of their characters.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub files: Vec<String>,
    pub directories: Vec<String>,
    /// Links back to a directory that contains them, and links to nothing: not followed.
    pub dead_links: Vec<String>,
}

impl Listing {
    /// Of files that are known by name only, as those of a repository; the same are left out as by [`list`].
    pub fn of_names(names: &[String]) -> Listing {
        let hidden = |name: &String| {
            let mut parts = name.rsplit('/');
            parts.next().is_some_and(|file| file.starts_with('.'))
                || parts.any(|directory| directory.starts_with('.') || directory.starts_with("__"))
        };
        let files: Vec<String> = names.iter().filter(|name| !hidden(name)).cloned().collect();
        let mut directories: BTreeSet<&str> = BTreeSet::new();
        for file in &files {
            directories.extend(file.match_indices('/').map(|(end, _)| &file[..end]));
        }
        let directories = directories.into_iter().map(str::to_owned).collect();
        let mut listing = Listing {
            files,
            directories,
            dead_links: Vec::new(),
        };
        listing.files.sort_unstable();
        listing
    }
}

/// Lists `root`, following links. Hidden entries and directories like `__pycache__` are left out, as datasets does.
pub(super) fn list(root: &Path) -> Result<Listing> {
    let mut listing = Listing::default();
    let mut above = vec![root.canonicalize().at("open", root)?];
    descend(root, "", &mut above, &mut listing)?;
    listing.files.sort_unstable();
    listing.directories.sort_unstable();
    listing.dead_links.sort_unstable();
    Ok(listing)
}

/// `above` holds the real paths of the directories that are being walked, from the root down.
fn descend(directory: &Path, prefix: &str, above: &mut Vec<PathBuf>, listing: &mut Listing) -> Result<()> {
    for entry in std::fs::read_dir(directory).at("list", directory)? {
        let entry = entry.at("list", directory)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        let path = entry.path();
        let relative = format!("{prefix}{name}");
        let mut kind = entry.file_type().at("look at", &path)?;
        if kind.is_symlink() {
            match std::fs::metadata(&path) {
                Ok(target) => kind = target.file_type(),
                Err(_) => {
                    listing.dead_links.push(relative);
                    continue;
                }
            }
        }
        if kind.is_dir() {
            if name.starts_with("__") {
                continue;
            }
            let real = path.canonicalize().at("open", &path)?;
            if above.contains(&real) {
                listing.dead_links.push(relative);
                continue;
            }
            above.push(real);
            descend(&path, &format!("{relative}/"), above, listing)?;
            above.pop();
            listing.directories.push(relative);
        } else if kind.is_file() {
            listing.files.push(relative);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_and_loops_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        std::fs::create_dir_all(at("a/b/__pycache__")).unwrap();
        for file in ["a/b/x", "a/.hidden", "a/b/__pycache__/y", "top"] {
            std::fs::write(at(file), "").unwrap();
        }
        let link = |to: &str, from: &str| std::os::unix::fs::symlink(to, at(from)).unwrap();
        link("../..", "a/b/up");
        link(".", "here");
        link("a", "again");
        link("top", "file_link");
        link("nowhere", "dangling");
        let listing = list(dir.path()).unwrap();
        assert_eq!(listing.files, ["a/b/x", "again/b/x", "file_link", "top"]);
        assert_eq!(listing.directories, ["a", "a/b", "again", "again/b"]);
        assert_eq!(listing.dead_links, ["a/b/up", "again/b/up", "dangling", "here"]);
    }

    #[test]
    fn a_list_of_names_says_what_the_directory_would() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["top", "a/b/x", "a/.hidden", "a/__pycache__/y", ".git/z", "__x"].map(str::to_owned);
        for name in &names {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let (of_names, of_directory) = (Listing::of_names(&names), list(dir.path()).unwrap());
        assert_eq!(of_names.files, of_directory.files);
        assert_eq!(of_names.directories, of_directory.directories);
    }
}
