//! One file: resumed where it was broken off, checked against its hash, and visible only when it is whole.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use super::cache::Folder;
use super::client::{Answer, Client};
use super::hash::Hasher;
use super::progress::Progress;
use super::refusal::Trouble;
use super::tree::Entry;
use crate::error::{Error, IoContext, Result};

/// A file that is to be there.
pub(super) struct Wanted<'a> {
    /// In the repository.
    pub path: &'a str,
    pub entry: &'a Entry,
    pub url: String,
}

/// A body that arrives whole and wrong is asked for again this often.
const WRONG_BODIES: u32 = 1;
const PIECE: usize = 256 << 10;

/// Is the blob there, with the right size?
pub(super) fn is_here(folder: &Folder, entry: &Entry) -> bool {
    let blob = std::fs::metadata(folder.blob(entry.name()));
    blob.is_ok_and(|blob| blob.len() == entry.length())
}

/// Brings the blob of a file. Counts on nobody else making it, or on waiting for them.
pub(super) fn download(client: &Client, folder: &Folder, wanted: &Wanted, progress: &Progress) -> Result<(), Trouble> {
    let entry = wanted.entry;
    let waiting = || progress.say(&format!("waiting for another process that downloads {}", wanted.path));
    let _lock = folder.lock(entry.name(), waiting).map_err(Trouble::Final)?;
    if is_here(folder, entry) {
        progress.received(entry.length());
        return Ok(());
    }
    let incomplete = folder.incomplete(entry.name());
    let blobs = incomplete.parent().expect("blobs");
    std::fs::create_dir_all(blobs)
        .at("create", blobs)
        .map_err(Trouble::Final)?;
    let mut attempts = client.attempts();
    let mut wrong_bodies = 0;
    let mut part = Part::open(&incomplete, entry, progress).map_err(Trouble::Final)?;
    loop {
        let before = part.length;
        match part.fill(client, wanted, progress) {
            Ok(()) if part.is_right(entry) => break,
            Ok(()) => {
                part.begin_anew(entry, progress).map_err(Trouble::Final)?;
                if wrong_bodies == WRONG_BODIES {
                    return Err(Trouble::Final(wrong_contents(wanted)));
                }
                wrong_bodies += 1;
            }
            Err(trouble) => {
                if part.length > before {
                    attempts.begin_anew(client);
                }
                attempts.after(trouble)?;
            }
        }
    }
    let blob = folder.blob(entry.name());
    part.file.sync_all().at("write", &incomplete).map_err(Trouble::Final)?;
    std::fs::rename(&incomplete, &blob)
        .at("write", &blob)
        .map_err(Trouble::Final)
}

/// What there is of a file.
struct Part<'a> {
    path: &'a Path,
    file: File,
    length: u64,
    hasher: Option<Hasher>,
}

impl<'a> Part<'a> {
    /// What an earlier attempt left, or nothing.
    fn open(path: &'a Path, entry: &Entry, progress: &Progress) -> Result<Part<'a>> {
        let options = || {
            File::options()
                .create(true)
                .truncate(false)
                .read(true)
                .append(true)
                .open(path)
        };
        let mut part = Part {
            path,
            file: options().at("write", path)?,
            length: 0,
            hasher: Hasher::for_name(entry.name(), entry.length()),
        };
        let mut piece = vec![0; PIECE];
        loop {
            match part.file.read(&mut piece).at("read", path)? {
                0 => break,
                read => {
                    part.length += read as u64;
                    part.hash(&piece[..read]);
                }
            }
        }
        progress.received(part.length);
        // More than everything is something else; everything was found wrong, or not yet looked at: cheap to ask again.
        if part.length >= entry.length() && part.length > 0 {
            part.begin_anew(entry, progress)?;
        }
        Ok(part)
    }

    fn begin_anew(&mut self, entry: &Entry, progress: &Progress) -> Result<()> {
        self.file.set_len(0).at("write", self.path)?;
        progress.lost(self.length);
        self.length = 0;
        self.hasher = Hasher::for_name(entry.name(), entry.length());
        Ok(())
    }

    /// Asks for what is missing, once. Ok: all bytes are there.
    fn fill(&mut self, client: &Client, wanted: &Wanted, progress: &Progress) -> Result<(), Trouble> {
        let expected = wanted.entry.length();
        let mut answer = client.get(&wanted.url, self.length)?;
        match answer.status {
            206 if continues(&answer, self.length) => {}
            200 => {
                if self.length > 0 {
                    self.begin_anew(wanted.entry, progress).map_err(Trouble::Final)?;
                }
            }
            // A part of another length, or from another place: everything anew.
            206 | 416 => {
                self.begin_anew(wanted.entry, progress).map_err(Trouble::Final)?;
                return Err(Trouble::Passing {
                    what: format!(
                        "{}: the server does not go on where the file was broken off",
                        wanted.path
                    ),
                    wait: None,
                });
            }
            _ => return Err(answer.into_trouble()),
        }
        let mut body = answer.body.as_reader();
        let mut piece = vec![0; PIECE];
        loop {
            let read = body.read(&mut piece).map_err(|error| Trouble::Passing {
                what: format!(
                    "{} broke off after {} of {expected} bytes: {error}",
                    wanted.path, self.length
                ),
                wait: None,
            })?;
            if read == 0 {
                break;
            }
            if self.length + read as u64 > expected {
                return Err(Trouble::Final(wrong_contents(wanted)));
            }
            self.file
                .write_all(&piece[..read])
                .at("write", self.path)
                .map_err(Trouble::Final)?;
            self.hash(&piece[..read]);
            self.length += read as u64;
            progress.received(read as u64);
        }
        match self.length == expected {
            true => Ok(()),
            false => Err(Trouble::Passing {
                what: format!("{} ended after {} of {expected} bytes", wanted.path, self.length),
                wait: None,
            }),
        }
    }

    fn hash(&mut self, piece: &[u8]) {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(piece);
        }
    }

    /// Whether the contents have the hash that the Hub calls them by. Takes the hash out.
    fn is_right(&mut self, entry: &Entry) -> bool {
        self.hasher
            .take()
            .is_none_or(|hasher| hasher.finish() == entry.name().to_ascii_lowercase())
    }
}

/// Does a partial answer begin where we asked it to?
fn continues(answer: &Answer, from: u64) -> bool {
    let range = answer
        .header("content-range")
        .and_then(|range| range.strip_prefix("bytes "));
    range.and_then(|range| range.split('-').next()?.parse().ok()) == Some(from)
}

fn wrong_contents(wanted: &Wanted) -> Error {
    Error::hub(
        format!(
            "{} does not have the contents that the Hub names: {} bytes with hash {}",
            wanted.path,
            wanted.entry.length(),
            wanted.entry.name()
        ),
        "try again; a proxy or mirror in between may change files: check HTTPS_PROXY and HF_ENDPOINT",
    )
}
