//! Ranks under a real mpirun: the collectives' sums are exact, a job ends when one of its ranks does, and the number of
//! ranks changes nothing about what is trained and measured.
//!
//! Tests of collectives start this very test program again under mpirun, as `rank_body` with the name of what the ranks
//! shall do; tests of training start dtrain.
#![cfg(feature = "mpi")]

mod common;
#[path = "common/playground.rs"]
mod playground;

use std::path::Path;
use std::process::ExitCode;

use common::mpirun;
use dtrain::collective::{self, Collective};
use dtrain::error::{Error, Result};
use playground::{Outcome, Playground};

const BODY: &str = "DTRAIN_TEST_RANK_BODY";

/// Not a test by itself: what the processes under mpirun do.
#[test]
fn rank_body() {
    let Ok(name) = std::env::var(BODY) else { return };
    let code = collective::job(|collective| match name.as_str() {
        "sums" => sums(&**collective),
        "one-fails" if collective.rank() == 1 => Err(Error::usage("the test wants this rank to fail", "nothing")),
        "all-fail" => Err(Error::usage("the test wants all ranks to fail", "nothing")),
        "one-panics" if collective.rank() == 1 => panic!("the test wants this rank to panic"),
        "one-differs" => {
            let ours = if collective.rank() == 2 { "another" } else { "the same" };
            collective::same_everywhere(&**collective, "the recipe", ours.as_bytes())
        }
        // Waits for the rank that fails, as a training step would.
        "one-fails" | "one-panics" => collective.barrier(),
        other => panic!("no body {other}"),
    });
    // The test harness would report success for any code of its own.
    std::process::exit(if code == ExitCode::SUCCESS { 0 } else { 1 });
}

fn ranks(body: &str, world: usize) -> common::Ended {
    let program = std::env::current_exe().expect("the path of this test program");
    mpirun(
        world,
        &program,
        &["--exact", "rank_body", "--nocapture"],
        &[(BODY, body)],
    )
}

/// Integers up to 2^24 add up exactly in f32, so every element is known; the length is no multiple of any block.
fn sums(collective: &dyn Collective) -> Result<()> {
    let (rank, world) = (collective.rank() as u64, collective.world() as u64);
    assert_eq!(
        collective.local(),
        collective::LocalRank {
            rank: rank as usize,
            world: world as usize
        }
    );
    let of_ranks = world * (world + 1) / 2;
    for length in [0u64, 1, 7, 1001, 1_000_003] {
        let mut values: Vec<f32> = (0..length).map(|i| ((rank + 1) * (i % 4099)) as f32).collect();
        collective.sum_f32(&mut values)?;
        assert!(
            values
                .iter()
                .enumerate()
                .all(|(i, &v)| v == (of_ranks * (i as u64 % 4099)) as f32),
            "f32 {length}"
        );
        let mut values: Vec<f64> = (0..length).map(|i| ((rank + 1) * (i + (1 << 40))) as f64).collect();
        collective.sum_f64(&mut values)?;
        assert!(
            values
                .iter()
                .enumerate()
                .all(|(i, &v)| v == (of_ranks * (i as u64 + (1 << 40))) as f64),
            "f64 {length}"
        );
    }
    for root in 0..world {
        let mut bytes: Vec<u8> = (0..257).map(|i| (i * (rank + 3)) as u8).collect();
        collective.broadcast(&mut bytes, root as usize)?;
        assert!(
            bytes
                .iter()
                .enumerate()
                .all(|(i, &b)| b == (i as u64 * (root + 3)) as u8),
            "broadcast from {root}"
        );
    }
    let texts = collective::gather(collective, "x".repeat(rank as usize).as_bytes())?;
    assert!(
        texts
            .iter()
            .enumerate()
            .all(|(r, text)| *text == "x".repeat(r).into_bytes()),
        "gather"
    );
    let shared = collective::share(collective, vec![rank as u8 + 9; rank as usize + 5])?;
    assert_eq!(shared, [9; 5]);
    collective.barrier()
}

#[test]
fn sums_and_broadcasts_are_exact() {
    for world in [1, 2, 3, 4] {
        let ended = ranks("sums", world);
        assert_eq!(ended.code, Some(0), "{world} ranks:\n{}", ended.text);
    }
}

#[test]
fn an_error_on_one_rank_ends_the_others_and_is_told_once() {
    let ended = ranks("one-fails", 3);
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    assert_eq!(ended.text.matches("error on rank").count(), 1, "{}", ended.text);
    assert!(ended.text.contains("error on rank 1 of 3 ("), "{}", ended.text);
    assert!(
        ended.text.contains("the test wants this rank to fail"),
        "{}",
        ended.text
    );
}

#[test]
fn an_error_on_all_ranks_is_told_once() {
    let ended = ranks("all-fail", 4);
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    assert_eq!(ended.text.matches("error on rank").count(), 1, "{}", ended.text);
}

#[test]
fn a_panic_on_one_rank_ends_the_others() {
    let ended = ranks("one-panics", 2);
    assert_eq!(ended.code, Some(101), "{}", ended.text);
    assert!(ended.text.contains("error on rank 1 of 2 ("), "{}", ended.text);
    assert!(
        ended.text.contains("the test wants this rank to panic"),
        "{}",
        ended.text
    );
}

#[test]
fn ranks_that_disagree_are_named() {
    let ended = ranks("one-differs", 3);
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    assert!(
        ended.text.contains("the recipe of rank(s) 2 is not that of rank 0"),
        "{}",
        ended.text
    );
}

/// 50 samples in global batches of 12 over 20 steps: every fifth step has two samples, fewer than four ranks.
const INVARIANCE: [&str; 6] = [
    "max-steps=20",
    "eval-strategy=steps",
    "eval-steps=10",
    "save-strategy=no",
    "load-best-model-at-end=false",
    "learning-rate=5e-3",
];

/// `arguments`, of which `more` replaces some.
fn with<'a>(arguments: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    let key = |argument: &str| argument.split('=').next().unwrap().to_owned();
    let kept = arguments
        .iter()
        .filter(|argument| !more.iter().any(|other| key(other) == key(argument)));
    kept.chain(more).copied().collect()
}

/// Two sums of the same numbers in another order, scaled by what they were computed from.
fn assert_close(what: &str, ours: &[f64], theirs: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (step, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= tolerance * b.abs(), "{what} at {step}: {a} and {b}");
    }
}

/// Holds what two runs logged against each other, each figure within a relative tolerance.
fn assert_same_history(ours: &Outcome, theirs: &Outcome, figures: &[(&str, f64)]) {
    for (figure, tolerance) in figures {
        assert_close(figure, &ours.history(figure), &theirs.history(figure), *tolerance);
    }
}

#[test]
fn the_number_of_ranks_changes_nothing_about_what_is_trained() {
    let place = Playground::new(50, 17);
    let run = |world: usize, name: &str, batch: &str, accumulation: &str| {
        let batch = format!("per-device-train-batch-size={batch}");
        let accumulation = format!("gradient-accumulation-steps={accumulation}");
        place.succeed(
            world,
            name,
            &[&INVARIANCE[..], &[batch.as_str(), accumulation.as_str()]].concat(),
        )
    };
    let alone = run(0, "alone", "12", "1");
    assert_eq!(alone.history("loss").len(), 20);
    for (world, batch, accumulation) in [(0, "3", "4"), (2, "6", "1"), (4, "3", "1"), (2, "2", "3")] {
        let name = format!("{world} ranks, {batch} x {accumulation}");
        let ranks = run(world, &name, batch, accumulation);
        // f32 sums in another order; the invariant's own bound. Norms are sums of squares of such sums.
        assert_close(&name, &ranks.history("loss"), &alone.history("loss"), 1e-5);
        assert_close(&name, &ranks.history("grad_norm"), &alone.history("grad_norm"), 1e-4);
        assert_close(&name, &ranks.history("eval_loss"), &alone.history("eval_loss"), 1e-5);
        assert_eq!(ranks.history("eval_accuracy"), alone.history("eval_accuracy"), "{name}");
        assert_eq!(ranks.history("learning_rate"), alone.history("learning_rate"), "{name}");
    }
}

/// Sums in another order move values by 2⁻²⁴, some of which are then rounded to the other of two neighbours in bf16, 2⁻⁸ away.
#[test]
fn the_number_of_ranks_changes_nothing_but_rounding_in_bf16() {
    let place = Playground::new(50, 17);
    let run = |world: usize, batch: &str| {
        let name = format!("bf16 on {world}");
        let batch = format!("per-device-train-batch-size={batch}");
        let more = ["precision=bf16", batch.as_str(), "gradient-accumulation-steps=1"];
        place.succeed(world, &name, &with(&INVARIANCE, &more))
    };
    let (alone, ranks) = (run(0, "12"), run(2, "6"));
    for (what, tolerance) in [("loss", 1e-2), ("grad_norm", 5e-2), ("eval_loss", 1e-2)] {
        assert_close(what, &ranks.history(what), &alone.history(what), tolerance);
    }
    let says_so = |text: &str| text.contains("round their operands to bf16") || text.contains("AVX512_BF16");
    assert!(
        says_so(&alone.ended.text) && says_so(&ranks.ended.text),
        "{}",
        alone.ended.text
    );
}

/// Weights of classes, draws with replacement, mixed samples, averages: all of them are functions of the epoch and the global
/// batch, also with shares of an odd size, whose partners lie with other ranks, and with a picture that cannot be read.
#[test]
fn training_aids_do_not_depend_on_ranks() {
    let place = Playground::new(50, 17);
    std::fs::write(place.training_picture(10), b"no picture at all").unwrap();
    let weighted = [
        "class-weights=1,2,3,4,5,6,7,8",
        "balanced-sampling=true",
        "ema-decay=0.8",
    ];
    let mixed = [
        "method=full",
        "freeze=1",
        "learning-rate=1e-3",
        "class-weights=balanced",
        "mixup-alpha=0.4",
        "cutmix-alpha=1",
        "label-smoothing-factor=0.1",
    ];
    for aids in [&weighted[..], &mixed] {
        let run = |world: usize, batch: &str, accumulation: &str| {
            let batch = format!("per-device-train-batch-size={batch}");
            let accumulation = format!("gradient-accumulation-steps={accumulation}");
            let name = format!("{world} {batch} {accumulation} {}", aids[0]);
            let own = [aids, &[batch.as_str(), accumulation.as_str()]].concat();
            place.succeed(world, &name, &with(&INVARIANCE, &own))
        };
        let alone = run(0, "12", "1");
        for (world, batch, accumulation) in [(0, "3", "4"), (4, "3", "1")] {
            let ranks = run(world, batch, accumulation);
            assert_same_history(
                &ranks,
                &alone,
                &[("loss", 1e-5), ("grad_norm", 1e-4), ("eval_loss", 1e-5)],
            );
        }
    }
}

#[test]
fn a_block_shuffle_is_another_order_and_the_same_on_any_ranks() {
    let place = Playground::new(50, 17);
    let run = |world: usize, name: &str, batch: &str, mode: &str| {
        let (batch, mode) = (
            format!("per-device-train-batch-size={batch}"),
            format!("shuffle-mode={mode}"),
        );
        let own = [batch.as_str(), mode.as_str(), "data-memory-gb=0.00001"];
        place.succeed(world, name, &[&INVARIANCE[..], &own].concat())
    };
    let (exact, alone) = (run(0, "exact", "12", "exact"), run(0, "blocks", "12", "block"));
    let ranks = run(2, "blocks on two ranks", "6", "block");
    assert_same_history(&ranks, &alone, &[("loss", 1e-5), ("eval_loss", 1e-5)]);
    assert!(exact.history("loss")[0] != alone.history("loss")[0]);
}

/// Everything that augments is on: the samples are the same wherever they are made.
#[test]
fn augmented_samples_are_the_same_on_all_ranks() {
    let place = Playground::new(24, 8);
    let run = |world: usize, batch: &str, more: &[&str]| {
        let batch = format!("per-device-train-batch-size={batch}");
        let name = format!("{world} {}", more.len());
        place.succeed(
            world,
            &name,
            &with(&INVARIANCE, &[&["max-steps=6", "eval-steps=6", &batch], more].concat()),
        )
    };
    let on = [
        "rand-augment=2,9",
        "color-jitter=0.4,0.4,0.4,0.1",
        "random-erasing=0.5",
        "random-erasing-mode=pixel",
    ];
    let (alone, ranks, plain) = (run(0, "8", &on), run(2, "4", &on), run(0, "8", &[]));
    assert_eq!(alone.history("loss").len(), 6);
    assert_same_history(&ranks, &alone, &[("loss", 1e-5), ("eval_loss", 1e-5)]);
    // Other samples than without, from the first step on.
    let (augmented, plain) = (alone.history("loss"), plain.history("loss"));
    assert!((augmented[0] / plain[0] - 1.0).abs() > 1e-3, "{augmented:?} {plain:?}");
}

/// Every fifth step has two samples, so that of three ranks one has none and normalises with the others all the same.
#[test]
fn batches_normalised_over_all_ranks_train_as_one_rank_does() {
    let place = Playground::residual(50, 17);
    let run = |world: usize, batch: &str, more: &[&str]| {
        let batch = format!("per-device-train-batch-size={batch}");
        let own = ["method=full", "learning-rate=1e-3", &batch];
        let name = format!("{world} {}", more.concat());
        place.succeed(world, &name, &with(&INVARIANCE, &[&own[..], more].concat()))
    };
    let alone = run(0, "12", &[]);
    for (world, batch) in [(2, "6"), (3, "4")] {
        let ranks = run(world, batch, &["sync-batch-norm=true"]);
        // Rounding goes through divisions by deviations, step after step.
        assert_same_history(
            &ranks,
            &alone,
            &[("loss", 1e-3), ("grad_norm", 1e-2), ("eval_loss", 1e-2)],
        );
    }
    // Each rank by itself: other batches, other numbers, and one and the same model on all ranks in the end.
    let apart = run(2, "6", &["eval-steps=20"]);
    let (ours, theirs) = (apart.history("loss"), alone.history("loss"));
    assert!((ours[0] / theirs[0] - 1.0).abs() > 1e-4, "{} {}", ours[0], theirs[0]);
}

/// The same model on any number of ranks and any size of batch: each sample counts once.
#[test]
fn evaluation_is_exact_at_any_world_size() {
    let place = Playground::new(8, 17);
    // A rate of 0 leaves the model as it is.
    let run = |world: usize, name: &str, batch: &str| {
        let batch = format!("per-device-eval-batch-size={batch}");
        place.succeed(
            world,
            name,
            &[
                "max-steps=1",
                "per-device-train-batch-size=1",
                "learning-rate=1e-30",
                "save-predictions=true",
                &batch,
            ],
        )
    };
    let alone = run(0, "alone", "17");
    let figures = |outcome: &Outcome| (outcome.history("eval_loss"), outcome.history("eval_accuracy"));
    let predictions = alone.predictions();
    let right = predictions.iter().filter(|line| line[1] == line[2]).count();
    assert_eq!((predictions.len(), figures(&alone).1[0]), (17, right as f64 / 17.0));
    for (world, batch) in [(0, "1"), (0, "5"), (2, "4"), (3, "2"), (4, "8")] {
        let ranks = run(world, &format!("{world} ranks, {batch}"), batch);
        let ((loss, accuracy), (loss_alone, accuracy_alone)) = (figures(&ranks), figures(&alone));
        // Each sample's loss is computed alike; an f32 product may be blocked differently in a batch of another size.
        assert_close("eval_loss", &loss, &loss_alone, 1e-6);
        assert_eq!(accuracy, accuracy_alone, "{world} ranks, {batch}");
        assert_eq!(ranks.history("eval_f1_macro"), alone.history("eval_f1_macro"));
        assert_eq!(ranks.json("eval_classes.json"), alone.json("eval_classes.json"));
        assert_eq!(ranks.predictions(), predictions, "{world} ranks, {batch}");
    }
}

/// A command line from transformers' documentation, with folders of its own, on one rank and on two: the files that
/// transformers 5.23 writes, but for its pickles (training_args.bin, and optimizer.pt, scheduler.pt and rng_state.pth of checkpoints).
#[test]
fn a_command_line_of_run_image_classification_runs_unchanged() {
    let place = Playground::new(24, 8);
    let path = |name: &str| place.path(name).display().to_string();
    let run = |world: usize, batch: &str| {
        let (model, train, validation) = (path("model"), path("data/train"), path("data/validation"));
        let output = path(&format!("{world} ranks"));
        let typed = [
            "--model_name_or_path",
            &model,
            "--train_dir",
            &train,
            "--validation_dir",
            &validation,
            "--output_dir",
            &output,
            "--remove_unused_columns",
            "False",
            "--do_train",
            "--do_eval",
            "--learning_rate",
            "2e-5",
            "--num_train_epochs",
            "2",
            "--per_device_train_batch_size",
            batch,
            "--per_device_eval_batch_size",
            "8",
            "--logging_strategy",
            "steps",
            "--logging_steps",
            "2",
            "--eval_strategy",
            "epoch",
            "--save_strategy",
            "epoch",
            "--load_best_model_at_end",
            "True",
            "--save_total_limit",
            "3",
            "--seed",
            "1337",
        ];
        let program = Path::new(env!("CARGO_BIN_EXE_dtrain"));
        let ended = common::mpirun(world, program, &typed, &[]);
        assert_eq!(ended.code, Some(0), "{}", ended.text);
        assert_eq!(
            ended
                .text
                .matches("--remove_unused_columns False: changes nothing")
                .count(),
            1,
            "{}",
            ended.text
        );
        Outcome {
            ended,
            directory: place.path(&format!("{world} ranks")),
        }
    };
    let files = |directory: &Path| -> std::collections::BTreeSet<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    let (alone, ranks) = (run(1, "8"), run(2, "4"));
    for outcome in [&alone, &ranks] {
        let written = files(&outcome.directory);
        for name in [
            "README.md",
            "all_results.json",
            "config.json",
            "eval_results.json",
            "model.safetensors",
            "preprocessor_config.json",
            "train_results.json",
            "trainer_state.json",
            "checkpoint-3",
            "checkpoint-6",
        ] {
            assert!(written.contains(name), "{name} is missing among {written:?}");
        }
        let written = files(&outcome.directory.join("checkpoint-6"));
        for name in [
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
            "trainer_state.json",
        ] {
            assert!(written.contains(name), "{name} is missing among {written:?}");
        }
        assert_eq!(outcome.history("learning_rate").len(), 3);
        let labels = outcome.json("config.json")["label2id"].as_object().unwrap().len();
        assert_eq!(labels, 8);
    }
    assert_eq!(files(&alone.directory), files(&ranks.directory));
    assert_same_history(&ranks, &alone, &[("loss", 1e-5)]);

    // The model that was written is evaluated where it lies, by a file of arguments.
    let arguments = place.path("arguments.json");
    let text = serde_json::json!({
        "model_name_or_path": alone.directory, "train_dir": path("data/train"), "validation_dir": path("data/validation"),
        "output_dir": alone.directory, "do_eval": true, "max_eval_samples": null, "report_to": "none",
    });
    std::fs::write(&arguments, text.to_string()).unwrap();
    let before = alone.json("eval_results.json")["eval_loss"].as_f64().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_dtrain"));
    let ended = common::mpirun(1, program, &[arguments.to_str().unwrap()], &[]);
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    let after = alone.json("eval_results.json")["eval_loss"].as_f64().unwrap();
    assert!((before - after).abs() < 1e-6, "{before} {after}");
}

#[test]
fn an_unreadable_image_is_left_out_of_the_mean_and_named_once() {
    let place = Playground::new(24, 8);
    let picture = place.training_picture(10);
    std::fs::write(&picture, b"no picture at all").unwrap();
    let file = picture.file_name().unwrap().to_str().unwrap();
    let run = |world: usize, batch: &str| {
        let batch = format!("per-device-train-batch-size={batch}");
        place.succeed(world, &format!("{world}"), &["num-train-epochs=2", &batch])
    };
    let (alone, ranks) = (run(0, "8"), run(2, "4"));
    assert_eq!(alone.history("loss").len(), 6);
    assert_same_history(&ranks, &alone, &[("loss", 1e-5), ("grad_norm", 1e-4)]);
    for outcome in [alone, ranks] {
        let text = &outcome.ended.text;
        assert_eq!(text.matches(file).count(), 1, "{text}");
        assert!(
            text.contains("1 image(s) could not be read and were left out"),
            "{text}"
        );
    }
}
