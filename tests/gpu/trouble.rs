//! What is said where GPUs are missing, too few, too old or full, and how a job ends when one of its ranks is lost.
//!
//! These need the stand-in, which can be asked to be any of that; on a machine with a GPU they are left out, and say so.

use std::io::Write;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::common::Ended;
use super::job::{ranks_of, spawn, wait_for};
use super::place;
use super::playground::Playground;

const SHORT: [&str; 5] = [
    "max-steps=1",
    "eval-strategy=no",
    "save-strategy=no",
    "load-best-model-at-end=false",
    "precision=fp16",
];

/// A run on stand-ins with these settings; None where GPUs are real.
fn run(place: &Playground, world: usize, arguments: &[&str], settings: &[(&str, &str)]) -> Option<Ended> {
    if place::is_real() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: the GPU is real");
        return None;
    }
    let mut command = place.command(world, "run", &[&SHORT[..], arguments].concat());
    command.envs(place::environment().iter().map(|(name, value)| (*name, value)));
    command.envs(settings.iter().copied());
    Some(Ended::of(command.output().expect("the program starts")))
}

fn says(ended: &Ended, parts: &[&str]) {
    for part in parts {
        assert!(ended.text.contains(part), "{part:?} is missing:\n{}", ended.text);
    }
}

#[test]
fn without_a_gpu_one_line_says_so_and_the_cpu_computes() {
    let place = Playground::new(8, 4);
    let nowhere = place.path("nowhere");
    let no_driver = [("DTRAIN_CUDA_LIB_DIR", nowhere.to_str().unwrap())];
    let none = [("DTRAIN_STAND_IN_GPUS", "0")];
    let old = [("DTRAIN_STAND_IN_VERSION", "12020")];
    for (settings, why) in [
        (&no_driver, "no NVIDIA driver on this machine"),
        (&none, "the NVIDIA driver sees no GPU"),
        (
            &old,
            "the NVIDIA driver is too old: it serves CUDA 12.2, this program needs 13.0",
        ),
    ] {
        let Some(ended) = run(&place, 0, &["overwrite-output-dir"], settings) else {
            return;
        };
        assert_eq!(ended.code, Some(0), "{}", ended.text);
        let lines: Vec<&str> = ended
            .text
            .lines()
            .filter(|line| line.contains("computing on the CPU"))
            .collect();
        assert_eq!(lines.len(), 1, "{}", ended.text);
        assert!(lines[0].contains(why), "{}", lines[0]);
        let Some(ended) = run(&place, 0, &["device=cuda"], settings) else {
            return;
        };
        assert!(!matches!(ended.code, Some(0)), "{}", ended.text);
        says(&ended, &[why, "--device cpu"]);
        assert_eq!(ended.text.matches("error").count(), 1, "{}", ended.text);
    }
}

#[test]
fn more_ranks_than_gpus_are_refused() {
    let place = Playground::new(8, 4);
    let Some(ended) = run(&place, 3, &["device=cuda"], &[("DTRAIN_STAND_IN_GPUS", "2")]) else {
        return;
    };
    assert!(!matches!(ended.code, Some(0)), "{}", ended.text);
    says(&ended, &["3 ranks", "2 GPUs"]);
    assert_eq!(ended.text.matches("error on rank").count(), 1, "{}", ended.text);
    let Some(ended) = run(&place, 2, &["device=cuda"], &[("DTRAIN_STAND_IN_GPUS", "1")]) else {
        return;
    };
    assert!(!matches!(ended.code, Some(0)), "{}", ended.text);
    says(&ended, &["ranks 0 and 1 have the same GPU"]);
}

#[test]
fn a_full_gpu_is_told_with_what_was_asked_and_what_to_set() {
    let place = Playground::new(8, 4);
    let full = [("DTRAIN_STAND_IN_BYTES", "33600000")];
    let Some(ended) = run(&place, 0, &["device=cuda"], &full) else {
        return;
    };
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    says(
        &ended,
        &[
            "the GPU is out of memory",
            "GiB were asked for",
            "--per-device-train-batch-size",
        ],
    );
}

#[test]
fn a_gpu_that_is_full_of_pictures_is_told_with_how_to_keep_fewer() {
    let place = Playground::new(8, 4);
    // Enough for the model and the pictures, not for what products work in.
    let full = [("DTRAIN_STAND_IN_BYTES", "20000000")];
    let arguments = ["device=cuda", "image-cache=device", "image-cache-gb=1"];
    let Some(ended) = run(&place, 0, &arguments, &full) else {
        return;
    };
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    says(
        &ended,
        &["the GPU is out of memory", "for decoded pictures", "--image-cache host"],
    );
}

/// A run that nobody waits for.
fn endless(place: &Playground) -> Option<Child> {
    if place::is_real() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: the GPU is real");
        return None;
    }
    let arguments = [
        "device=cuda",
        "precision=fp32",
        "max-steps=1000000",
        "eval-strategy=no",
        "load-best-model-at-end=false",
        "save-strategy=steps",
        "save-steps=2",
    ];
    let mut command = place.command(2, "run", &arguments);
    command
        .envs(place::environment().iter().map(|(name, value)| (*name, value)))
        .env("DTRAIN_STAND_IN_GPUS", "2")
        .env("DTRAIN_TIMEOUT", "4");
    let child = spawn(command);
    wait_for(&place.path("run/checkpoint-2"));
    Some(child)
}

/// Sends a signal to rank 1 of a job in the middle of training; how the job ended, if it did within 15 s.
fn lose_rank_1(signal: &str) -> Option<Ended> {
    let place = Playground::new(24, 8);
    let mut child = endless(&place)?;
    let ranks = ranks_of(child.id());
    assert_eq!(ranks.len(), 2);
    let send = |signal: &str, rank: &str| Command::new("kill").args([signal, rank]).status().unwrap();
    assert!(send(signal, &ranks[1]).success());
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > Duration::from_secs(15) {
            for rank in &ranks {
                send("-KILL", rank);
            }
            let _ = child.kill();
            panic!("the job hangs:\n{}", Ended::of(child.wait_with_output().unwrap()).text);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let ended = Ended::of(child.wait_with_output().unwrap());
    assert!(!matches!(ended.code, Some(0)), "{}", ended.text);
    Some(ended)
}

#[test]
fn a_rank_killed_while_gradients_are_summed_ends_the_job() {
    let Some(ended) = lose_rank_1("-KILL") else { return };
    // mpirun sees it first.
    says(&ended, &["rank 1"]);
}

#[test]
fn a_rank_that_hangs_is_named_by_the_others() {
    let Some(ended) = lose_rank_1("-STOP") else { return };
    says(&ended, &["rank 1 (", "did not take part in"]);
}
