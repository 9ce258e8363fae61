//! Results to the Hub: a repository is made if need be, large files go to its store, small ones into the commit itself.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use ureq::http::Method;

use super::client::absolute;
use super::hash::Hasher;
use super::name::{Kind, Repository, is_name};
use super::open::Hub;
use super::refusal::{TokenSent, Trouble};
use super::remote::escaped;
use crate::error::{Error, IoContext, Result};

/// What is uploaded, and where to.
#[derive(Clone, Debug)]
pub struct Push<'a> {
    /// Its files, but none of its folders; names that begin with `.` or `_` stay here.
    pub directory: &'a Path,
    /// `org/name`, or a name in the account of the token's owner.
    pub name: &'a str,
    pub visibility: Visibility,
    /// The commit's first line.
    pub summary: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// As the account has it by default, or as the repository is.
    Default,
    Private,
}

/// Where the results are now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    pub id: String,
    /// The commit's page.
    pub url: String,
}

/// A file to upload.
struct Upload {
    name: String,
    path: PathBuf,
    size: u64,
    sha256: String,
    /// The first bytes, from which the Hub tells text from binary.
    sample: Vec<u8>,
}

const SAMPLE: usize = 512;
const LFS: [(&str, &str); 2] = [
    ("Accept", "application/vnd.git-lfs+json"),
    ("Content-Type", "application/vnd.git-lfs+json"),
];
const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

impl Hub {
    /// Finds out, before anything else is done, whether a push can be made at all; the repository's full name.
    /// Errors: no token, a wrong name, a token that nobody knows.
    pub fn can_push(&self, name: &str) -> Result<String> {
        if !is_name(name) {
            return Err(Error::usage(
                format!("--hub-model-id {name}: this is no name of a repository"),
                "give `name` or `account/name` of letters, digits, `-`, `_` and `.`",
            ));
        }
        if self.is_offline() {
            return Err(Error::usage(
                "--push-to-hub: HF_HUB_OFFLINE forbids it",
                "unset HF_HUB_OFFLINE, or leave --push-to-hub out",
            ));
        }
        if self.client().token_sent() == TokenSent::No {
            return Err(Error::usage(
                "--push-to-hub: there is no access token",
                "log in with `hf auth login`, or set HF_TOKEN to one that may write (https://huggingface.co/settings/tokens)",
            ));
        }
        let url = format!("{}/api/whoami-v2", self.client().endpoint());
        let repository = Repository::new(Kind::Model, name, None);
        let asked = self.client().persist(|| self.client().text(&url));
        let (text, _) = asked.map_err(|trouble| self.explain(trouble, &repository))?;
        if name.contains('/') {
            return Ok(name.to_owned());
        }
        let about: Value = serde_json::from_str(&text).unwrap_or_default();
        match about["name"].as_str() {
            Some(account) => Ok(format!("{account}/{name}")),
            None => Err(Error::hub(
                format!("{url} does not say whose token it is"),
                "give the whole name: --hub-model-id account/name",
            )),
        }
    }

    /// Uploads a directory's files in one commit on `main`.
    pub fn push(&self, push: &Push) -> Result<Pushed> {
        let id = self.can_push(push.name)?;
        let repository = Repository::new(Kind::Model, &id, None);
        let uploads = uploads(push.directory)?;
        self.create(&repository, push.visibility)
            .and_then(|()| self.upload(&repository, &uploads, push.summary))
            .map(|url| Pushed { id, url })
            .map_err(|trouble| self.explain(trouble, &repository))
    }

    fn create(&self, repository: &Repository, visibility: Visibility) -> Result<(), Trouble> {
        let (account, name) = repository.id.split_once('/').expect("a full name");
        let mut asked = json!({"name": name, "organization": account, "type": "model"});
        if visibility == Visibility::Private {
            asked["private"] = true.into();
            asked["visibility"] = "private".into();
        }
        let url = format!("{}/api/repos/create", self.client().endpoint());
        let text = asked.to_string();
        self.client().persist(|| {
            let answer = self.client().send(Method::POST, &url, &JSON, || Ok(text.as_str()))?;
            match answer.status {
                // It exists already.
                409 => Ok(()),
                200..300 => Ok(()),
                _ => Err(answer.into_trouble()),
            }
        })
    }

    /// The commit's address.
    fn upload(&self, repository: &Repository, uploads: &[Upload], summary: &str) -> Result<String, Trouble> {
        let endpoint = self.client().endpoint();
        let id = &repository.id;
        let asked: Vec<Value> = uploads
            .iter()
            .map(|upload| json!({"path": upload.name, "size": upload.size, "sample": BASE64.encode(&upload.sample)}))
            .collect();
        let answer = self.post(
            &format!("{endpoint}/api/models/{id}/preupload/main"),
            &JSON,
            &json!({"files": asked}),
        )?;
        let modes = answer["files"].as_array().cloned().unwrap_or_default();
        let mode = |upload: &Upload| modes.iter().find(|mode| mode["path"] == upload.name.as_str());
        let kept = uploads
            .iter()
            .filter(|upload| mode(upload).is_none_or(|mode| mode["shouldIgnore"] != true));
        // An empty file cannot be a large one.
        let (large, small): (Vec<&Upload>, Vec<&Upload>) =
            kept.partition(|upload| upload.size > 0 && mode(upload).is_some_and(|mode| mode["uploadMode"] == "lfs"));
        self.store(repository, &large)?;

        let mut lines = json!({"key": "header", "value": {"summary": summary, "description": ""}}).to_string();
        for upload in small {
            let bytes = std::fs::read(&upload.path)
                .at("read", &upload.path)
                .map_err(Trouble::Final)?;
            let value = json!({"content": BASE64.encode(bytes), "path": upload.name, "encoding": "base64"});
            lines += &format!("\n{}", json!({"key": "file", "value": value}));
        }
        for upload in large {
            let value = json!({"path": upload.name, "algo": "sha256", "oid": upload.sha256, "size": upload.size});
            lines += &format!("\n{}", json!({"key": "lfsFile", "value": value}));
        }
        lines.push('\n');
        let url = format!("{endpoint}/api/models/{id}/commit/main");
        let headers = [("Content-Type", "application/x-ndjson")];
        let (text, _) = self.client().persist(|| {
            self.client()
                .send(Method::POST, &url, &headers, || Ok(lines.as_str()))?
                .into_text()
        })?;
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        let page = format!("{endpoint}/{}", escaped(id));
        Ok(answer["commitUrl"].as_str().map_or(page, str::to_owned))
    }

    /// Brings large files to the repository's store, unless they are there already.
    fn store(&self, repository: &Repository, large: &[&Upload]) -> Result<(), Trouble> {
        if large.is_empty() {
            return Ok(());
        }
        let endpoint = self.client().endpoint();
        let objects: Vec<Value> = large
            .iter()
            .map(|upload| json!({"oid": upload.sha256, "size": upload.size}))
            .collect();
        let asked = json!({
            "operation": "upload",
            "transfers": ["basic"],
            "objects": objects,
            "hash_algo": "sha256",
            "ref": {"name": "main"},
        });
        let url = format!("{endpoint}/{}.git/info/lfs/objects/batch", repository.id);
        let answer = self.post(&url, &LFS, &asked)?;
        for upload in large {
            let objects = answer["objects"].as_array();
            let object =
                objects.and_then(|objects| objects.iter().find(|object| object["oid"] == upload.sha256.as_str()));
            let refused = |why: &str| {
                Trouble::Final(Error::hub(
                    format!("{repository} does not take {}: {why}", upload.name),
                    "start again later with the same --output-dir, or upload its files with `hf upload`",
                ))
            };
            let object = object.ok_or_else(|| refused("the answer does not mention it"))?;
            if let Some(why) = object["error"]["message"].as_str() {
                return Err(refused(why));
            }
            let Some(to) = object["actions"]["upload"]["href"].as_str() else {
                continue;
            };
            let to = absolute(endpoint, to);
            self.client().persist(|| self.put(upload, &to))?;
            if let Some(verify) = object["actions"]["verify"]["href"].as_str() {
                let proof = json!({"oid": upload.sha256, "size": upload.size});
                self.post(&absolute(endpoint, verify), &LFS, &proof)?;
            }
        }
        Ok(())
    }

    fn put(&self, upload: &Upload, to: &str) -> Result<(), Trouble> {
        let answer = self.client().send(Method::PUT, to, &[], || File::open(&upload.path))?;
        match answer.status {
            200..300 => Ok(()),
            _ => Err(answer.into_trouble()),
        }
    }

    fn post(&self, url: &str, headers: &[(&str, &str)], asked: &Value) -> Result<Value, Trouble> {
        let text = asked.to_string();
        let (answer, _) = self.client().persist(|| {
            self.client()
                .send(Method::POST, url, headers, || Ok(text.as_str()))?
                .into_text()
        })?;
        Ok(serde_json::from_str(&answer).unwrap_or_default())
    }
}

/// The files of a directory, in the order of their names.
fn uploads(directory: &Path) -> Result<Vec<Upload>> {
    let mut uploads = Vec::new();
    for entry in std::fs::read_dir(directory).at("list", directory)? {
        let path = entry.at("list", directory)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !path.is_file() || name.starts_with(['.', '_']) {
            continue;
        }
        uploads.push(Upload::read(name, path)?);
    }
    uploads.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(uploads)
}

impl Upload {
    fn read(name: String, path: PathBuf) -> Result<Upload> {
        let mut file = File::open(&path).at("read", &path)?;
        let (mut hasher, mut size, mut sample) = (Hasher::sha256(), 0, Vec::new());
        let mut piece = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut piece).at("read", &path)?;
            if read == 0 {
                break;
            }
            if size == 0 {
                sample = piece[..read.min(SAMPLE)].to_vec();
            }
            hasher.update(&piece[..read]);
            size += read as u64;
        }
        Ok(Upload {
            name,
            path,
            size,
            sha256: hasher.finish(),
            sample,
        })
    }
}
