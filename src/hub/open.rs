//! From a name to a repository at one commit: asked for over the network, or taken from the cache.

use serde_json::Value;

use super::cache::Folder;
use super::client::Client;
use super::name::{Kind, Repository, is_commit};
use super::refusal::{Denial, TokenSent, Trouble};
use super::remote::{Came, Remote};
use super::settings::Settings;
use super::similar;
use super::tree::{self, Tree};
use crate::error::{Error, Result};

/// The Hub, as far as this process's settings reach.
pub struct Hub {
    settings: Settings,
    client: Client,
}

impl Hub {
    /// Errors: the certificates that the settings name cannot be read.
    pub fn new(settings: Settings) -> Result<Hub> {
        Ok(Hub {
            client: Client::new(&settings)?,
            settings,
        })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn is_offline(&self) -> bool {
        self.settings.offline
    }

    /// Finds out what the repository's revision means. Without a network, what the cache has of it counts, with a note.
    pub fn open(&self, repository: &Repository) -> Result<Remote<'_>> {
        let folder = Folder::new(&self.settings.cache, repository);
        if self.settings.offline {
            return self.cached(repository, folder);
        }
        let trouble = match self.ask(repository, &folder) {
            Ok((commit, tree)) => {
                return Ok(Remote {
                    hub: self,
                    repository: repository.clone(),
                    folder,
                    commit,
                    tree: Some(tree),
                    source: Came::Network,
                    note: None,
                });
            }
            Err(trouble) => trouble,
        };
        if matches!(trouble, Trouble::Unreachable { .. } | Trouble::Passing { .. }) && folder.commit().is_some() {
            let mut remote = self.cached(repository, folder)?;
            let what = match trouble.about(repository, self.client.token_sent()) {
                Error::Hub { what, .. } => what,
                other => other.to_string(),
            };
            remote.note = Some(format!("{what}; what the cache has is used instead"));
            return Ok(remote);
        }
        Err(self.explain(trouble, repository))
    }

    /// Commit and files, from the network; the cache is told.
    fn ask(&self, repository: &Repository, folder: &Folder) -> Result<(String, Tree), Trouble> {
        // What a commit holds never changes.
        if is_commit(&repository.revision)
            && let (Some(commit), Some(tree)) = (folder.commit(), folder.tree(&repository.revision))
        {
            return Ok((commit, tree));
        }
        let api = format!("{}/api", self.client.endpoint());
        let url = format!("{api}/{}", repository.repo().api_url());
        let (text, _) = self.client.persist(|| self.client.text(&url))?;
        let info: Option<Value> = serde_json::from_str(&text).ok();
        let commit = info
            .as_ref()
            .and_then(|info| info["sha"].as_str())
            .filter(|sha| is_commit(sha));
        let commit = commit.map(str::to_owned).ok_or_else(|| {
            Trouble::Final(Error::hub(
                format!("{url} does not say which commit {} is", repository.revision),
                "check HF_ENDPOINT",
            ))
        })?;
        // A cache that cannot be written, but has everything, will do.
        let _ = folder.set_commit(&commit);
        let _ = std::fs::create_dir_all(folder.snapshot(&commit));
        if let Some(tree) = folder.tree(&commit) {
            return Ok((commit, tree));
        }
        let kind = match repository.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        let url = format!(
            "{api}/{kind}/{}/tree/{commit}?recursive=true&expand=false",
            repository.id
        );
        let tree = tree::ask(&self.client, &url)?;
        let _ = folder.set_tree(&commit, &tree);
        Ok((commit, tree))
    }

    fn cached(&self, repository: &Repository, folder: Folder) -> Result<Remote<'_>> {
        let full_name = match folder.commit() {
            Some(_) => None,
            None => folder.of_full_name(&self.settings.cache, repository),
        };
        let folder = full_name.unwrap_or(folder);
        let Some(commit) = folder.commit() else {
            return Err(Error::hub(
                format!(
                    "{repository} is not in the cache {}, and HF_HUB_OFFLINE forbids to download it",
                    self.settings.cache.display()
                ),
                "unset HF_HUB_OFFLINE, set HF_HOME to the cache that has it, or name a local directory",
            ));
        };
        Ok(Remote {
            hub: self,
            repository: repository.clone(),
            tree: folder.tree(&commit),
            folder,
            commit,
            source: Came::Cache,
            note: None,
        })
    }

    /// The error of a request about a repository, with names near it if there is none of that name.
    pub(super) fn explain(&self, trouble: Trouble, repository: &Repository) -> Error {
        let strange = match &trouble {
            Trouble::Denied { denial, .. } => match denial {
                Denial::NoRepository => true,
                Denial::Unauthorized => self.client.token_sent() == TokenSent::No,
                _ => false,
            },
            _ => false,
        };
        let error = trouble.about(repository, self.client.token_sent());
        let names = match strange {
            true => similar::names(&self.client, repository),
            false => Vec::new(),
        };
        match error {
            Error::Hub { what, fix } if !names.is_empty() => Error::Hub {
                what,
                fix: format!("did you mean {}? Otherwise {fix}", names.join(" or ")),
            },
            other => other,
        }
    }
}
