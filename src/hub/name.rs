//! What is on the Hub by which name, and how such a name looks.

use std::fmt;

use hf_hub::{Repo, RepoType};

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Model,
    Dataset,
}

/// A repository of the Hub at one of its revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    pub kind: Kind,
    /// `org/name`, or a name alone for the oldest ones (`food101`).
    pub id: String,
    /// Branch, tag or commit.
    pub revision: String,
}

const MAIN: &str = "main";
const LONGEST_NAME: usize = 96;

impl Repository {
    /// `revision`: the branch `main` if absent.
    pub fn new(kind: Kind, id: &str, revision: Option<&str>) -> Repository {
        Repository {
            kind,
            id: id.to_owned(),
            revision: revision.unwrap_or(MAIN).to_owned(),
        }
    }

    /// The same repository at another revision.
    pub fn at(&self, revision: &str) -> Repository {
        Repository::new(self.kind, &self.id, Some(revision))
    }

    /// Whether the revision is the one that nobody asked for.
    pub fn is_at_main(&self) -> bool {
        self.revision == MAIN
    }

    /// The same in the words of hf-hub, which knows addresses and folders.
    pub(super) fn repo(&self) -> Repo {
        let kind = match self.kind {
            Kind::Model => RepoType::Model,
            Kind::Dataset => RepoType::Dataset,
        };
        Repo::with_revision(self.id.clone(), kind, self.revision.clone())
    }

    /// Path of the page that a person would open.
    pub(super) fn page(&self) -> String {
        self.repo().url()
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Model => "model",
            Kind::Dataset => "dataset",
        };
        write!(f, "{kind} {}", self.id)?;
        match self.is_at_main() {
            true => Ok(()),
            false => write!(f, " (revision {})", self.revision),
        }
    }
}

/// Could this be a repository's name? One or two parts of letters, digits, `-`, `_` and `.`, as huggingface_hub checks it.
pub fn is_name(text: &str) -> bool {
    let part = |part: &str| {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !part.is_empty() && part.chars().all(legal) && !part.starts_with(['-', '.']) && !part.ends_with(['-', '.'])
    };
    let parts: Vec<&str> = text.split('/').collect();
    (1..=2).contains(&parts.len())
        && parts.into_iter().all(part)
        && text.len() <= LONGEST_NAME
        && !text.contains("--")
        && !text.contains("..")
        && !text.ends_with(".git")
}

/// A commit's full name, which never comes to mean anything else.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_are_told_apart() {
        for name in [
            "food101",
            "ethz/food101",
            "google/vit-base-patch16-224-in21k",
            "a.b_c/d-1",
        ] {
            assert!(is_name(name), "{name}");
        }
        let long = "x".repeat(97);
        for path in [
            "", "/", "./model", "../a", "/a/b", "a/b/c", "~/a", "a--b", "a b", "a/", "-a/b", "a/b.git", ".", &long,
        ] {
            assert!(!is_name(path), "{path}");
        }
    }

    #[test]
    fn repositories_have_the_caches_folder_names() {
        let dataset = Repository::new(Kind::Dataset, "ethz/food101", Some("refs/convert/parquet"));
        assert_eq!(dataset.repo().folder_name(), "datasets--ethz--food101");
        assert_eq!(dataset.page(), "datasets/ethz/food101");
        assert_eq!(
            dataset.to_string(),
            "dataset ethz/food101 (revision refs/convert/parquet)"
        );
        assert!(is_commit("0123456789abcdef0123456789abcdef01234567") && !is_commit("main"));
    }
}
