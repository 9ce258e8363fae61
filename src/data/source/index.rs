//! What was found out about a dataset's shards, kept on disk: the next run opens hundreds of them by reading one file.
//!
//! For each shard: columns, rows, row groups or record batches, labels. An entry counts only for a file of the same size and times of
//! change. The index lies in the user's cache, never beside the data, and appears whole: it is written under another name
//! first and ends with a hash of itself. One that is damaged, or that another version wrote, is made anew; where nothing
//! can be written or read, a dataset is opened as if there were none. Small datasets have none.

mod stamp;

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::features::{Columns, Features};
use super::shard::Table;
use super::stored_labels::{Form, StoredLabels};
use super::table_shard::{Stretch, TableShard, Wanted};
pub(super) use stamp::Stamp;

/// Datasets of fewer rows open quickly without.
const INDEXED_FROM: usize = 50_000;
const MAGIC: &[u8] = b"dtrain index 1\n";
const HASH_BYTES: usize = 32;

/// The entries of a dataset's index.
pub(super) struct Index {
    /// None: nothing is kept.
    file: Option<PathBuf>,
    /// Of how many rows an index is written.
    from_rows: usize,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    /// By the shards' names.
    of: HashMap<String, Entry>,
    /// There are some that the file does not have.
    grown: bool,
}

#[derive(Clone)]
struct Entry {
    stamp: Stamp,
    table: Table,
    stretches: Arc<[Stretch]>,
    labels: StoredLabels,
}

impl Index {
    /// That of the dataset in `root`, opened for these columns; reads it if there is one.
    pub fn of(root: &Path, columns: &Columns, features: Option<&Features>) -> Index {
        Index::within(directory().as_deref(), root, columns, features, INDEXED_FROM)
    }

    /// Nothing is remembered.
    pub fn none() -> Index {
        Index {
            file: None,
            from_rows: usize::MAX,
            entries: Mutex::default(),
        }
    }

    fn within(
        directory: Option<&Path>,
        root: &Path,
        columns: &Columns,
        features: Option<&Features>,
        from_rows: usize,
    ) -> Index {
        let (Some(directory), Ok(real)) = (directory, root.canonicalize()) else {
            return Index::none();
        };
        let name = digest(
            &SHA256,
            format!("{}\n{columns:?}\n{features:?}", real.display()).as_bytes(),
        );
        let name: String = name.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        let file = directory.join(name);
        let entries = std::fs::read(&file).ok().and_then(|bytes| read(bytes.into(), root));
        Index {
            file: Some(file),
            from_rows,
            entries: Mutex::new(Entries {
                of: entries.unwrap_or_default(),
                grown: false,
            }),
        }
    }

    /// What is known of the shard `name`, if the file is still the same.
    pub fn shard(&self, path: &Path, name: &str, wanted: &Arc<Wanted>) -> Option<TableShard> {
        let entry = self.lock().of.get(name)?.clone();
        let stamp = Stamp::of(path).filter(|stamp| *stamp == entry.stamp)?;
        let Entry {
            table,
            stretches,
            labels,
            ..
        } = entry;
        Some(TableShard::known(table, stretches, stamp, labels, wanted.clone()))
    }

    /// Takes note of a shard whose labels have all been read, unless its file has changed meanwhile.
    pub fn learn(&self, shard: &TableShard) {
        let (Some(stamp), Some(labels)) = (shard.stamp, shard.known_labels()) else {
            return;
        };
        let mut entries = self.lock();
        let is_known = |entry: &Entry| entry.stamp == stamp;
        if self.file.is_none() || entries.of.get(&shard.table.name).is_some_and(is_known) {
            return;
        }
        if Stamp::of(&shard.table.path) != Some(stamp) {
            return;
        }
        let entry = Entry {
            stamp,
            table: shard.table.clone(),
            stretches: shard.stretches.clone(),
            labels: labels.clone(),
        };
        entries.of.insert(shard.table.name.clone(), entry);
        entries.grown = true;
    }

    /// Writes the index if there is something new in it and it is worth while. That it cannot be written is no error: the next
    /// run takes as long as this one.
    pub fn keep(&self) {
        let mut entries = self.lock();
        let rows: usize = entries.of.values().map(|entry| entry.table.rows).sum();
        let Some(file) = self.file.as_deref().filter(|_| entries.grown && rows >= self.from_rows) else {
            return;
        };
        entries.grown = write(file, &entries.of).is_err();
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `$XDG_CACHE_HOME/dtrain/index`, or the same below `~/.cache`.
fn directory() -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(cache.join("dtrain/index"))
}

/// The text at the beginning of the file, as JSON; the labels follow.
#[derive(Serialize, Deserialize)]
struct Header {
    shards: Vec<ShardHeader>,
    /// Declared class names, which shards have in common.
    classes: Vec<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
struct ShardHeader {
    name: String,
    stamp: Stamp,
    rows: usize,
    image_column: String,
    label_column: String,
    other_columns: Vec<String>,
    /// Place in the list of all.
    classes: Option<usize>,
    stretches: Vec<Stretch>,
    label_form: Form,
    label_bytes: usize,
}

fn write(file: &Path, entries: &HashMap<String, Entry>) -> std::io::Result<()> {
    let mut header = Header {
        shards: Vec::new(),
        classes: Vec::new(),
    };
    let mut names: Vec<&String> = entries.keys().collect();
    names.sort();
    for name in &names {
        let Entry {
            stamp,
            table,
            stretches,
            labels,
        } = &entries[*name];
        let classes = table.classes.as_ref().map(|classes| {
            let place = header.classes.iter().position(|known| known[..] == classes[..]);
            place.unwrap_or_else(|| {
                header.classes.push(classes.to_vec());
                header.classes.len() - 1
            })
        });
        header.shards.push(ShardHeader {
            name: table.name.clone(),
            stamp: *stamp,
            rows: table.rows,
            image_column: table.image_column.clone(),
            label_column: table.label_column.clone(),
            other_columns: table.other_columns.clone(),
            classes,
            stretches: stretches.to_vec(),
            label_form: labels.form.clone(),
            label_bytes: labels.bytes.len(),
        });
    }
    let header = serde_json::to_vec(&header)?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header);
    names
        .iter()
        .for_each(|name| bytes.extend_from_slice(&entries[*name].labels.bytes));
    let hash = digest(&SHA256, &bytes);
    bytes.extend_from_slice(hash.as_ref());

    let directory = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    // Ranks write it at once: each under a name of its own, and any one of them is right.
    let own = format!("{}.{}.new", file.display(), std::process::id());
    let written = std::fs::File::create(&own).and_then(|mut new| {
        new.write_all(&bytes)?;
        new.sync_all()?;
        std::fs::rename(&own, file)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&own);
    }
    written
}

/// None: it is damaged, or of another version.
fn read(bytes: Bytes, root: &Path) -> Option<HashMap<String, Entry>> {
    let end = bytes.len().checked_sub(HASH_BYTES)?;
    let content = bytes.slice(..end);
    if digest(&SHA256, &content).as_ref() != &bytes[end..] || !content.starts_with(MAGIC) {
        return None;
    }
    let length = content.get(MAGIC.len()..MAGIC.len() + 8)?;
    let header_start = MAGIC.len() + 8;
    let mut at = header_start.checked_add(u64::from_le_bytes(length.try_into().ok()?) as usize)?;
    let header: Header = serde_json::from_slice(content.get(header_start..at)?).ok()?;
    let lists: Vec<Arc<[String]>> = header.classes.into_iter().map(Into::into).collect();
    let mut entries = HashMap::with_capacity(header.shards.len());
    for shard in header.shards {
        let end = at.checked_add(shard.label_bytes).filter(|end| *end <= content.len())?;
        let labels = StoredLabels {
            form: shard.label_form,
            bytes: content.slice(at..end),
        };
        at = end;
        let of_stretches: usize = shard.stretches.iter().map(|stretch| stretch.rows as usize).sum();
        if labels.rows() != shard.rows || of_stretches != shard.rows {
            return None;
        }
        let classes = match shard.classes {
            None => None,
            Some(place) => Some(lists.get(place)?.clone()),
        };
        let entry = Entry {
            stamp: shard.stamp,
            table: Table {
                path: root.join(&shard.name),
                name: shard.name.clone(),
                rows: shard.rows,
                image_column: shard.image_column,
                label_column: shard.label_column,
                other_columns: shard.other_columns,
                classes,
            },
            stretches: shard.stretches.into(),
            labels,
        };
        entries.insert(shard.name, entry);
    }
    Some(entries)
}

#[cfg(test)]
mod tests;
