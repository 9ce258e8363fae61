//! Servers and networks with bad moments.

use super::server::{Server, What};
use super::{hub, large, model};
use crate::server::sha256;

/// Fetches one file of a repository that has it; the error's text if it fails.
fn fetch(server: &Server, cache: &std::path::Path) -> Result<Vec<u8>, String> {
    let hub = hub(server, cache);
    let remote = hub.open(&model("org/name")).map_err(|error| error.to_string())?;
    remote
        .fetch(&["weights".to_owned()])
        .map_err(|error| error.to_string())?;
    Ok(std::fs::read(remote.directory().join("weights")).unwrap())
}

fn server() -> (Server, Vec<u8>, tempfile::TempDir) {
    let server = Server::start();
    let weights = large(7);
    server.put("models/org/name", &[("weights", &weights)]);
    (server, weights, tempfile::tempdir().unwrap())
}

#[test]
fn a_server_in_need_is_asked_again() {
    for (path, what) in [
        ("/revision/", What::Status(500, vec![])),
        ("/tree/", What::Status(503, vec![("Retry-After", "0")])),
        ("/resolve/", What::Status(429, vec![("Retry-After", "0")])),
        ("/cdn/", What::Status(502, vec![])),
        ("/revision/", What::Broken(3)),
        ("/cdn/", What::Stalled(10_000)),
    ] {
        let (server, weights, dir) = server();
        server.fault(path, 2, what);
        assert_eq!(fetch(&server, dir.path()), Ok(weights), "{path}");
    }
}

#[test]
fn a_server_that_stays_in_need_is_an_error_that_says_so() {
    for (status, remedy) in [(500, "later"), (429, "later"), (504, "later")] {
        let (server, _, dir) = server();
        server.fault("/api/", 100, What::Status(status, vec![("Retry-After", "0")]));
        let error = fetch(&server, dir.path()).unwrap_err();
        assert!(error.contains(&status.to_string()) && error.contains(remedy), "{error}");
    }
}

#[test]
fn a_broken_body_goes_on_where_it_ended() {
    let (server, weights, dir) = server();
    server.fault("/cdn/", 1, What::Broken(20_000));
    assert_eq!(fetch(&server, dir.path()), Ok(weights));
    let ranges: Vec<Option<String>> = server
        .requests()
        .into_iter()
        .filter(|request| request.path.contains("/cdn/"))
        .map(|request| request.headers.get("range").cloned())
        .collect();
    assert_eq!(ranges, [None, Some("bytes=20000-".to_owned())]);
}

#[test]
fn what_another_process_left_is_gone_on_with() {
    let (server, weights, dir) = server();
    let blobs = dir.path().join("models--org--name/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let incomplete = blobs.join(format!("{}.incomplete", sha256(&weights)));
    std::fs::write(&incomplete, &weights[..30_000]).unwrap();
    assert_eq!(fetch(&server, dir.path()).unwrap(), weights);
    let asked = server.requests();
    assert!(
        asked
            .iter()
            .any(|request| request.headers.get("range").map(String::as_str) == Some("bytes=30000-")),
        "{asked:?}"
    );
    assert!(!incomplete.exists());
}

#[test]
fn what_was_left_wrong_is_thrown_away() {
    for left in [vec![0; 30_000], vec![1; 60_000]] {
        let (server, weights, dir) = server();
        let blobs = dir.path().join("models--org--name/blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join(format!("{}.incomplete", sha256(&weights))), left).unwrap();
        assert_eq!(fetch(&server, dir.path()), Ok(weights));
    }
}

#[test]
fn a_server_without_ranges_begins_anew() {
    let (server, weights, dir) = server();
    server.fault("/cdn/", 1, What::Broken(20_000));
    server.fault("/cdn/", 1, What::NoRanges);
    assert_eq!(fetch(&server, dir.path()), Ok(weights));
}

#[test]
fn wrong_contents_never_reach_the_cache() {
    let (server, weights, dir) = server();
    server.fault("/cdn/", 1, What::WrongBytes);
    assert_eq!(fetch(&server, dir.path()), Ok(weights), "once may be an accident");

    let (server, weights, dir) = self::server();
    server.fault("/cdn/", 9, What::WrongBytes);
    let error = fetch(&server, dir.path()).unwrap_err();
    assert!(
        error.contains("weights") && error.contains("contents") && error.contains(&sha256(&weights)),
        "{error}"
    );
    assert!(
        !dir.path()
            .join("models--org--name/blobs")
            .join(sha256(&weights))
            .exists()
    );
}

#[test]
fn refusals_say_what_to_do() {
    let gated = vec![
        ("X-Error-Code", "GatedRepo"),
        ("X-Error-Message", "Access to model org/name is restricted"),
    ];
    for (path, what, expected) in [
        (
            "/resolve/",
            What::Status(403, gated.clone()),
            ["accept its terms", "https://huggingface.co/org/name", "restricted"],
        ),
        (
            "/api/",
            What::Status(401, gated),
            ["accept its terms", "hf auth login", "is gated"],
        ),
        (
            "/api/",
            What::Status(403, vec![]),
            ["forbidden", "settings/tokens", "403"],
        ),
    ] {
        let (server, _, dir) = server();
        server.fault(path, 1, what);
        let error = fetch(&server, dir.path()).unwrap_err();
        assert!(expected.iter().all(|text| error.contains(text)), "{error}");
    }
}

#[test]
fn wrong_names_are_answered_with_near_ones() {
    let (server, _, dir) = server();
    let hub = hub(&server, dir.path());
    server.put("models/google/vit-base", &[("config.json", b"{}")]);
    let error = hub.open(&model("vit-base")).err().unwrap().to_string();
    assert!(error.contains("did you mean google/vit-base?"), "{error}");
    let revision = dtrain::hub::Repository::new(dtrain::hub::Kind::Model, "org/name", Some("v9"));
    let error = hub.open(&revision).err().unwrap().to_string();
    assert!(
        error.contains("revision v9") && error.contains("choose a branch"),
        "{error}"
    );
    let error = hub
        .open(&model("org/name"))
        .unwrap()
        .fetch(&["nothing".to_owned()])
        .unwrap_err()
        .to_string();
    assert!(error.contains("nothing"), "{error}");
}
