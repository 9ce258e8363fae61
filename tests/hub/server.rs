//! A small Hub for tests: an HTTP server that speaks its protocol as dtrain, and Python's huggingface_hub, use it.
//!
//! Small files come from the server itself behind a relative redirect, large ones (LFS) from another host, as the real one
//! does. It can be told to be slow, wrong, or out of order.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use serde_json::{Value, json};

pub struct Server {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    port: u16,
    /// By "models/org/name" or "datasets/org/name".
    repositories: BTreeMap<String, Repository>,
    /// Other names of repositories.
    renamed: BTreeMap<String, String>,
    faults: Vec<Fault>,
    requests: Vec<Request>,
    /// What was put by upload, by its SHA-256.
    uploads: BTreeMap<String, Vec<u8>>,
    commits: Vec<Commit>,
}

#[derive(Clone, Default)]
struct Repository {
    /// Commit of a revision.
    revisions: BTreeMap<String, String>,
    /// Files of a commit.
    commits: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

/// Something that goes wrong with the next requests whose path contains `path`.
pub struct Fault {
    pub path: &'static str,
    pub times: usize,
    pub what: What,
}

#[derive(Clone)]
pub enum What {
    /// A status with headers instead of an answer.
    Status(u16, Vec<(&'static str, &'static str)>),
    /// The connection breaks after so many bytes of the body.
    Broken(usize),
    /// Nothing comes after so many bytes, for a second.
    Stalled(usize),
    /// Every byte of the body is another one.
    WrongBytes,
    /// The whole file, whatever part was asked for.
    NoRanges,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub host: String,
    /// With what follows `?`.
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

/// What a commit brought.
#[derive(Clone, Debug)]
pub struct Commit {
    pub repository: String,
    pub summary: String,
    pub files: BTreeMap<String, Vec<u8>>,
}

/// Files from this size on are large ones.
pub const LARGE: usize = 4096;
const PAGE: usize = 7;

impl Server {
    pub fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State {
            port,
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Server { port, state }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Puts files at `main` of a repository ("models/org/name"); its commit.
    pub fn put(&self, repository: &str, files: &[(&str, &[u8])]) -> String {
        self.put_at(repository, "main", files)
    }

    pub fn put_at(&self, repository: &str, revision: &str, files: &[(&str, &[u8])]) -> String {
        let files: BTreeMap<String, Vec<u8>> = files
            .iter()
            .map(|(path, bytes)| (path.to_string(), bytes.to_vec()))
            .collect();
        let mut all = Vec::new();
        for (path, bytes) in &files {
            all.extend_from_slice(path.as_bytes());
            all.extend_from_slice(bytes);
        }
        let commit = hex(&SHA1_FOR_LEGACY_USE_ONLY, &all);
        let mut state = self.state();
        let entry = state.repositories.entry(repository.to_owned()).or_default();
        entry.revisions.insert(revision.to_owned(), commit.clone());
        entry.commits.insert(commit.clone(), files);
        commit
    }

    /// Puts a whole directory.
    pub fn put_directory(&self, repository: &str, directory: &std::path::Path) -> String {
        let mut files = Vec::new();
        collect(directory, "", &mut files);
        let files: Vec<(&str, &[u8])> = files
            .iter()
            .map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
            .collect();
        self.put(repository, &files)
    }

    pub fn rename(&self, old: &str, new: &str) {
        self.state().renamed.insert(old.to_owned(), new.to_owned());
    }

    pub fn fault(&self, path: &'static str, times: usize, what: What) {
        self.state().faults.push(Fault { path, times, what });
    }

    /// Requests so far; they are forgotten.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().requests)
    }

    pub fn commits(&self) -> Vec<Commit> {
        self.state().commits.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

fn collect(directory: &std::path::Path, prefix: &str, files: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match entry.path().is_dir() {
            true => collect(&entry.path(), &format!("{path}/"), files),
            false => files.push((path, std::fs::read(entry.path()).unwrap())),
        }
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(&SHA256, bytes)
}

/// Git's name of a file.
pub fn blob_id(bytes: &[u8]) -> String {
    let mut blob = format!("blob {}\0", bytes.len()).into_bytes();
    blob.extend_from_slice(bytes);
    hex(&SHA1_FOR_LEGACY_USE_ONLY, &blob)
}

fn hex(algorithm: &'static ring::digest::Algorithm, bytes: &[u8]) -> String {
    digest(algorithm, bytes)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Answer {
        Answer {
            status,
            headers: headers
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
            body: body.into(),
        }
    }

    fn json(value: &Value) -> Answer {
        Answer::new(200, &[("Content-Type", "application/json")], value.to_string())
    }

    fn error(status: u16, code: &str, message: &str) -> Answer {
        Answer::new(status, &[("X-Error-Code", code), ("X-Error-Message", message)], "")
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some((request, body)) = read_request(&mut reader) {
        let (answer, fault) = {
            let mut state = state.lock().unwrap();
            state.requests.push(request.clone());
            let fault = state.fault(&request.path);
            (state.answer(&request, &body, fault.as_ref()), fault)
        };
        let ranged = !matches!(fault, Some(What::NoRanges));
        if send(&stream, &request, answer, fault, ranged).is_none() {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<(Request, Vec<u8>)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut body = Vec::new();
    match headers
        .get("content-length")
        .and_then(|length| length.parse::<usize>().ok())
    {
        Some(length) => {
            body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
        }
        None if headers.contains_key("transfer-encoding") => loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        },
        None => {}
    }
    let host = headers.get("host").cloned().unwrap_or_default();
    let request = Request {
        method,
        host,
        path,
        headers,
    };
    Some((request, body))
}

/// Sends an answer, or what the fault makes of it; None: the connection is over.
fn send(
    mut stream: &TcpStream,
    request: &Request,
    mut answer: Answer,
    fault: Option<What>,
    ranged: bool,
) -> Option<()> {
    if matches!(fault, Some(What::WrongBytes)) {
        answer.body.iter_mut().for_each(|byte| *byte ^= 0x55);
    }
    let range: Option<usize> = request
        .headers
        .get("range")
        .and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse().ok());
    if let (Some(from), true, 200) = (range, ranged, answer.status) {
        let length = answer.body.len();
        if from >= length && length > 0 {
            answer = Answer::new(416, &[], "");
        } else {
            let content_range = format!("bytes {from}-{}/{length}", length.saturating_sub(1));
            answer.headers.push(("Content-Range".to_owned(), content_range));
            answer.body.drain(..from);
            answer.status = 206;
        }
    }
    let mut head = format!(
        "HTTP/1.1 {} x\r\nContent-Length: {}\r\n",
        answer.status,
        answer.body.len()
    );
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    stream.write_all(head.as_bytes()).ok()?;
    if request.method == "HEAD" {
        return Some(());
    }
    let sent = match fault {
        Some(What::Broken(bytes) | What::Stalled(bytes)) => bytes.min(answer.body.len()),
        _ => answer.body.len(),
    };
    stream.write_all(&answer.body[..sent]).ok()?;
    stream.flush().ok()?;
    match fault {
        Some(What::Stalled(_)) => std::thread::sleep(Duration::from_secs(1)),
        Some(What::Broken(_)) => {}
        _ => return Some(()),
    }
    let _ = stream.shutdown(std::net::Shutdown::Both);
    None
}

impl State {
    fn fault(&mut self, path: &str) -> Option<What> {
        let fault = self
            .faults
            .iter_mut()
            .find(|fault| fault.times > 0 && path.contains(fault.path))?;
        fault.times -= 1;
        Some(fault.what.clone())
    }

    fn answer(&mut self, request: &Request, body: &[u8], fault: Option<&What>) -> Answer {
        if let Some(What::Status(status, headers)) = fault {
            return Answer::new(*status, headers, "");
        }
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let parts: Vec<String> = path.trim_start_matches('/').split('/').map(unescaped).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        if let Some(hash) = path.strip_prefix("/cdn/") {
            return self.contents(hash);
        }
        if let ["api", "resolve-cache", commit, hash] = parts.as_slice() {
            let mut answer = self.contents(hash);
            answer.headers.push(("X-Repo-Commit".to_owned(), commit.to_string()));
            return answer;
        }
        if request.method != "GET" && request.method != "HEAD" {
            return self.take(request, &parts, body);
        }
        match parts.as_slice() {
            ["api", "whoami-v2"] => match request.headers.get("authorization").map(String::as_str) {
                Some("Bearer hf_writer") => Answer::json(&json!({"type": "user", "name": "writer"})),
                _ => Answer::error(401, "", "Invalid username or password."),
            },
            ["api", kind @ ("models" | "datasets")] => self.search(kind, query),
            ["api", kind, rest @ ..] => self.about(kind, rest, query),
            ["datasets", rest @ ..] => self.file("datasets", rest),
            rest => self.file("models", rest),
        }
    }

    /// Where "revision" or "tree" or "resolve" divides a path, and the repository before it.
    fn repository<'a>(&self, kind: &str, parts: &[&'a str], word: &str) -> Option<(String, Vec<&'a str>)> {
        let at = parts.iter().position(|part| *part == word)?;
        Some((format!("{kind}/{}", parts[..at].join("/")), parts[at + 1..].to_vec()))
    }

    fn redirected(&self, name: &str, path: &str) -> Option<Answer> {
        let new = self.renamed.get(name)?;
        let bare = |name: &str| name.trim_start_matches("models/").to_owned();
        let location = match path.starts_with("/api") {
            true => path.replacen(name, new, 1),
            false => path.replacen(&bare(name), &bare(new), 1),
        };
        Some(Answer::new(307, &[("Location", &location)], ""))
    }

    fn about(&self, kind: &str, parts: &[&str], query: &str) -> Answer {
        let word = if parts.contains(&"revision") {
            "revision"
        } else {
            "tree"
        };
        let Some((name, rest)) = self.repository(kind, parts, word) else {
            return Answer::error(404, "", "no such address");
        };
        if let Some(answer) = self.redirected(&name, &format!("/api/{kind}/{}?{query}", parts.join("/"))) {
            return answer;
        }
        let Some(repository) = self.repositories.get(&name) else {
            return Answer::error(401, "RepoNotFound", "Repository not found");
        };
        let revision = rest.join("/");
        let commit = match repository.revisions.get(&revision) {
            Some(commit) => commit,
            None if repository.commits.contains_key(&revision) => &revision,
            None => return Answer::error(404, "RevisionNotFound", "Invalid rev id"),
        };
        let files = &repository.commits[commit];
        if word == "revision" {
            let siblings: Vec<Value> = files.keys().map(|path| json!({"rfilename": path})).collect();
            let id = name.split_once('/').unwrap().1;
            return Answer::json(&json!({"id": id, "sha": commit, "siblings": siblings}));
        }
        let (query, cursor) = query.split_once("&cursor=").unwrap_or((query, "0"));
        let from: usize = cursor.parse().unwrap();
        let page: Vec<Value> = files
            .iter()
            .skip(from)
            .take(PAGE)
            .map(|(path, bytes)| tree_entry(path, bytes))
            .collect();
        let mut answer = Answer::json(&Value::Array(page));
        if from + PAGE < files.len() {
            let link = format!(
                "</api/{kind}/{}?{query}&cursor={}>; rel=\"next\"",
                parts.join("/"),
                from + PAGE
            );
            answer.headers.push(("Link".to_owned(), link));
        }
        answer
    }

    fn search(&self, kind: &str, query: &str) -> Answer {
        let word = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("search="))
            .unwrap_or_default();
        let names = self
            .repositories
            .keys()
            .filter_map(|name| name.strip_prefix(&format!("{kind}/")));
        let found: Vec<Value> = names
            .filter(|name| name.contains(word))
            .map(|name| json!({"id": name}))
            .collect();
        Answer::json(&Value::Array(found))
    }

    fn file(&self, kind: &str, parts: &[&str]) -> Answer {
        let Some((name, rest)) = self.repository(kind, parts, "resolve") else {
            return Answer::error(404, "", "no such address");
        };
        let prefix = if kind == "datasets" { "/datasets/" } else { "/" };
        if let Some(answer) = self.redirected(&name, &format!("{prefix}{}", parts.join("/"))) {
            return answer;
        }
        let Some(repository) = self.repositories.get(&name) else {
            return Answer::error(401, "RepoNotFound", "Repository not found");
        };
        let commit = repository.revisions.get(rest[0]).map_or(rest[0], String::as_str);
        let path = rest[1..].join("/");
        let Some(bytes) = repository.commits.get(commit).and_then(|files| files.get(&path)) else {
            return Answer::error(404, "EntryNotFound", "Entry not found");
        };
        let size = bytes.len().to_string();
        if bytes.len() < LARGE {
            let name = blob_id(bytes);
            let etag = format!("\"{name}\"");
            let location = format!("/api/resolve-cache/{commit}/{name}");
            let headers = [
                ("X-Repo-Commit", commit),
                ("ETag", &etag),
                ("X-Linked-Size", &size),
                ("Location", &location),
            ];
            return Answer::new(307, &headers, "");
        }
        let name = sha256(bytes);
        let etag = format!("\"{name}\"");
        // Another host, as far as anybody can tell from its name.
        let location = format!("http://localhost:{}/cdn/{name}?signature=secret", self.port);
        let headers = [
            ("X-Repo-Commit", commit),
            ("X-Linked-Etag", &etag),
            ("X-Linked-Size", &size),
            ("ETag", "\"of-the-redirect\""),
            ("Location", &location),
        ];
        Answer::new(302, &headers, "")
    }

    fn contents(&self, hash: &str) -> Answer {
        let all = self
            .repositories
            .values()
            .flat_map(|repository| repository.commits.values());
        let mut files = all.flat_map(BTreeMap::values);
        let found = files.find(|bytes| sha256(bytes) == hash || blob_id(bytes) == hash);
        match found {
            Some(bytes) => Answer::new(200, &[("ETag", &format!("\"{hash}\""))], bytes.clone()),
            None => Answer::error(404, "", "no such contents"),
        }
    }

    /// What changes something: repositories made, files uploaded, commits.
    fn take(&mut self, request: &Request, parts: &[&str], body: &[u8]) -> Answer {
        if let ["upload", hash] = parts {
            self.uploads.insert(hash.to_string(), body.to_vec());
            return Answer::new(200, &[], "");
        }
        if request.headers.get("authorization").map(String::as_str) != Some("Bearer hf_writer") {
            return Answer::error(401, "", "Invalid username or password.");
        }
        match parts {
            ["api", "repos", "create"] => {
                let asked: Value = serde_json::from_slice(body).unwrap();
                let name = asked["name"].as_str().unwrap();
                let account = asked["organization"].as_str().unwrap_or("writer");
                let id = format!("models/{account}/{name}");
                let url = format!("{}/{account}/{name}", "https://huggingface.co");
                match self.repositories.contains_key(&id) {
                    true => Answer::new(
                        409,
                        &[],
                        json!({"error": "You already created this model repo", "url": url}).to_string(),
                    ),
                    false => {
                        self.repositories.insert(id, Repository::default());
                        Answer::json(&json!({"url": url}))
                    }
                }
            }
            ["api", "models", account, name, "preupload", "main"] => {
                assert!(self.repositories.contains_key(&format!("models/{account}/{name}")));
                let asked: Value = serde_json::from_slice(body).unwrap();
                let files = asked["files"].as_array().unwrap().iter().map(|file| {
                    let mode = if file["size"].as_u64().unwrap() as usize >= LARGE {
                        "lfs"
                    } else {
                        "regular"
                    };
                    json!({"path": file["path"], "uploadMode": mode})
                });
                Answer::json(&json!({"files": files.collect::<Vec<Value>>()}))
            }
            [_, name, "info", "lfs", "objects", "batch"] => {
                assert!(name.ends_with(".git"));
                let asked: Value = serde_json::from_slice(body).unwrap();
                let objects = asked["objects"].as_array().unwrap().iter().map(|object| {
                    let hash = object["oid"].as_str().unwrap();
                    let mut answer = json!({"oid": hash, "size": object["size"]});
                    if !self.uploads.contains_key(hash) {
                        let url = format!("http://localhost:{}/upload/{hash}", self.port);
                        answer["actions"] = json!({"upload": {"href": url}});
                    }
                    answer
                });
                Answer::json(&json!({"objects": objects.collect::<Vec<Value>>()}))
            }
            ["api", "models", account, name, "commit", "main"] => {
                self.commit(&format!("models/{account}/{name}"), body)
            }
            _ => Answer::error(404, "", "no such address"),
        }
    }

    fn commit(&mut self, repository: &str, body: &[u8]) -> Answer {
        use base64::Engine;
        let lines = std::str::from_utf8(body).unwrap().lines();
        let lines: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut commit = Commit {
            repository: repository.to_owned(),
            summary: lines[0]["value"]["summary"].as_str().unwrap().to_owned(),
            files: BTreeMap::new(),
        };
        assert_eq!(lines[0]["key"], "header");
        for line in &lines[1..] {
            let value = &line["value"];
            let path = value["path"].as_str().unwrap().to_owned();
            let bytes = match line["key"].as_str().unwrap() {
                "file" => {
                    assert_eq!(value["encoding"], "base64");
                    let text = value["content"].as_str().unwrap();
                    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
                }
                "lfsFile" => {
                    assert_eq!(value["algo"], "sha256");
                    let bytes = self.uploads[value["oid"].as_str().unwrap()].clone();
                    assert_eq!(value["size"].as_u64().unwrap() as usize, bytes.len());
                    assert_eq!(value["oid"], sha256(&bytes));
                    bytes
                }
                other => panic!("{other}"),
            };
            commit.files.insert(path, bytes);
        }
        self.commits.push(commit);
        let id = repository.trim_start_matches("models/");
        Answer::json(
            &json!({"success": true, "commitOid": "c0ffee", "commitUrl": format!("https://huggingface.co/{id}/commit/c0ffee")}),
        )
    }
}

fn tree_entry(path: &str, bytes: &[u8]) -> Value {
    let mut entry = json!({"type": "file", "path": path, "oid": blob_id(bytes), "size": bytes.len()});
    if bytes.len() >= LARGE {
        entry["lfs"] = json!({"oid": sha256(bytes), "size": bytes.len(), "pointerSize": 130});
    }
    entry
}

fn unescaped(part: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = part.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = (first == b'%').then(|| std::str::from_utf8(&after[..2]).unwrap());
        match hex {
            Some(hex) => {
                bytes.push(u8::from_str_radix(hex, 16).unwrap());
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}
