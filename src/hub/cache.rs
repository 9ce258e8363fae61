//! One repository's folder in the cache, laid out as Python's huggingface_hub does:
//!
//! ```text
//!     models--org--name/blobs/<hash>              contents; <hash>.incomplete while they arrive
//!                       refs/<revision>           the commit that a branch or tag meant when it was last asked for
//!                       snapshots/<commit>/path   links to blobs
//!                       trees/<commit>.json       the list of files
//!     .locks/models--org--name/<hash>.lock        held (flock) while a blob is made
//! ```

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::{Cache, CacheRepo};

use super::name::{Repository, is_commit};
use super::tree::{self, Tree};
use crate::error::{IoContext, Result};

pub(super) struct Folder {
    cache: PathBuf,
    name: String,
    repo: CacheRepo,
    revision: String,
}

/// Held until it is dropped.
pub(super) struct Lock {
    _file: Option<File>,
}

const LOCK_WAIT: Duration = Duration::from_millis(100);

impl Folder {
    pub fn new(cache: &Path, repository: &Repository) -> Folder {
        let repo = repository.repo();
        Folder {
            cache: cache.to_owned(),
            name: repo.folder_name(),
            repo: Cache::new(cache.to_owned()).repo(repo),
            revision: repository.revision.clone(),
        }
    }

    /// For a name without an account, as `food101`: the folder of the only account that the cache has such a repository of.
    pub fn of_full_name(&self, cache: &Path, repository: &Repository) -> Option<Folder> {
        if repository.id.contains('/') {
            return None;
        }
        let (kind, end) = (self.name.split("--").next()?, format!("--{}", repository.id));
        let names = std::fs::read_dir(cache).ok()?.flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let ids: Vec<String> = names
            .filter_map(|name| {
                let account = name.strip_prefix(kind)?.strip_prefix("--")?.strip_suffix(&end)?;
                Some(format!("{account}/{}", repository.id))
            })
            .collect();
        match ids.as_slice() {
            [id] => Some(Folder::new(
                cache,
                &Repository::new(repository.kind, id, Some(&repository.revision)),
            )),
            _ => None,
        }
    }

    fn root(&self) -> PathBuf {
        self.cache.join(&self.name)
    }

    /// Directory of a commit's files.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.pointer_path(commit)
    }

    pub fn blob(&self, name: &str) -> PathBuf {
        self.repo.blob_path(name)
    }

    pub fn incomplete(&self, name: &str) -> PathBuf {
        self.root().join("blobs").join(format!("{name}.incomplete"))
    }

    /// The commit that the revision meant when it was last asked for, if any of it is here.
    pub fn commit(&self) -> Option<String> {
        let commit = match is_commit(&self.revision) {
            true => self.revision.clone(),
            false => std::fs::read_to_string(self.reference()).ok()?.trim().to_owned(),
        };
        (is_commit(&commit) && self.snapshot(&commit).is_dir()).then_some(commit)
    }

    /// Notes what the revision means.
    pub fn set_commit(&self, commit: &str) -> Result<()> {
        match is_commit(&self.revision) || self.commit().as_deref() == Some(commit) {
            true => Ok(()),
            false => write_whole(&self.reference(), commit),
        }
    }

    fn reference(&self) -> PathBuf {
        self.root().join("refs").join(&self.revision)
    }

    /// The list of a commit's files, if it was kept.
    pub fn tree(&self, commit: &str) -> Option<Tree> {
        tree::read(&std::fs::read_to_string(self.tree_path(commit)).ok()?)
    }

    pub fn set_tree(&self, commit: &str, tree: &Tree) -> Result<()> {
        write_whole(&self.tree_path(commit), &tree::write(tree))
    }

    fn tree_path(&self, commit: &str) -> PathBuf {
        self.root().join("trees").join(format!("{commit}.json"))
    }

    /// Waits until nobody else makes this blob. `waiting` is called once if that takes time.
    pub fn lock(&self, blob: &str, waiting: impl FnOnce()) -> Result<Lock> {
        let folder = self.cache.join(".locks").join(&self.name);
        std::fs::create_dir_all(&folder).at("create", &folder)?;
        let path = folder.join(format!("{blob}.lock"));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .at("open", &path)?;
        let mut waiting = Some(waiting);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { _file: Some(file) }),
                Err(TryLockError::WouldBlock) => {
                    if let Some(waiting) = waiting.take() {
                        waiting();
                    }
                    std::thread::sleep(LOCK_WAIT);
                }
                // Some file systems have no locks; what is written is checked and renamed, so the worst is work done twice.
                Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {
                    return Ok(Lock { _file: None });
                }
                Err(TryLockError::Error(error)) => return Err(error).at("lock", &path),
            }
        }
    }

    /// Makes `path` in a commit's snapshot lead to a blob; a copy where the file system has no links.
    pub fn link(&self, commit: &str, path: &str, blob: &str) -> Result<()> {
        let place = self.snapshot(commit).join(path);
        if place.exists() {
            return Ok(());
        }
        let folder = place.parent().expect("a snapshot's file has a folder");
        std::fs::create_dir_all(folder).at("create", folder)?;
        let up = "../".repeat(path.matches('/').count() + 2);
        // One that leads nowhere, after somebody deleted the blob.
        let _ = std::fs::remove_file(&place);
        match std::os::unix::fs::symlink(format!("{up}blobs/{blob}"), &place) {
            Ok(()) => Ok(()),
            // Another process was quicker.
            Err(_) if place.exists() => Ok(()),
            Err(_) => std::fs::copy(self.blob(blob), &place).map(|_| ()).at("write", &place),
        }
    }
}

/// Writes a small file beside its place and renames it, so that readers see all of it or the one before.
fn write_whole(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().expect("a cache's file has a folder");
    std::fs::create_dir_all(folder).at("create", folder)?;
    let name = path.file_name().expect("a cache's file has a name").to_string_lossy();
    let beside = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    std::fs::write(&beside, text).at("write", &beside)?;
    std::fs::rename(&beside, path).at("write", path)
}
