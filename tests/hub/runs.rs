//! The program itself, without local paths: from an empty cache, from a full one, without a network, on two ranks.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::common::Ended;
use super::playground::Playground;
use super::server::{Request, Server, What};

/// A Hub with a small model and a dataset of two training shards, and a home for the cache.
struct Place {
    server: Server,
    playground: Playground,
}

const NAMES: [&str; 4] = [
    "model=org/vit",
    "dataset=org/shapes",
    "train-split=train[:24]",
    "max-steps=2",
];

impl Place {
    fn new() -> Place {
        let (server, playground) = (Server::start(), Playground::new(64, 16));
        server.put_directory("models/org/vit", &playground.path("model"));
        server.put_directory("datasets/org/shapes", &playground.path("shards"));
        Place { server, playground }
    }

    fn home(&self) -> PathBuf {
        self.playground.path("hf")
    }

    fn command(&self, world: usize, name: &str, arguments: &[&str]) -> Command {
        let mut command = self.playground.command(world, name, arguments);
        command
            .env("HF_ENDPOINT", self.server.endpoint())
            .env("HF_HOME", self.home());
        for variable in ["HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN"] {
            command.env_remove(variable);
        }
        command
    }

    fn succeed(&self, command: &mut Command) -> String {
        let ended = Ended::of(command.output().unwrap());
        assert_eq!(ended.code, Some(0), "{command:?}\n{}", ended.text);
        ended.text
    }

    fn fail(&self, arguments: &[&str]) -> String {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["dry-run"]).collect();
        let ended = Ended::of(self.command(0, "none", &arguments).output().unwrap());
        assert_ne!(ended.code, Some(0), "{arguments:?}\n{}", ended.text);
        assert_eq!(ended.text.matches("error").count(), 1, "{}", ended.text);
        ended.text
    }
}

/// How often the contents of each file were asked for, by their hash.
fn contents(requests: &[Request]) -> Vec<&str> {
    let mut paths: Vec<&str> = requests.iter().map(|request| request.path.as_str()).collect();
    paths.retain(|path| path.starts_with("/cdn/") || path.starts_with("/api/resolve-cache/"));
    paths.sort_unstable();
    paths
}

#[test]
fn the_seed_command_needs_no_local_paths() {
    let place = Place::new();
    let world = if cfg!(feature = "mpi") { 2 } else { 0 };
    let text = place.succeed(&mut place.command(world, "empty", &NAMES));
    assert!(text.contains("model org/vit is the Hub's"), "{text}");
    let requests = place.server.requests();
    let asked = contents(&requests);
    let mut once = asked.clone();
    once.dedup();
    assert_eq!(asked, once, "one rank downloads, each file once");
    assert!(
        !requests.iter().any(|request| request.path.contains("train-00001")),
        "24 rows lie in the first shard"
    );
    assert!(requests.iter().any(|request| request.path.contains("validation-00000")));

    place.succeed(&mut place.command(0, "full", &NAMES));
    let requests = place.server.requests();
    assert_eq!(requests.len(), 2, "{requests:?}");
    place.succeed(place.command(world, "offline", &NAMES).env("HF_HUB_OFFLINE", "1"));
    assert!(place.server.requests().is_empty());

    let adapter = |name: &str| std::fs::read(place.playground.path(name).join("adapter_model.safetensors")).unwrap();
    assert_eq!(adapter("empty"), adapter("offline"));
    let config = std::fs::read_to_string(place.playground.path("full/adapter_config.json")).unwrap();
    assert!(config.contains("\"base_model_name_or_path\": \"org/vit\""), "{config}");
}

#[test]
fn what_needs_more_rows_brings_more_shards() {
    let place = Place::new();
    let run = |split: &str| {
        place.succeed(&mut place.command(0, "any", &["model=org/vit", "dataset=org/shapes", split, "dry-run"]))
    };
    run("train-split=train[:10]");
    place.server.requests();
    run("train-split=train[:40]");
    let requests = place.server.requests();
    assert!(
        requests.iter().any(|request| request.path.contains("train-00001")),
        "{requests:?}"
    );
    assert!(run("train-split=train").contains("64 training samples"));
}

#[test]
fn two_processes_at_once_share_the_work() {
    let place = Place::new();
    let mut flags = NAMES.to_vec();
    flags.push("dry-run");
    let start = || place.command(0, "none", &flags).spawn().unwrap();
    let children = [start(), start(), start()];
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let requests = place.server.requests();
    let asked = contents(&requests);
    let mut once = asked.clone();
    once.dedup();
    assert_eq!(asked, once);
}

#[test]
fn a_dataset_made_by_a_script_comes_from_its_conversion() {
    let place = Place::new();
    let shards = place.playground.path("shards/data");
    let read = |name: &str| std::fs::read(shards.join(name)).unwrap();
    place.server.put(
        "datasets/org/scripted",
        &[("scripted.py", b"import datasets"), ("README.md", b"# Words\n")],
    );
    let (train, validation) = (
        read("train-00000-of-00002.parquet"),
        read("validation-00000-of-00001.parquet"),
    );
    let files: [(&str, &[u8]); 2] = [
        ("default/train/0000.parquet", &train),
        ("default/validation/0000.parquet", &validation),
    ];
    place
        .server
        .put_at("datasets/org/scripted", "refs/convert/parquet", &files);
    let names = ["model=org/vit", "dataset=org/scripted", "dry-run"];
    let text = place.succeed(&mut place.command(0, "none", &names));
    assert!(
        text.contains("32 training samples") && text.contains("refs/convert/parquet"),
        "{text}"
    );
    let offline = place.succeed(place.command(0, "none", &names).env("HF_HUB_OFFLINE", "1"));
    assert!(offline.contains("32 training samples"), "{offline}");
}

#[test]
fn an_image_folder_comes_whole() {
    let place = Place::new();
    place
        .server
        .put_directory("datasets/org/pictures", &place.playground.path("data"));
    let names = ["model=org/vit", "dataset=org/pictures", "dry-run"];
    let text = place.succeed(&mut place.command(0, "none", &names));
    assert!(
        text.contains("64 training samples") && text.contains("16 validation samples"),
        "{text}"
    );
}

#[test]
fn local_directories_go_before_names() {
    let place = Place::new();
    std::fs::create_dir_all(place.playground.path("here/org")).unwrap();
    for (name, from) in [("vit", "model"), ("shapes", "shards")] {
        let link = place.playground.path("here/org").join(name);
        std::os::unix::fs::symlink(place.playground.path(from), link).unwrap();
    }
    let names = ["model=org/vit", "dataset=org/shapes", "dry-run"];
    place.succeed(
        place
            .command(0, "none", &names)
            .current_dir(place.playground.path("here")),
    );
    assert!(place.server.requests().is_empty());
}

#[test]
fn what_is_not_there_is_one_error_that_helps() {
    let place = Place::new();
    place.server.put(
        "models/google/vit-tiny",
        &[("config.json", b"{}"), ("pytorch_model.bin", b"x")],
    );
    let with = |change: &'static str| {
        let key = change.split('=').next().unwrap();
        let mut flags: Vec<&str> = NAMES
            .into_iter()
            .filter(|flag| !flag.starts_with(&format!("{key}=")))
            .collect();
        flags.push(change);
        place.fail(&flags)
    };
    let cases = [
        ("model=vit-tiny", vec!["did you mean google/vit-tiny?", "to do:"]),
        (
            "model=google/vit-tiny",
            vec!["pytorch_model.bin", "model.safetensors", "to do:"],
        ),
        ("model-revision=v2", vec!["revision v2", "choose a branch"]),
        ("dataset=org/nothing", vec!["org/nothing", "check the spelling"]),
        (
            "train-split=trian",
            vec!["dataset org/shapes", "trian", "train, validation"],
        ),
        ("dataset-config-name=other", vec!["other"]),
    ];
    for (change, expected) in cases {
        let text = with(change);
        assert!(expected.iter().all(|word| text.contains(word)), "{change}: {text}");
    }
}

#[test]
fn results_are_pushed_as_they_lie_in_the_output_directory() {
    let place = Place::new();
    let mut flags = NAMES.to_vec();
    flags.extend(["push-to-hub", "hub-model-id=my-adapter"]);
    let refused = Ended::of(place.command(0, "refused", &flags).output().unwrap());
    assert!(
        refused.text.contains("HF_TOKEN") && !place.playground.path("refused").exists(),
        "{}",
        refused.text
    );
    let wrong = Ended::of(
        place
            .command(0, "wrong", &flags)
            .env("HF_TOKEN", "hf_x")
            .output()
            .unwrap(),
    );
    assert!(
        wrong.text.contains("token is not valid") && !place.playground.path("wrong").exists(),
        "{}",
        wrong.text
    );

    // Twice: into a new repository, and into one that exists and has the large file.
    for name in ["first", "second"] {
        let text = place.succeed(place.command(0, name, &flags).env("HF_TOKEN", "hf_writer"));
        assert!(
            text.contains("https://huggingface.co/writer/my-adapter/commit/"),
            "{text}"
        );
    }
    let commits = place.server.commits();
    assert_eq!(commits.len(), 2);
    assert_eq!(commits[0].repository, "models/writer/my-adapter");
    assert_eq!(commits[0].summary, "End of training");
    let directory = place.playground.path("first");
    let mut expected = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(&directory)
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().is_file())
    {
        expected.insert(
            entry.file_name().into_string().unwrap(),
            std::fs::read(entry.path()).unwrap(),
        );
    }
    assert!(expected.contains_key("adapter_model.safetensors") && expected.contains_key("README.md"));
    assert!(directory.join("checkpoint-2").is_dir());
    assert_eq!(commits[0].files, expected);
    let puts = place
        .server
        .requests()
        .into_iter()
        .filter(|request| request.method == "PUT")
        .count();
    assert_eq!(puts, 1, "the same contents are uploaded once");
    let written = std::fs::read_to_string(directory.join("dtrain_run.toml")).unwrap();
    assert!(
        written.contains("push_to_hub = true") && !written.contains("hf_writer"),
        "{written}"
    );
}

#[test]
fn an_upload_is_ended_by_a_signal() {
    let place = Place::new();
    let busy = What::Status(503, vec![("Retry-After", "60")]);
    place.server.fault("/commit/", 100, busy);
    let mut flags = NAMES.to_vec();
    flags.extend(["push-to-hub", "hub-model-id=my-adapter"]);
    let mut command = place.command(0, "run", &flags);
    command
        .env("HF_TOKEN", "hf_writer")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let within_a_minute = |what: &str, is_done: &mut dyn FnMut() -> bool| {
        let begun = Instant::now();
        while !is_done() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    within_a_minute("the upload begins", &mut || {
        let requests = place.server.requests();
        requests.iter().any(|request| request.path.contains("/commit/"))
    });
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    within_a_minute("the process ends", &mut || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(place.playground.path("run/adapter_model.safetensors").exists());
}

#[cfg(feature = "mpi")]
#[test]
fn ranks_that_wait_for_a_download_end_when_it_fails() {
    let place = Place::new();
    let mut command = place.command(2, "none", &["model=org/nothing", "dataset=org/shapes"]);
    let ended = Ended::of(command.output().unwrap());
    assert_ne!(ended.code, Some(0), "{}", ended.text);
    assert_eq!(ended.text.matches("error on rank").count(), 1, "{}", ended.text);
    assert!(
        ended.text.contains("org/nothing") && ended.text.contains("to do:"),
        "{}",
        ended.text
    );
}
