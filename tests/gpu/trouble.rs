//! What is said where GPUs are missing, too few, too old or full, and how a job ends when one of its ranks is lost.
//!
//! These need the stand-in, which can be asked to be any of that; on a machine with a GPU they are left out, and say so.

use std::io::Write;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::common::Ended;
use super::job::{ranks_of, spawn, wait_for};
use super::place;
use super::playground::{self, Playground};

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
    let turing = [("DTRAIN_STAND_IN_CAPABILITY", "75")];
    for (settings, why) in [
        (&no_driver, "no NVIDIA driver on this machine"),
        (&none, "the NVIDIA driver sees no GPU"),
        (
            &old,
            "the NVIDIA driver is too old: it serves CUDA 12.2, this program needs 13.0",
        ),
        (
            &turing,
            "GPU 0 (stand-in GPU) has compute capability 7.5, and 8.0 is needed",
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

#[test]
fn answers_that_do_not_fit_say_how_to_ask_for_fewer() {
    let place = Playground::new(8, 40);
    let Some(trained) = run(&place, 0, &["device=cuda", "method=full"], &[]) else {
        return;
    };
    assert_eq!(trained.code, Some(0), "{}", trained.text);
    let [model, data, pictures] = ["run", "data", "data/validation"].map(|name| place.path(name).display().to_string());
    let eval = ["eval", &model, "--dataset", &data, "--per-device-eval-batch-size", "40"];
    for (words, flag) in [
        (&eval[..], "--per-device-eval-batch-size"),
        (
            &["predict", &model, &pictures, "--batch-size", "40"],
            "lower --batch-size",
        ),
    ] {
        let mut command = Command::new(playground::program());
        command.args(words).args(["--device", "cuda"]);
        command.envs(place::environment().iter().map(|(name, value)| (*name, value)));
        // Enough for the model, the samples and what products work in, not for what passes through the model.
        command.env("DTRAIN_STAND_IN_BYTES", "36500000");
        let ended = Ended::of(command.output().expect("the program starts"));
        assert_eq!(ended.code, Some(1), "{}", ended.text);
        says(
            &ended,
            &["the GPU is out of memory in", "40 images", "GiB were asked for", flag],
        );
    }
}

/// The stand-ins without one of them; None where the system has the real one.
fn without(place: &Playground, library: &str) -> Option<String> {
    // SAFETY: opens a library of the system's, whose initialisers may run anywhere.
    let is_installed = place::is_real() || unsafe { libloading::Library::new(library) }.is_ok();
    if is_installed {
        let _ = writeln!(std::io::stderr(), "SKIPPED: {library} is installed");
        return None;
    }
    let all = place::environment()
        .iter()
        .find(|(name, _)| *name == "DTRAIN_CUDA_LIB_DIR");
    let folder = place.path(&format!("without-{library}"));
    std::fs::create_dir(&folder).unwrap();
    for file in std::fs::read_dir(&all.expect("the stand-ins' folder").1)
        .unwrap()
        .flatten()
    {
        if file.file_name() != library {
            std::os::unix::fs::symlink(file.path(), folder.join(file.file_name())).unwrap();
        }
    }
    Some(folder.display().to_string())
}

#[test]
fn libraries_that_are_missing_or_too_old_are_named() {
    let place = Playground::new(8, 4);
    if let Some(folder) = without(&place, "libcublasLt.so.13") {
        for device in ["device=auto", "device=cuda"] {
            let Some(ended) = run(&place, 0, &[device], &[("DTRAIN_CUDA_LIB_DIR", &folder)]) else {
                return;
            };
            assert_eq!(ended.code, Some(1), "{}", ended.text);
            says(
                &ended,
                &["cuBLASLt (libcublasLt.so.13) was not found", "DTRAIN_CUDA_LIB_DIR"],
            );
        }
    }
    let two = ("DTRAIN_STAND_IN_GPUS", "2");
    if let Some(folder) = without(&place, "libnccl.so.2") {
        let Some(ended) = run(&place, 2, &["device=cuda"], &[two, ("DTRAIN_CUDA_LIB_DIR", &folder)]) else {
            return;
        };
        assert!(!matches!(ended.code, Some(0)), "{}", ended.text);
        says(
            &ended,
            &[
                "NCCL on 2 of 2 ranks: libnccl.so.2 was not found",
                "DTRAIN_CUDA_LIB_DIR",
            ],
        );
        assert_eq!(ended.text.matches("error on rank").count(), 1, "{}", ended.text);
        // One process sums nothing.
        let alone = run(&place, 0, &["device=cuda"], &[("DTRAIN_CUDA_LIB_DIR", &folder)]).expect("no real GPU");
        assert_eq!(alone.code, Some(0), "{}", alone.text);
    }
    let Some(ended) = run(&place, 2, &["device=cuda"], &[two, ("DTRAIN_STAND_IN_NCCL", "21602")]) else {
        return;
    };
    assert!(!matches!(ended.code, Some(0)), "{}", ended.text);
    says(&ended, &["NCCL on 2 of 2 ranks: it is older than 2.18"]);
}

/// The driver answers everything with the same error from then on, on rank 1's GPU or on the only one.
#[test]
fn a_gpu_that_fails_in_the_middle_is_told_with_the_step_and_ends_the_job() {
    for (world, gpu, who) in [(0, 0, "error: "), (2, 1, "error on rank 1 of 2")] {
        let place = Playground::new(24, 8);
        let sign = place.path("lost");
        let lost = format!("{gpu},{}", sign.display());
        let Some(child) = endless(&place, world, &[("DTRAIN_STAND_IN_LOST", &lost)]) else {
            return;
        };
        std::fs::write(sign, "").unwrap();
        let ended = ends_in_time(child, &[]);
        says(
            &ended,
            &[
                who,
                "in optimizer step ",
                "the GPU has failed",
                "an illegal memory access",
                "resume-from-checkpoint",
            ],
        );
        assert_eq!(ended.text.matches("to do: ").count(), 1, "{}", ended.text);
    }
}

/// A run that nobody waits for, in the middle of training.
fn endless(place: &Playground, world: usize, settings: &[(&str, &str)]) -> Option<Child> {
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
    let mut command = place.command(world, "run", &arguments);
    command
        .envs(place::environment().iter().map(|(name, value)| (*name, value)))
        .envs(settings.iter().copied())
        .env("DTRAIN_STAND_IN_GPUS", world.max(1).to_string())
        .env("DTRAIN_TIMEOUT", "4");
    let child = spawn(command);
    wait_for(&place.path("run/checkpoint-2"));
    Some(child)
}

fn send(signal: &str, rank: &str) -> bool {
    Command::new("kill").args([signal, rank]).status().unwrap().success()
}

/// Sends a signal to rank 1 of a job in the middle of training; how the job ended, if it did within 15 s.
fn lose_rank_1(signal: &str) -> Option<Ended> {
    let place = Playground::new(24, 8);
    let child = endless(&place, 2, &[])?;
    let ranks = ranks_of(child.id());
    assert_eq!(ranks.len(), 2);
    assert!(send(signal, &ranks[1]));
    Some(ends_in_time(child, &ranks))
}

/// How a job ended that has 15 s for it; `ranks` are killed if it does not.
fn ends_in_time(mut child: Child, ranks: &[String]) -> Ended {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > Duration::from_secs(15) {
            for rank in ranks {
                send("-KILL", rank);
            }
            let _ = child.kill();
            panic!("the job hangs:\n{}", Ended::of(child.wait_with_output().unwrap()).text);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let ended = Ended::of(child.wait_with_output().unwrap());
    assert!(!matches!(ended.code, Some(0)), "{}", ended.text);
    ended
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
