//! What goes wrong ends the whole job soon, with one message, a code other than 0, and nothing half-written.

mod common;
#[path = "common/job.rs"]
mod job;
#[path = "common/playground.rs"]
mod playground;

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use common::Ended;
use job::{ranks_of, spawn, wait_for};
use playground::Playground;

/// A run that takes longer than any test waits.
const LONG: [&str; 5] = [
    "max-steps=1000000",
    "eval-strategy=steps",
    "eval-steps=20",
    "save-strategy=steps",
    "save-steps=20",
];

/// How long a job may take to end once one of its ranks is gone.
const PATIENCE: Duration = Duration::from_secs(15);

/// Waits for the end of a job; panics if it hangs.
fn end_of(mut child: Child) -> Ended {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("the job hangs:\n{}", Ended::of(child.wait_with_output().unwrap()).text);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ended::of(child.wait_with_output().unwrap())
}

fn is_alive(process: &str) -> bool {
    // A process that ended and was not yet waited for is still listed, without a command.
    std::fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|command| !command.is_empty())
}

#[test]
fn a_rank_that_is_killed_ends_the_job() {
    let place = Playground::new(24, 8);
    let child = spawn(place.command(2, "run", &LONG));
    wait_for(&place.path("run/checkpoint-20"));
    let ranks = ranks_of(child.id());
    assert_eq!(ranks.len(), 2);
    assert!(
        Command::new("kill")
            .args(["-KILL", &ranks[1]])
            .status()
            .unwrap()
            .success()
    );
    let ended = end_of(child);
    assert!(!matches!(ended.code, Some(0)), "{}", ended.text);
    assert!(!ranks.iter().any(|rank| is_alive(rank)), "a rank is left");
}

#[test]
fn a_rank_that_hangs_is_named() {
    let place = Playground::new(24, 8);
    let mut command = place.command(2, "run", &LONG);
    command.env("DTRAIN_TIMEOUT", "4");
    let child = spawn(command);
    wait_for(&place.path("run/checkpoint-20"));
    let ranks = ranks_of(child.id());
    assert_eq!(ranks.len(), 2);
    assert!(
        Command::new("kill")
            .args(["-STOP", &ranks[1]])
            .status()
            .unwrap()
            .success()
    );
    let ended = end_of(child);
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    assert!(ended.text.contains("error on rank 0"), "{}", ended.text);
    assert!(ended.text.contains("rank 1 ("), "{}", ended.text);
    assert!(ended.text.contains("did not take part"), "{}", ended.text);
    assert!(!ranks.iter().any(|rank| is_alive(rank)), "a rank is left");
}

#[test]
fn a_patience_that_is_no_number_is_an_error() {
    let place = Playground::new(24, 8);
    for nonsense in ["soon", "0", "-3"] {
        let mut command = place.command(2, "run", &LONG);
        command.env("DTRAIN_TIMEOUT", nonsense);
        let ended = end_of(spawn(command));
        assert_eq!(ended.code, Some(1), "{}", ended.text);
        assert!(ended.text.contains("no number of seconds"), "{}", ended.text);
    }
}

#[test]
fn an_image_that_must_be_readable_ends_the_job_with_its_name() {
    let place = Playground::new(24, 8);
    let picture = place.training_picture(10);
    std::fs::write(&picture, b"no picture at all").unwrap();
    for world in [0, 2] {
        let arguments = [&LONG[..], &["on-bad-image=error"]].concat();
        let ended = end_of(spawn(place.command(world, &format!("run {world}"), &arguments)));
        assert_eq!(ended.code, Some(1), "{}", ended.text);
        assert!(
            ended.text.contains(picture.file_name().unwrap().to_str().unwrap()),
            "{}",
            ended.text
        );
        assert!(ended.text.contains("in optimizer step "), "{}", ended.text);
        if world == 2 {
            assert_eq!(ended.text.matches("error on rank").count(), 1, "{}", ended.text);
        }
    }
}

#[test]
fn a_loss_that_is_no_number_names_the_step() {
    let place = Playground::new(24, 8);
    for world in [0, 2] {
        let arguments = [&LONG[..], &["learning-rate=1e38", "max-grad-norm=0"]].concat();
        let ended = end_of(spawn(place.command(world, &format!("run {world}"), &arguments)));
        assert_eq!(ended.code, Some(1), "{}", ended.text);
        assert!(ended.text.contains("training failed at step"), "{}", ended.text);
        assert!(ended.text.contains("lower --learning-rate"), "{}", ended.text);
    }
}

#[test]
fn an_output_directory_that_cannot_be_written_is_refused_before_training() {
    let place = Playground::new(24, 8);
    std::fs::write(place.path("file"), "").unwrap();
    for world in [0, 2] {
        let ended = end_of(spawn(place.command(world, "file/run", &LONG)));
        assert_eq!(ended.code, Some(1), "{}", ended.text);
        assert!(ended.text.contains("file/run"), "{}", ended.text);
        assert!(!ended.text.contains("step 1/"), "{}", ended.text);
    }
}

/// A limit on the size of files stands for a full disk: writing a checkpoint fails in its middle.
#[test]
fn a_disk_that_fills_up_leaves_the_checkpoints_before_it_whole() {
    let place = Playground::new(24, 8);
    place.succeed(
        0,
        "run",
        &[
            "max-steps=40",
            "eval-strategy=no",
            "load-best-model-at-end=false",
            "save-strategy=steps",
            "save-steps=20",
        ],
    );
    let before = listing(&place.path("run"));
    let checkpoint = place
        .path("run/checkpoint-40/optimizer.safetensors")
        .metadata()
        .unwrap()
        .len();
    let arguments = [
        &LONG[..],
        &[
            "eval-strategy=no",
            "load-best-model-at-end=false",
            "resume-from-checkpoint=true",
        ],
    ];
    let arguments: Vec<&str> = arguments
        .concat()
        .into_iter()
        .filter(|a| *a != "eval-strategy=steps")
        .collect();
    let run = place.command(0, "run", &arguments);
    // In blocks of 512 bytes; the signal is ignored so that writing fails, as it does on a full disk.
    let mut limited = Command::new("bash");
    limited.args([
        "-c",
        &format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", checkpoint / 1024),
    ]);
    limited.arg(run.get_program()).args(run.get_args());
    let ended = end_of(spawn(limited));
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    assert_eq!(ended.text.matches("error: ").count(), 1, "{}", ended.text);
    assert!(ended.text.contains("optimizer.safetensors"), "{}", ended.text);
    assert_eq!(listing(&place.path("run")), before);
    place.succeed(
        0,
        "run",
        &[
            "max-steps=60",
            "eval-strategy=no",
            "load-best-model-at-end=false",
            "save-strategy=no",
            "resume-from-checkpoint=true",
        ],
    );
}

/// All files below a directory with their sizes.
fn listing(directory: &Path) -> Vec<(String, u64)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => {
                files.push((path.display().to_string(), 0));
                files.extend(listing(&path));
            }
            false => files.push((path.display().to_string(), path.metadata().unwrap().len())),
        }
    }
    files.sort();
    files
}

/// Started by a launcher whose ranks this program's MPI does not see: an error, not as many separate runs.
#[test]
fn a_launcher_that_mpi_knows_nothing_of_is_an_error() {
    let place = Playground::new(24, 8);
    let mut command = place.command(0, "run", &LONG);
    command.env("PMI_SIZE", "2").env("PMI_RANK", "0");
    let ended = end_of(spawn(command));
    assert!(!matches!(ended.code, Some(0)), "{}", ended.text);
    assert!(ended.text.contains("started 2 processes"), "{}", ended.text);
}
