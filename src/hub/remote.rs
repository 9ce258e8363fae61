//! A repository at one commit, and its files as a directory.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::cache::Folder;
use super::download::{self, Wanted};
use super::name::Repository;
use super::open::Hub;
use super::progress::{Progress, Visibility};
use super::refusal::Trouble;
use super::tree::Tree;
use crate::error::{Error, Result};

/// A repository at one commit.
pub struct Remote<'a> {
    pub(super) hub: &'a Hub,
    pub(super) repository: Repository,
    pub(super) folder: Folder,
    pub(super) commit: String,
    /// All its files. None: only the cache is there, and it does not know.
    pub(super) tree: Option<Tree>,
    pub(super) source: Came,
    /// Something that the user should know.
    pub(super) note: Option<String>,
}

/// Where a repository's list of files came from, and where files may come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    Network,
    Cache,
}

/// Files that arrive at the same time.
const CONNECTIONS: usize = 8;

impl Remote<'_> {
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The commit that the revision means.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The directory that files come to lie in.
    pub fn directory(&self) -> PathBuf {
        self.folder.snapshot(&self.commit)
    }

    /// All files of the repository, in the order of their paths; those that are here if nobody knows the others.
    pub fn files(&self) -> Vec<String> {
        match &self.tree {
            Some(tree) => tree.keys().cloned().collect(),
            None => {
                let mut files = Vec::new();
                list(&self.directory(), "", &mut files);
                files.sort_unstable();
                files
            }
        }
    }

    /// Brings files that lie in the repository, several at a time. Without a network, all must be in the cache.
    pub fn fetch(&self, paths: &[String]) -> Result<()> {
        let directory = self.directory();
        let missing: Vec<&String> = paths.iter().filter(|path| !directory.join(path).exists()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let tree = match (&self.tree, self.source) {
            (Some(tree), Came::Network) => tree,
            _ => return Err(self.not_cached(&missing)),
        };
        let base = format!(
            "{}/{}/resolve/{}",
            self.hub.client().endpoint(),
            self.repository.page(),
            self.commit
        );
        let mut wanted = Vec::new();
        for path in missing {
            let Some(entry) = tree.get(path) else {
                return Err(Error::hub(
                    format!("{} has no file {path}", self.repository),
                    "look at its list of files on the Hub",
                ));
            };
            let url = format!("{base}/{}", escaped(path));
            wanted.push(Wanted { path, entry, url });
        }
        self.bring(&wanted)
    }

    fn bring(&self, wanted: &[Wanted]) -> Result<()> {
        let settings = self.hub.settings();
        let what = match wanted {
            [one] => format!("{} of {}", one.path, self.repository),
            _ => format!("{} files of {}", wanted.len(), self.repository),
        };
        let visibility = match settings.quiet {
            true => Visibility::Hidden,
            false => Visibility::Shown,
        };
        let total = wanted.iter().map(|wanted| wanted.entry.length()).sum();
        let progress = Progress::new(what, total, visibility);
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<Trouble>> = Mutex::new(None);
        let lock = || failed.lock().expect("no thread panics with it");
        std::thread::scope(|scope| {
            for _ in 0..CONNECTIONS.min(wanted.len()) {
                scope.spawn(|| {
                    while let Some(wanted) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if lock().is_some() {
                            return;
                        }
                        if let Err(trouble) = self.bring_one(wanted, &progress) {
                            lock().get_or_insert(trouble);
                        }
                    }
                });
            }
        });
        let failed = lock().take();
        match failed {
            Some(trouble) => Err(self.hub.explain(trouble, &self.repository)),
            None => {
                progress.finish();
                Ok(())
            }
        }
    }

    fn bring_one(&self, wanted: &Wanted, progress: &Progress) -> Result<(), Trouble> {
        match download::is_here(&self.folder, wanted.entry) {
            true => progress.received(wanted.entry.length()),
            false => download::download(self.hub.client(), &self.folder, wanted, progress)?,
        }
        let name = wanted.entry.name();
        self.folder
            .link(&self.commit, wanted.path, name)
            .map_err(Trouble::Final)
    }

    fn not_cached(&self, missing: &[&String]) -> Error {
        let why = match &self.note {
            Some(note) => note.clone(),
            None => "HF_HUB_OFFLINE forbids to download it".to_owned(),
        };
        Error::hub(
            format!(
                "{}: {} of its files are not in the cache, the first is {}; {why}",
                self.repository,
                missing.len(),
                missing[0]
            ),
            "unset HF_HUB_OFFLINE and connect to the network, or choose a split that is cached",
        )
    }
}

/// All files below a directory, relative to it; what cannot be read is not there.
fn list(directory: &Path, prefix: &str, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match std::fs::metadata(entry.path()) {
            Ok(kind) if kind.is_dir() => list(&entry.path(), &format!("{name}/"), files),
            Ok(_) => files.push(name),
            Err(_) => {}
        }
    }
}

/// A path in an address: everything but letters, digits and `-._~/` as `%XX`.
pub(super) fn escaped(path: &str) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => text.push(byte as char),
            _ => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped_as_addresses_want_it() {
        assert_eq!(escaped("data/train-00000.parquet"), "data/train-00000.parquet");
        assert_eq!(escaped("a b/ü#1?.jpg"), "a%20b/%C3%BC%231%3F.jpg");
    }
}
