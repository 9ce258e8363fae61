//! Runs of the program that train a ResNet on GPUs: losses are the CPU's, also of ranks that normalise together; an interrupted
//! run resumes bit for bit; no step waits for the host.

use super::common::Ended;
use super::place;
use super::playground::Playground;
use super::runs::{close, counted, run, run_with};

const TRAINED: [&str; 3] = ["device=cuda", "method=full", "learning-rate=1e-3"];

fn on_gpu<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&TRAINED[..], more].concat()
}

#[test]
fn losses_are_the_cpus() {
    let place = Playground::residual(24, 8);
    let cpu = run(
        &place,
        0,
        "cpu",
        &["device=cpu", "method=full", "learning-rate=1e-3", "ema-decay=0.8"],
    );
    for (precision, tolerance) in [("fp32", 2e-4), ("fp16", 2e-2)] {
        let asked = format!("precision={precision}");
        let gpu = run(&place, 0, precision, &on_gpu(&[&asked, "ema-decay=0.8"]));
        for figure in ["loss", "eval_loss"] {
            let what = format!("{figure} in {precision}");
            close(&what, &gpu.history(figure), &cpu.history(figure), tolerance);
        }
    }
}

#[test]
fn a_resnet_resumed_in_fp16_ends_bit_for_bit_as_the_uninterrupted_one() {
    let place = Playground::residual(24, 8);
    let arguments = on_gpu(&["precision=fp16", "ema-decay=0.8"]);
    let whole = run(&place, 0, "whole", &arguments);
    let begun = run(&place, 0, "begun", &arguments);
    std::fs::remove_dir_all(begun.directory.join("checkpoint-6")).unwrap();
    let again = [&arguments[..], &["resume-from-checkpoint=true"]].concat();
    let resumed = run(&place, 0, "begun", &again);
    assert!(resumed.ended.text.contains("resumed from"), "{}", resumed.ended.text);
    assert!(resumed.model() == whole.model(), "other weights");
    assert_eq!(resumed.timeless_history(), whole.timeless_history());
    if !place::is_real() {
        // Streams that do their work as late as they may: results show what is ordered wrongly.
        let late = run_with(&place, "late", &arguments, ("DTRAIN_STAND_IN_ORDER", "late"));
        assert!(late.model() == whole.model(), "other weights from late streams");
    }
}

#[test]
fn two_ranks_that_normalise_together_train_as_one() {
    if !place::has_gpus(2) {
        return;
    }
    // The last step of an epoch has one image: one rank has none.
    let place = Playground::residual(25, 8);
    for (precision, tolerance) in [("precision=fp32", 2e-4), ("precision=bf16", 5e-2)] {
        let arguments = on_gpu(&[precision, "sync-batch-norm=true"]);
        let one = run(&place, 0, &format!("one {precision}"), &arguments);
        let half = [&arguments[..], &["per-device-train-batch-size=4"]].concat();
        let two = run(&place, 2, &format!("two {precision}"), &half);
        for figure in ["loss", "eval_loss"] {
            close(figure, &two.history(figure), &one.history(figure), tolerance);
        }
    }
}

#[test]
fn no_step_of_a_resnet_waits_for_all_that_was_asked_for() {
    if place::is_real() {
        return;
    }
    let place = Playground::residual(24, 8);
    let arguments = ["precision=fp16", "method=full"];
    let (few, many) = (counted(&place, 0, 3, &arguments), counted(&place, 0, 6, &arguments));
    assert_eq!(many[0] - few[0], 0, "waits for all work in 3 steps");
    assert!(many[2] > few[2]);
}

/// `dtrain bench step` needs no library that a run does not need.
#[test]
fn a_step_is_measured() {
    for (place, method) in [(Playground::residual(8, 8), "full"), (Playground::new(8, 8), "lora")] {
        let program = place.command(0, "none", &[]).get_program().to_owned();
        let mut command = std::process::Command::new(program);
        command.args(["bench", "step"]).arg(place.path("model"));
        command.args([
            "--device",
            "cuda",
            "--precision",
            "bf16",
            "--batch",
            "4",
            "--rounds",
            "1",
            "--json",
        ]);
        command.args(["--method", method]);
        command.envs(place::environment().iter().map(|(name, value)| (*name, value)));
        let ended = Ended::of(command.output().expect("the program starts"));
        assert_eq!(ended.code, Some(0), "{}", ended.text);
        assert!(ended.text.contains("BF16 on Cuda"), "{}", ended.text);
    }
}
