//! What arrives, where it lies, and what is asked for.

use super::server::{self, Server, blob_id, sha256};
use super::{hub, large, model, settings};
use dtrain::hub::{Hub, Kind, Repository, Settings, Token};

fn names(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|path| path.to_string()).collect()
}

#[test]
fn files_lie_where_python_looks_for_them() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    let weights = large(1);
    let files: [(&str, &[u8]); 5] = [
        ("config.json", b"{}"),
        ("empty", b""),
        ("model.safetensors", &weights),
        ("sub folder/a#1.txt", b"text"),
        ("unwanted", b"x"),
    ];
    let commit = server.put("models/org/name", &files);
    let hub = hub(&server, dir.path());
    let remote = hub.open(&model("org/name")).unwrap();
    assert_eq!(remote.commit(), commit);
    assert_eq!(remote.files().len(), 5);
    remote
        .fetch(&names(&[
            "config.json",
            "empty",
            "model.safetensors",
            "sub folder/a#1.txt",
        ]))
        .unwrap();

    let folder = dir.path().join("models--org--name");
    let snapshot = folder.join("snapshots").join(&commit);
    assert_eq!(remote.directory(), snapshot);
    for (path, bytes) in &files[..4] {
        assert_eq!(std::fs::read(snapshot.join(path)).unwrap(), *bytes, "{path}");
        let target = std::fs::canonicalize(snapshot.join(path)).unwrap();
        let name = if bytes.len() >= server::LARGE {
            sha256(bytes)
        } else {
            blob_id(bytes)
        };
        assert_eq!(target, std::fs::canonicalize(folder.join("blobs").join(name)).unwrap());
    }
    assert!(!snapshot.join("unwanted").exists());
    let link = std::fs::read_link(snapshot.join("sub folder/a#1.txt")).unwrap();
    assert!(link.starts_with("../../../blobs"), "{}", link.display());
    assert_eq!(std::fs::read_to_string(folder.join("refs/main")).unwrap(), commit);
    assert!(
        dir.path()
            .join(".locks/models--org--name")
            .join(format!("{}.lock", sha256(&weights)))
            .exists()
    );
    let left: Vec<_> = std::fs::read_dir(folder.join("blobs"))
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert_eq!(left.len(), 4, "{left:?}");
}

#[test]
fn what_is_there_is_not_asked_for_again() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    let weights = large(2);
    let first = server.put(
        "models/org/name",
        &[("config.json", b"{}"), ("model.safetensors", &weights)],
    );
    let wanted = names(&["config.json", "model.safetensors"]);
    let hub = hub(&server, dir.path());
    hub.open(&model("org/name")).unwrap().fetch(&wanted).unwrap();
    server.requests();

    hub.open(&model("org/name")).unwrap().fetch(&wanted).unwrap();
    let asked: Vec<String> = server.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(asked, ["/api/models/org/name/revision/main"]);

    // A new commit: only the file that changed.
    let second = server.put(
        "models/org/name",
        &[("config.json", b"{\"new\": 1}"), ("model.safetensors", &weights)],
    );
    let remote = hub.open(&model("org/name")).unwrap();
    remote.fetch(&wanted).unwrap();
    let asked = server.requests();
    assert!(
        !asked.iter().any(|request| request.path.contains("safetensors")),
        "{asked:?}"
    );
    assert_eq!(
        std::fs::read(remote.directory().join("config.json")).unwrap(),
        b"{\"new\": 1}"
    );

    // A commit by its name needs no question at all, nor does it move the branch.
    let old = Repository::new(Kind::Model, "org/name", Some(&first));
    let remote = hub.open(&old).unwrap();
    remote.fetch(&wanted).unwrap();
    assert_eq!(std::fs::read(remote.directory().join("config.json")).unwrap(), b"{}");
    assert!(server.requests().is_empty());
    let main = std::fs::read_to_string(dir.path().join("models--org--name/refs/main")).unwrap();
    assert_eq!(main, second);
}

#[test]
fn without_a_network_the_cache_answers() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    server.put("models/org/name", &[("config.json", b"{}"), ("other", b"x")]);
    let wanted = names(&["config.json"]);
    hub(&server, dir.path())
        .open(&model("org/name"))
        .unwrap()
        .fetch(&wanted)
        .unwrap();
    server.requests();

    let offline = Hub::new(Settings {
        offline: true,
        ..settings(&server, dir.path())
    })
    .unwrap();
    let remote = offline.open(&model("org/name")).unwrap();
    assert_eq!(remote.files(), ["config.json", "other"]);
    remote.fetch(&wanted).unwrap();
    let error = remote.fetch(&names(&["other"])).unwrap_err().to_string();
    assert!(error.contains("other") && error.contains("HF_HUB_OFFLINE"), "{error}");
    let error = offline.open(&model("org/none")).err().unwrap().to_string();
    assert!(
        error.contains("org/none") && error.contains("HF_HUB_OFFLINE"),
        "{error}"
    );
    assert!(server.requests().is_empty());

    // A network that is down is noted, and no obstacle.
    let unreachable = Hub::new(Settings {
        endpoint: "http://127.0.0.1:1".to_owned(),
        ..settings(&server, dir.path())
    })
    .unwrap();
    let remote = unreachable.open(&model("org/name")).unwrap();
    remote.fetch(&wanted).unwrap();
    assert!(
        remote.note().unwrap().contains("cannot be reached"),
        "{:?}",
        remote.note()
    );
    let error = unreachable.open(&model("org/none")).err().unwrap().to_string();
    assert!(
        error.contains("HF_HUB_OFFLINE=1") && error.contains("127.0.0.1:1"),
        "{error}"
    );
}

#[test]
fn a_cache_of_pythons_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let folder = dir.path().join("datasets--ethz--food101");
    for sub in ["blobs", "refs", &format!("snapshots/{commit}/data"), ".no_exist"] {
        std::fs::create_dir_all(folder.join(sub)).unwrap();
    }
    std::fs::write(folder.join("refs/main"), commit).unwrap();
    std::fs::write(folder.join("blobs/aa"), "shard").unwrap();
    let file = folder.join(format!("snapshots/{commit}/data/train.parquet"));
    std::os::unix::fs::symlink("../../../blobs/aa", &file).unwrap();
    let offline = Settings {
        cache: dir.path().to_owned(),
        offline: true,
        ..Settings::read(&|_| None)
    };
    let hub = Hub::new(offline).unwrap();
    // The short name finds the only account.
    for id in ["ethz/food101", "food101"] {
        let remote = hub.open(&Repository::new(Kind::Dataset, id, None)).unwrap();
        assert_eq!(remote.files(), ["data/train.parquet"]);
        remote.fetch(&remote.files()).unwrap();
        assert_eq!(
            std::fs::read_to_string(remote.directory().join("data/train.parquet")).unwrap(),
            "shard"
        );
    }
}

#[test]
fn tokens_go_to_the_hub_and_to_nobody_else() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    server.put(
        "models/org/name",
        &[("config.json", b"{}"), ("model.safetensors", &large(3))],
    );
    let with_token = Settings {
        token: Token::new("hf_secret"),
        ..settings(&server, dir.path())
    };
    let hub = Hub::new(with_token).unwrap();
    let remote = hub.open(&model("org/name")).unwrap();
    remote.fetch(&names(&["config.json", "model.safetensors"])).unwrap();
    let requests = server.requests();
    let (cdn, own): (Vec<_>, Vec<_>) = requests
        .iter()
        .partition(|request| request.host.starts_with("localhost"));
    assert!(!cdn.is_empty() && own.len() >= 4, "{requests:?}");
    assert!(
        cdn.iter().all(|request| !request.headers.contains_key("authorization")),
        "{cdn:?}"
    );
    let sent = |request: &&server::Request| {
        request.headers.get("authorization").map(String::as_str) == Some("Bearer hf_secret")
    };
    assert!(own.iter().all(sent), "{own:?}");
}

#[test]
fn old_names_lead_to_new_ones() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    server.put(
        "datasets/ethz/food101",
        &[
            ("README.md", b"words"),
            ("data/train-00000-of-00001.parquet", &large(4)),
        ],
    );
    server.rename("datasets/food101", "datasets/ethz/food101");
    let hub = hub(&server, dir.path());
    let remote = hub.open(&Repository::new(Kind::Dataset, "food101", None)).unwrap();
    remote.fetch(&remote.files()).unwrap();
    let shard = remote.directory().join("data/train-00000-of-00001.parquet");
    assert_eq!(std::fs::read(shard).unwrap(), large(4));
    assert!(dir.path().join("datasets--food101").is_dir());
}

#[test]
fn those_who_ask_at_once_download_once() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    server.put("models/org/name", &[("a", &large(5)), ("b", &large(6)), ("c", b"c")]);
    let wanted = names(&["a", "b", "c"]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let hub = hub(&server, dir.path());
                let remote = hub.open(&model("org/name")).unwrap();
                remote.fetch(&wanted).unwrap();
                assert_eq!(std::fs::read(remote.directory().join("a")).unwrap(), large(5));
            });
        }
    });
    let requests = server.requests();
    let contents = requests
        .iter()
        .filter(|request| request.path.contains("/cdn/") || request.path.contains("resolve-cache"));
    assert_eq!(contents.count(), 3, "{requests:?}");
}
