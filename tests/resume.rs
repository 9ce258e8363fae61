//! Interrupted runs end as uninterrupted ones do; what does not belong to a run is refused.

mod common;
#[path = "common/playground.rs"]
mod playground;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::Ended;
use playground::Playground;

/// 60 samples, 5 steps an epoch: checkpoints lie in the middle of epochs.
const RUN: [&str; 7] = [
    "per-device-train-batch-size=12",
    "num-train-epochs=6",
    "logging-steps=2",
    "eval-strategy=steps",
    "eval-steps=3",
    "save-strategy=steps",
    "save-steps=3",
];
const RESUME: &str = "resume-from-checkpoint=true";

fn with<'a>(arguments: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    let key = |argument: &str| argument.split('=').next().unwrap().to_owned();
    let kept = arguments
        .iter()
        .filter(|argument| !more.iter().any(|other| key(other) == key(argument)));
    kept.chain(more).copied().collect()
}

/// Starts a run and waits until `path` is there; panics if the run ends without it.
fn started(mut command: Command, path: &Path) -> Child {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let begun = Instant::now();
    while !path.exists() {
        if child.try_wait().unwrap().is_some() || begun.elapsed() > Duration::from_secs(120) {
            let _ = child.kill();
            let text = Ended::of(child.wait_with_output().unwrap()).text;
            panic!("{} never came:\n{text}", path.display());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

fn signal(signal: &str, process: u32) {
    let sent = Command::new("kill")
        .args([signal, &process.to_string()])
        .status()
        .expect("kill is installed");
    assert!(sent.success(), "kill {signal} {process}");
}

/// The processes that `process` has started.
fn children(process: u32) -> Vec<u32> {
    let output = Command::new("ps")
        .args(["-o", "pid=", "--ppid", &process.to_string()])
        .output()
        .expect("ps is installed");
    String::from_utf8(output.stdout)
        .unwrap()
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

#[test]
fn a_killed_run_resumed_ends_bit_for_bit_as_the_uninterrupted_one() {
    let place = Playground::new(60, 16);
    for (world, precision) in [(0, "precision=fp32"), (2, "precision=bf16")] {
        let batch = if world == 2 {
            "per-device-train-batch-size=6"
        } else {
            "per-device-train-batch-size=12"
        };
        let run = with(&RUN, &[batch, precision]);
        let whole = place.succeed(world, &format!("whole {world}"), &run);
        assert_eq!(whole.json("trainer_state.json")["global_step"], 30);

        let name = format!("killed {world}");
        let directory = place.path(&name);
        let child = started(place.command(world, &name, &run), &directory.join("checkpoint-9"));
        let processes = if world == 2 {
            children(child.id())
        } else {
            vec![child.id()]
        };
        for process in &processes {
            signal("-KILL", *process);
        }
        child.wait_with_output().unwrap();
        assert!(
            !directory.join("all_results.json").exists(),
            "killed too late to show anything"
        );

        let resumed = place.succeed(world, &name, &with(&run, &[RESUME]));
        assert!(resumed.ended.text.contains("resumed from"), "{}", resumed.ended.text);
        assert!(resumed.adapter() == whole.adapter(), "{world}: other weights");
        assert_eq!(resumed.timeless_history(), whole.timeless_history(), "{world}");
        assert_eq!(resumed.checkpoints(), whole.checkpoints());
        let figures = |outcome: &playground::Outcome| outcome.json("eval_results.json")["eval_loss"].clone();
        assert_eq!(figures(&resumed), figures(&whole));
    }
}

/// Weights, running statistics and counts of batches: all of them are in the model's file.
#[test]
fn a_killed_run_of_a_resnet_ends_bit_for_bit_as_the_uninterrupted_one() {
    let place = Playground::residual(60, 16);
    for (world, sync) in [(0, "false"), (2, "false"), (2, "true")] {
        let sync = format!("sync-batch-norm={sync}");
        let batch = format!("per-device-train-batch-size={}", if world == 2 { 6 } else { 12 });
        let metric = "load-best-model-at-end=true";
        let run = with(&RUN, &["method=full", "learning-rate=1e-3", metric, &batch, &sync]);
        let name = format!("{world} {sync}");
        let whole = place.succeed(world, &format!("whole {name}"), &run);
        let name = format!("killed {name}");
        let directory = place.path(&name);
        let child = started(place.command(world, &name, &run), &directory.join("checkpoint-9"));
        let processes = if world == 2 {
            children(child.id())
        } else {
            vec![child.id()]
        };
        for process in &processes {
            signal("-KILL", *process);
        }
        child.wait_with_output().unwrap();
        let resumed = place.succeed(world, &name, &with(&run, &[RESUME]));
        assert!(resumed.ended.text.contains("resumed from"), "{}", resumed.ended.text);
        assert!(resumed.model() == whole.model(), "{name}: another model");
        assert_eq!(resumed.timeless_history(), whole.timeless_history(), "{name}");
    }
}

/// Averages of weights and of running statistics, draws with replacement, mixed samples, frozen parts.
#[test]
fn a_killed_run_with_training_aids_ends_bit_for_bit_as_the_uninterrupted_one() {
    let aids = [
        "method=full",
        "freeze=1",
        "learning-rate=1e-3",
        "ema-decay=0.9",
        "balanced-sampling=true",
        "class-weights=balanced",
        "mixup-alpha=0.4",
        "cutmix-alpha=1",
        "per-device-train-batch-size=6",
    ];
    let run = with(&RUN, &aids);
    for (place, name) in [
        (Playground::new(60, 16), "vit"),
        (Playground::residual(60, 16), "resnet"),
    ] {
        let whole = place.succeed(2, "whole", &run);
        let directory = place.path("killed");
        let child = started(place.command(2, "killed", &run), &directory.join("checkpoint-9"));
        for process in children(child.id()) {
            signal("-KILL", process);
        }
        child.wait_with_output().unwrap();
        let resumed = place.succeed(2, "killed", &with(&run, &[RESUME]));
        assert!(resumed.ended.text.contains("resumed from"), "{}", resumed.ended.text);
        assert!(resumed.model() == whole.model(), "{name}: another model");
        assert_eq!(resumed.timeless_history(), whole.timeless_history(), "{name}");

        // The classifier's bias is the last of the trained tensors; the saved one is the average.
        let checkpoint = whole.directory.join("checkpoint-30");
        let last = |file: &str, tensor: &str| {
            let bytes = std::fs::read(checkpoint.join(file)).unwrap();
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let data = file.tensor(tensor).unwrap().data().to_vec();
            data[data.len() - 8 * 4..].to_vec()
        };
        let bias = if name == "vit" {
            "classifier.bias"
        } else {
            "classifier.1.bias"
        };
        let saved = last("model.safetensors", bias);
        assert!(saved == last("optimizer.safetensors", "average"), "{name}");
        assert!(saved != last("optimizer.safetensors", "values"), "{name}");
        let refused = place.run(2, "killed", &with(&run, &[RESUME, "ema-decay=0.8"]));
        assert!(
            refused.ended.text.contains("ema_decay 0.9, and this run has 0.8"),
            "{}",
            refused.ended.text
        );
    }
}

#[test]
fn a_signal_ends_the_run_after_the_step_with_a_checkpoint() {
    let place = Playground::new(60, 16);
    let run = with(
        &RUN,
        &["save-strategy=epoch", "eval-strategy=epoch", "num-train-epochs=12"],
    );
    let whole = place.succeed(0, "whole", &run);
    for (world, name) in [(0, "TERM"), (0, "USR1"), (2, "INT")] {
        let batch = if world == 2 {
            "per-device-train-batch-size=6"
        } else {
            "per-device-train-batch-size=12"
        };
        let run = with(&run, &[batch]);
        let directory = place.path(name);
        let child = started(place.command(world, name, &run), &directory.join("checkpoint-5"));
        let process = if world == 2 {
            children(child.id())[1]
        } else {
            child.id()
        };
        signal(&format!("-{name}"), process);
        let ended = Ended::of(child.wait_with_output().unwrap());
        assert_eq!(ended.code, Some(75), "{}", ended.text);
        assert!(ended.text.contains("stopped by"), "{}", ended.text);
        assert!(ended.text.contains("--resume-from-checkpoint true"), "{}", ended.text);
        let resumed = place.succeed(world, name, &with(&run, &[RESUME]));
        if world == 0 {
            assert!(resumed.ended.text.contains("resumed from"), "{}", resumed.ended.text);
            assert!(resumed.adapter() == whole.adapter(), "{name}: other weights");
            assert_eq!(resumed.timeless_history(), whole.timeless_history());
        }
    }
}

#[test]
fn other_ranks_may_go_on_with_the_same_global_batch() {
    let place = Playground::new(60, 16);
    let whole = place.succeed(0, "whole", &RUN);
    place.succeed(0, "moved", &with(&RUN, &["max-steps=12"]));
    let resumed = place.succeed(2, "moved", &with(&RUN, &[RESUME, "per-device-train-batch-size=6"]));
    assert!(
        resumed.ended.text.contains("ranks: 1 then, 2 now"),
        "{}",
        resumed.ended.text
    );
    // The first 12 steps had another learning rate: what is compared is that the resumed steps are there at all.
    assert_eq!(resumed.history("loss").len(), whole.history("loss").len());
    assert_eq!(resumed.history("eval_loss").len(), whole.history("eval_loss").len());
}

#[test]
fn a_run_resumes_by_its_output_directory_or_by_a_path() {
    let place = Playground::new(60, 16);
    let first = place.succeed(0, "run", &with(&RUN, &[RESUME, "save-total-limit=9"]));
    assert!(first.ended.text.contains("no checkpoint in"), "{}", first.ended.text);
    let checkpoint = format!(
        "resume-from-checkpoint={}",
        first.directory.join("checkpoint-12").display()
    );
    let again = place.succeed(0, "run", &with(&RUN, &[&checkpoint, "save-total-limit=9"]));
    assert!(
        again.ended.text.contains("checkpoint-12 after step 12"),
        "{}",
        again.ended.text
    );
    assert!(again.adapter() == first.adapter() && again.timeless_history() == first.timeless_history());
    // From there into another directory.
    let other = place.succeed(0, "other", &with(&RUN, &[&checkpoint]));
    assert!(other.adapter() == first.adapter());
    // The newest is damaged: the one before it serves.
    let newest = first.directory.join("checkpoint-30/optimizer.safetensors");
    let bytes = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
    let third = place.succeed(0, "run", &with(&RUN, &[RESUME, "save-total-limit=9"]));
    assert!(third.ended.text.contains("skipped: checkpoint"), "{}", third.ended.text);
    assert!(
        third.ended.text.contains("checkpoint-27 after step 27"),
        "{}",
        third.ended.text
    );
    assert!(third.adapter() == first.adapter());
}

#[test]
fn checkpoints_of_another_run_are_refused() {
    let place = Playground::new(60, 16);
    place.succeed(0, "run", &with(&RUN, &["max-steps=3"]));
    for (change, said) in [
        ("seed=43", "seed 42, and this run has 43"),
        (
            "per-device-train-batch-size=10",
            "a global batch of 12, and this run has 10",
        ),
        ("train-split=train[:48]", "training samples: 60, and this run has 48"),
        ("lora-r=2", "lora_r 4, and this run has 2"),
        ("shuffle=false", "shuffle true, and this run has false"),
    ] {
        let refused = place.run(0, "run", &with(&RUN, &[RESUME, change]));
        assert_eq!(refused.ended.code, Some(1), "{change}: {}", refused.ended.text);
        assert!(refused.ended.text.contains(said), "{change}: {}", refused.ended.text);
    }
    let nowhere = format!("resume-from-checkpoint={}", place.path("nowhere").display());
    let refused = place.run(0, "new", &with(&RUN, &[&nowhere]));
    assert!(
        refused.ended.code == Some(1) && refused.ended.text.contains("no such directory"),
        "{}",
        refused.ended.text
    );
    // Without being asked to continue or to overwrite, a run touches nothing of another.
    let refused = place.run(0, "run", &RUN);
    assert!(refused.ended.code != Some(0), "{}", refused.ended.text);
    for remedy in ["--resume-from-checkpoint true", "--overwrite-output-dir"] {
        assert!(refused.ended.text.contains(remedy), "{}", refused.ended.text);
    }
    place.succeed(0, "run", &with(&RUN, &["overwrite-output-dir=true", "max-steps=3"]));
}

/// A processor without bf16 computes in f32 what one that has it began.
#[test]
fn a_run_that_goes_on_in_another_precision_says_so() {
    let place = Playground::new(60, 16);
    place.succeed(0, "run", &with(&RUN, &["max-steps=3"]));
    let alike = place.succeed(0, "run", &with(&RUN, &[RESUME, "max-steps=6"]));
    assert!(!alike.ended.text.contains("computed in"), "{}", alike.ended.text);
    let state = alike.directory.join("checkpoint-6/dtrain_state.toml");
    let text = std::fs::read_to_string(&state).unwrap();
    let other = text.replace("computed_in = \"fp32\"", "computed_in = \"bf16\"");
    assert!(other != text);
    std::fs::write(&state, other).unwrap();
    let resumed = place.succeed(0, "run", &with(&RUN, &[RESUME, "max-steps=9"]));
    assert!(
        resumed.ended.text.contains("computed in bf16 then, in fp32 now"),
        "{}",
        resumed.ended.text
    );
}

/// What a version of dtrain with another block shuffle wrote would go on in the middle of another order.
#[test]
fn a_block_shuffle_goes_on_in_its_own_order_or_not_at_all() {
    let place = Playground::new(60, 16);
    let run = with(&RUN, &["shuffle-mode=block", "max-steps=9", "save-total-limit=9"]);
    let whole = place.succeed(0, "run", &run);
    let last = whole.directory.join("checkpoint-9");
    std::fs::remove_dir_all(&last).unwrap();
    let resumed = place.succeed(0, "run", &with(&run, &[RESUME]));
    assert!(
        resumed.ended.text.contains("checkpoint-6 after step 6"),
        "{}",
        resumed.ended.text
    );
    assert!(resumed.adapter() == whole.adapter());
    std::fs::remove_dir_all(&last).unwrap();
    let state = whole.directory.join("checkpoint-6/dtrain_state.toml");
    let text = std::fs::read_to_string(&state).unwrap();
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("block_order")).collect();
    assert_eq!(kept.len() + 1, text.lines().count());
    std::fs::write(&state, kept.join("\n")).unwrap();
    let refused = place.run(0, "run", &with(&run, &[RESUME]));
    assert_eq!(refused.ended.code, Some(1), "{}", refused.ended.text);
    assert!(
        refused.ended.text.contains("block shuffle unknown then"),
        "{}",
        refused.ended.text
    );
}

/// At a rate this small no prediction changes, though the weights do: the first evaluation is the best of equals.
#[test]
fn the_best_model_is_the_final_one_and_its_checkpoint_is_kept() {
    let place = Playground::new(60, 16);
    let outcome = place.succeed(0, "run", &with(&RUN, &["save-total-limit=1", "learning-rate=1e-9"]));
    let accuracies = outcome.history("eval_accuracy");
    assert!(accuracies.iter().all(|&a| a == accuracies[0]), "{accuracies:?}");
    let state = outcome.json("trainer_state.json");
    assert_eq!(state["best_global_step"].as_u64(), Some(3));
    assert_eq!(state["best_metric"].as_f64(), Some(accuracies[0]));
    assert_eq!(outcome.checkpoints(), ["checkpoint-3", "checkpoint-30"]);
    let adapter = |step: &str| std::fs::read(outcome.directory.join(step).join("adapter_model.safetensors")).unwrap();
    assert!(
        adapter("checkpoint-3") != adapter("checkpoint-30"),
        "nothing was trained"
    );
    assert!(
        adapter("checkpoint-3") == outcome.adapter(),
        "the final model is not the best one"
    );
    let loss = outcome.json("eval_results.json")["eval_loss"].as_f64();
    assert_eq!(loss, Some(outcome.history("eval_loss")[0]));
}

#[test]
fn the_best_of_losses_is_the_lowest() {
    let place = Playground::new(60, 16);
    let outcome = place.succeed(
        0,
        "run",
        &with(&RUN, &["learning-rate=0.02", "metric-for-best-model=loss"]),
    );
    let losses = outcome.history("eval_loss");
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    let state = outcome.json("trainer_state.json");
    assert_eq!(state["best_metric"].as_f64(), Some(best));
    assert_eq!(
        losses[(state["best_global_step"].as_u64().unwrap() / 3 - 1) as usize],
        best
    );
    assert_eq!(outcome.json("eval_results.json")["eval_loss"].as_f64(), Some(best));
}

/// At a rate this small no figure gets better: the run ends with the evaluation that exhausts the patience, also when it is
/// resumed from there, and the best model is still the first one.
#[test]
fn a_run_without_progress_ends_early_and_stays_ended() {
    let place = Playground::new(60, 16);
    let patience = with(&RUN, &["learning-rate=1e-9", "early-stopping-patience=2"]);
    let outcome = place.succeed(0, "run", &patience);
    assert_eq!(outcome.checkpoints(), ["checkpoint-3", "checkpoint-9"]);
    let state = outcome.json("trainer_state.json");
    assert_eq!(
        (state["global_step"].as_u64(), state["max_steps"].as_u64()),
        (Some(9), Some(30))
    );
    assert_eq!(state["best_global_step"].as_u64(), Some(3));
    let classes = outcome.json("eval_classes.json");
    let (history, adapter) = (outcome.timeless_history(), outcome.adapter());

    let resumed = place.succeed(0, "run", &with(&patience, &[RESUME]));
    assert_eq!(resumed.timeless_history(), history);
    assert!(resumed.adapter() == adapter);
    // What the classes were taken for is measured anew: it is in no checkpoint.
    assert_eq!(resumed.json("eval_classes.json"), classes);
}
