//! A dataset by name: which files of its repository the wanted rows lie in.

use std::path::Path;

use super::{is_remote, used};
use crate::data::{Columns, Source};
use crate::error::{Error, Result};
use crate::hub::{Hub, Kind, Remote, Repository};

/// A directory, a file or a name on the Hub.
#[derive(Clone, Copy, Debug)]
pub struct DatasetName<'a> {
    pub name: &'a str,
    pub revision: Option<&'a str>,
    pub configuration: Option<&'a str>,
}

/// Where the Hub keeps its own Parquet copy of datasets that are made in another way.
const CONVERTED: &str = "refs/convert/parquet";

impl DatasetName<'_> {
    /// The dataset with as much of it as `splits` need; it is downloaded if it has to.
    pub fn place(&self, hub: &Hub, splits: &[&str], columns: &Columns, notes: &mut Vec<String>) -> Result<Source> {
        if !is_remote(self.name) {
            return Ok(Source {
                configuration: self.configuration.map(str::to_owned),
                ..Source::local(Path::new(self.name))
            });
        }
        let repository = Repository::new(Kind::Dataset, self.name, self.revision);
        let remote = hub.open(&repository)?;
        let source = self.source(&remote);
        if source.is_readable() {
            fetch(&remote, &source, splits, columns)?;
            notes.push(used(&remote));
            return Ok(source);
        }
        // Without a revision of the user's own, the Hub's copy of the newest commit is as good.
        let converted = match repository.is_at_main() {
            true => hub.open(&repository.at(CONVERTED)).ok(),
            false => None,
        };
        let Some(converted) = converted else {
            return Err(Error::hub(
                format!("{repository} has no Parquet, Arrow or image files, and no {CONVERTED} branch"),
                "choose another dataset, or save this one with datasets' save_to_disk and name the directory",
            ));
        };
        let source = self.source(&converted);
        fetch(&converted, &source, splits, columns)?;
        notes.push(used(&converted));
        Ok(source)
    }

    fn source(&self, remote: &Remote) -> Source {
        Source {
            path: remote.directory(),
            configuration: self.configuration.map(str::to_owned),
            files: Some(remote.files()),
        }
    }
}

fn fetch(remote: &Remote, source: &Source, splits: &[&str], columns: &Columns) -> Result<()> {
    // The directory is made even if nothing has to come.
    loop {
        let missing = source
            .missing(splits, columns)
            .map_err(|error| by_name(remote, error))?;
        if missing.is_empty() {
            return Ok(());
        }
        remote.fetch(&missing)?;
    }
}

/// The dataset is called by its name instead of its place in the cache.
fn by_name(remote: &Remote, error: Error) -> Error {
    match error {
        Error::Dataset { path, what, fix } if path == remote.directory() => Error::Dataset {
            path: remote.repository().id.clone().into(),
            what,
            fix,
        },
        other => other,
    }
}
