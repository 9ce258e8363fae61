//! Every file below a directory, under its path relative to it.

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
}
