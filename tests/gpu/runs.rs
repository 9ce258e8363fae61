//! Runs of the program on GPUs: losses are the CPU's, overflowing steps are skipped by all ranks alike, interrupted runs
//! resume bit for bit, the number of ranks changes nothing, and no step waits for the host.

use candle_core::{Device, safetensors};

use super::common::Ended;
use super::place;
use super::playground::{Outcome, Playground};

/// 24 samples in global batches of 8 over 6 steps.
const RUN: [&str; 7] = [
    "max-steps=6",
    "eval-strategy=steps",
    "eval-steps=3",
    "save-strategy=steps",
    "save-steps=3",
    "load-best-model-at-end=false",
    "per-device-train-batch-size=8",
];

/// A run on `world` ranks (0: without mpirun) with a GPU each.
pub fn run(place: &Playground, world: usize, name: &str, more: &[&str]) -> Outcome {
    let output = place
        .command(world, name, &[&RUN[..], more].concat())
        .envs(place::environment().iter().map(|(name, value)| (*name, value)))
        .env("DTRAIN_STAND_IN_GPUS", world.max(1).to_string())
        .output()
        .expect("the program starts");
    let ended = Ended::of(output);
    assert_eq!(ended.code, Some(0), "{world} ranks, {more:?}:\n{}", ended.text);
    Outcome {
        ended,
        directory: place.path(name),
    }
}

pub fn close(what: &str, ours: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    assert!(!ours.is_empty(), "{what}");
    for (step, (a, b)) in ours.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance * b.abs(), "{what} at {step}: {a} for {b}");
    }
}

#[test]
fn losses_are_the_cpus_in_every_precision() {
    let place = Playground::new(24, 8);
    let cpu = run(&place, 0, "cpu", &["device=cpu"]);
    for (precision, tolerance) in [("fp32", 1e-5), ("fp16", 3e-3), ("bf16", 2e-2)] {
        let asked = format!("precision={precision}");
        let gpu = run(&place, 0, precision, &["device=cuda", &asked]);
        assert!(gpu.ended.text.contains("GPU"), "{}", gpu.ended.text);
        for figure in ["loss", "eval_loss"] {
            let (ours, expected) = (gpu.history(figure), cpu.history(figure));
            close(&format!("{figure} in {precision}"), &ours, &expected, tolerance);
        }
        close(
            "grad_norm",
            &gpu.history("grad_norm"),
            &cpu.history("grad_norm"),
            10.0 * tolerance,
        );
    }
}

/// Weights of the last layer norm so large that scaled gradients leave fp16's range.
pub fn heat(place: &Playground) {
    let file = place.path("model/model.safetensors");
    let mut tensors = safetensors::load(&file, &Device::Cpu).unwrap();
    let norm = tensors.get_mut("vit.layernorm.weight").expect("the last layer norm");
    *norm = (norm.clone() * 20.0).unwrap();
    safetensors::save(&tensors, &file).unwrap();
}

/// The loss scale after each skipped step, as it was told.
fn skipped(outcome: &Outcome) -> Vec<String> {
    let told = outcome.ended.text.lines().filter(|line| line.contains("was skipped"));
    told.map(|line| line.split_whitespace().last().unwrap().to_owned())
        .collect()
}

fn position(outcome: &Outcome, step: u64) -> toml::Table {
    let path = outcome.directory.join(format!("checkpoint-{step}/dtrain_state.toml"));
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

#[test]
fn steps_that_overflow_are_skipped_and_the_scale_is_halved() {
    let place = Playground::new(24, 8);
    heat(&place);
    let fp16 = run(&place, 0, "fp16", &["device=cuda", "precision=fp16"]);
    let scales = skipped(&fp16);
    assert!((1..5).contains(&scales.len()), "{scales:?}");
    let expected: Vec<String> = (1..=scales.len()).map(|i| (65536 >> i).to_string()).collect();
    assert_eq!(scales, expected);
    // Schedule and AdamW's count stand still: the first step that counts has the first step's rate.
    let rates = fp16.history("learning_rate");
    assert!(rates[..=scales.len()].iter().all(|rate| *rate == rates[0]), "{rates:?}");
    assert!(rates[5] < rates[0]);
    let position = position(&fp16, 6);
    assert_eq!(position["optimizer_steps"].as_integer(), Some(6 - scales.len() as i64));
    assert_eq!(
        position["scaler"]["scale"].as_float(),
        Some((65536 >> scales.len()) as f64)
    );
    assert_eq!(position["scaler"]["skipped"].as_integer(), Some(scales.len() as i64));
    // bf16 has f32's range.
    assert!(skipped(&run(&place, 0, "bf16", &["device=cuda", "precision=bf16"])).is_empty());
}

#[test]
fn a_run_resumed_in_fp16_ends_bit_for_bit_as_the_uninterrupted_one() {
    let place = Playground::new(24, 8);
    heat(&place);
    let arguments = ["device=cuda", "precision=fp16"];
    let whole = run(&place, 0, "whole", &arguments);
    let begun = run(&place, 0, "begun", &arguments);
    std::fs::remove_dir_all(begun.directory.join("checkpoint-6")).unwrap();
    let resumed = run(
        &place,
        0,
        "begun",
        &[&arguments[..], &["resume-from-checkpoint=true"]].concat(),
    );
    assert!(resumed.ended.text.contains("resumed from"), "{}", resumed.ended.text);
    assert!(resumed.adapter() == whole.adapter(), "other weights");
    assert_eq!(resumed.timeless_history(), whole.timeless_history());
    assert_eq!(position(&resumed, 6)["scaler"], position(&whole, 6)["scaler"]);
}

#[test]
fn the_number_of_ranks_changes_nothing() {
    if !place::has_gpus(2) {
        return;
    }
    let place = Playground::new(24, 8);
    for (precision, method, tolerance) in [("fp32", "lora", 1e-5), ("fp16", "lora", 1e-3), ("fp32", "full", 1e-5)] {
        let what = format!("{method} {precision}");
        let (precision, method) = (format!("precision={precision}"), format!("method={method}"));
        let arguments = ["device=cuda", "learning-rate=1e-3", &precision, &method];
        let one = run(&place, 0, &format!("one {what}"), &arguments);
        let half = [&arguments[..], &["per-device-train-batch-size=4"]].concat();
        let two = run(&place, 2, &format!("two {what}"), &half);
        for figure in ["loss", "eval_loss"] {
            close(figure, &two.history(figure), &one.history(figure), tolerance);
        }
        assert_eq!(two.history("eval_accuracy"), one.history("eval_accuracy"));
    }
}

#[test]
fn all_ranks_skip_the_same_steps_and_resume() {
    if !place::has_gpus(2) {
        return;
    }
    let place = Playground::new(24, 8);
    heat(&place);
    let arguments = ["device=cuda", "precision=fp16", "per-device-train-batch-size=4"];
    let whole = run(&place, 2, "whole", &arguments);
    assert!(!skipped(&whole).is_empty());
    let begun = run(&place, 2, "begun", &arguments);
    std::fs::remove_dir_all(begun.directory.join("checkpoint-6")).unwrap();
    let resumed = run(
        &place,
        2,
        "begun",
        &[&arguments[..], &["resume-from-checkpoint=true"]].concat(),
    );
    assert!(resumed.adapter() == whole.adapter(), "other weights");
    assert_eq!(position(&resumed, 6)["scaler"], position(&whole, 6)["scaler"]);
}

/// Weighted, mixed, partly frozen and averaged.
pub const MIXED: [&str; 8] = [
    "method=full",
    "freeze=1",
    "learning-rate=1e-3",
    "class-weights=balanced",
    "mixup-alpha=0.4",
    "cutmix-alpha=1",
    "label-smoothing-factor=0.1",
    "ema-decay=0.8",
];

/// Weighted with torch's divisor, and weighted, mixed, partly frozen and averaged.
#[test]
fn training_aids_are_the_cpus() {
    let place = Playground::new(24, 8);
    let weighted = ["class-weights=1,2,3,4,5,6,7,8"];
    for aids in [&weighted[..], &MIXED] {
        let cpu = run(
            &place,
            0,
            &format!("cpu {}", aids[0]),
            &[&["device=cpu"], aids].concat(),
        );
        for (precision, tolerance) in [("fp32", 1e-5), ("fp16", 3e-3)] {
            let asked = format!("precision={precision}");
            let name = format!("{precision} {}", aids[0]);
            let gpu = run(&place, 0, &name, &[&["device=cuda", &asked], aids].concat());
            for figure in ["loss", "eval_loss"] {
                close(&name, &gpu.history(figure), &cpu.history(figure), tolerance);
            }
        }
    }
}

/// Taking the same values in once more would round most of them.
#[test]
fn a_skipped_step_leaves_the_average_as_it_was() {
    let place = Playground::new(24, 8);
    heat(&place);
    // What is said twice counts as it is said last.
    let arguments = [
        "device=cuda",
        "precision=fp16",
        "ema-decay=0.9998",
        "max-steps=1",
        "eval-steps=1",
        "save-steps=1",
    ];
    let outcome = run(&place, 0, "run", &arguments);
    assert_eq!(skipped(&outcome).len(), 1, "{}", outcome.ended.text);
    let file = outcome.directory.join("checkpoint-1/optimizer.safetensors");
    let buffers = safetensors::load(file, &Device::Cpu).unwrap();
    let [values, average] = ["values", "average"].map(|name| buffers[name].to_vec1::<f32>().unwrap());
    assert!(values == average);
}

#[test]
fn pictures_kept_anywhere_train_the_same() {
    let place = Playground::new(24, 8);
    let run_with = |world: usize, cache: &str| {
        let name = format!("{world} {}", cache.replace([' ', '='], "-"));
        let mut arguments = vec!["device=cuda", "precision=fp32"];
        arguments.extend(cache.split(' '));
        if world == 2 {
            arguments.push("per-device-train-batch-size=4");
        }
        run(&place, world, &name, &arguments)
    };
    for world in [0, 2].into_iter().filter(|world| place::has_gpus(*world)) {
        let none = run_with(world, "image-cache=none");
        for cache in [
            "image-cache=host",
            "image-cache=device",
            "image-cache=device image-cache-gb=0.00001",
            "image-cache=auto",
        ] {
            let kept = run_with(world, cache);
            assert_eq!(
                kept.timeless_history(),
                none.timeless_history(),
                "{world} ranks, {cache}"
            );
            assert!(kept.adapter() == none.adapter(), "{world} ranks, {cache}");
        }
    }
}

/// The losses are read when the next step is under way; the message is the one that a CPU gives.
#[test]
fn a_loss_that_is_no_number_is_named_with_its_step() {
    let place = Playground::new(24, 8);
    let said = |world: usize, device: &str, batch: &str| {
        let arguments = [device, batch, "method=full", "learning-rate=1e30", "precision=fp32"];
        let output = place
            .command(
                world,
                &format!("lost {world} {device}"),
                &[&RUN[..], &arguments].concat(),
            )
            .envs(place::environment().iter().map(|(name, value)| (*name, value)))
            .env("DTRAIN_STAND_IN_GPUS", world.max(1).to_string())
            .output()
            .expect("the program starts");
        let ended = Ended::of(output);
        assert!(!matches!(ended.code, Some(0)), "{}", ended.text);
        let lines: Vec<&str> = ended.text.lines().filter(|line| line.contains("the loss is")).collect();
        assert!(!lines.is_empty(), "{}", ended.text);
        assert!(lines[0].contains("samples ["), "{}", lines[0]);
        let step = lines[0].split("step ").nth(1).expect("a step");
        step.chars().take_while(char::is_ascii_digit).collect::<String>()
    };
    let expected = said(0, "device=cpu", "per-device-train-batch-size=8");
    assert_eq!(said(0, "device=cuda", "per-device-train-batch-size=8"), expected);
    if place::has_gpus(2) {
        assert_eq!(said(2, "device=cuda", "per-device-train-batch-size=4"), expected);
    }
}

/// How often the host waited for all work and for single events, and launches, in a run of so many steps.
pub fn counted(place: &Playground, world: usize, steps: usize, more: &[&str]) -> Vec<i64> {
    let name = format!("counted {world} {steps}");
    let counts = place.path(&format!("{name}.counts"));
    let steps = format!("max-steps={steps}");
    let quiet = [
        &steps,
        "eval-strategy=no",
        "save-strategy=no",
        "logging-strategy=steps",
        "logging-steps=1",
        "device=cuda",
    ];
    let output = place
        .command(world, &name, &[&RUN[..], &quiet, more].concat())
        .envs(place::environment().iter().map(|(name, value)| (*name, value)))
        .env("DTRAIN_STAND_IN_GPUS", world.max(1).to_string())
        .env("DTRAIN_STAND_IN_COUNTS", &counts)
        .output()
        .expect("the program starts");
    let ended = Ended::of(output);
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    let text = std::fs::read_to_string(counts).expect("the counts");
    // A line of every rank, whichever ends first; rank 0, which writes the files, has most.
    let counts = |line: &str| line.split(' ').map(|count| count.parse().unwrap()).collect();
    text.lines().map(counts).max().expect("a line of every rank")
}

#[test]
fn no_step_waits_for_all_that_was_asked_for() {
    if place::is_real() {
        return;
    }
    let place = Playground::new(24, 8);
    for (world, batch) in [(0, "8"), (2, "4")] {
        let batch = format!("per-device-train-batch-size={batch}");
        let arguments = ["precision=fp16", "gradient-accumulation-steps=1", &batch];
        let (few, many) = (
            counted(&place, world, 5, &arguments),
            counted(&place, world, 11, &arguments),
        );
        assert_eq!(many[0] - few[0], 0, "waits for all work in 6 steps on {world} ranks");
        // What came of a step; where images are prepared on the GPU, their staging asks for events of its own.
        assert!(many[1] - few[1] >= 6, "events awaited in 6 steps on {world} ranks");
        assert!(many[2] > few[2]);
    }
}

#[test]
fn without_page_locked_memory_the_same_is_copied() {
    if place::is_real() {
        return;
    }
    let place = Playground::new(24, 8);
    let arguments = ["device=cuda", "precision=fp32"];
    let locked = run(&place, 0, "locked", &arguments);
    let ordinary = run_with(&place, "ordinary", &arguments, ("DTRAIN_STAND_IN_PINNED", "4096"));
    assert!(ordinary.adapter() == locked.adapter());
}

/// Streams that do their work as late as they may, or those beside the step early: results show what is ordered wrongly.
#[test]
fn streams_that_take_their_time_train_the_same() {
    if place::is_real() {
        return;
    }
    let place = Playground::new(24, 8);
    let arguments = ["device=cuda", "precision=fp16", "image-cache=device"];
    let at_once = run(&place, 0, "at once", &arguments);
    for order in ["late", "mixed"] {
        let ours = run_with(&place, order, &arguments, ("DTRAIN_STAND_IN_ORDER", order));
        assert_eq!(ours.timeless_history(), at_once.timeless_history(), "{order}");
        assert!(ours.adapter() == at_once.adapter(), "{order}");
    }
}

/// A run with a setting of the stand-in.
pub fn run_with(place: &Playground, name: &str, more: &[&str], setting: (&str, &str)) -> Outcome {
    let mut command = place.command(0, name, &[&RUN[..], more].concat());
    command.envs(place::environment().iter().map(|(name, value)| (*name, value)));
    let ended = Ended::of(command.env(setting.0, setting.1).output().expect("the program starts"));
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    Outcome {
        ended,
        directory: place.path(name),
    }
}
