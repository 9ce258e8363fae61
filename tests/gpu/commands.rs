//! What is done with models besides training, on GPUs: `dtrain eval` has the figures of the run, `dtrain predict` the CPU's
//! answers, and samples are made by the GPU.

use std::path::Path;
use std::process::Command;

use dtrain::collective::Single;
use dtrain::data::{Columns, Dataset, Preprocessor, Transform};
use dtrain::ops::device::Placement;
use dtrain::recipe::{OnBadImage, Precision, TransformKind};
use dtrain::train::Pass;
use serde_json::Value;

use super::common::{Ended, mpirun_command};
use super::place;
use super::playground::{self, Playground};

/// The program with these words on `world` ranks (0: without mpirun) with a GPU each; both outputs.
fn done(world: usize, words: &[&str]) -> String {
    let program = playground::program();
    let mut command = match world {
        0 => {
            let mut command = Command::new(&program);
            command.args(words);
            command
        }
        _ => mpirun_command(world, &program, words, &[]),
    };
    command
        .envs(place::environment().iter().map(|(name, value)| (*name, value)))
        .env("DTRAIN_STAND_IN_GPUS", world.max(1).to_string());
    let ended = Ended::of(command.output().expect("the program starts"));
    assert_eq!(ended.code, Some(0), "{words:?}:\n{}", ended.text);
    ended.text
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn eval_has_the_figures_of_the_run() {
    let place = Playground::new(24, 11);
    for (method, precision, tolerance) in [("lora", "fp32", 1e-5), ("lora", "fp16", 2e-3), ("full", "bf16", 1e-2)] {
        let name = format!("{method}-{precision}");
        let (method, asked) = (format!("method={method}"), format!("precision={precision}"));
        let arguments = [
            "device=cuda",
            &method,
            &asked,
            "lora-r=16",
            "max-steps=3",
            "learning-rate=1e-3",
        ];
        let mut training = place.command(0, &name, &arguments);
        training.envs(place::environment().iter().map(|(name, value)| (*name, value)));
        let ended = Ended::of(training.output().expect("the program starts"));
        assert_eq!(ended.code, Some(0), "{}", ended.text);
        let expected = json(&place.path(&name).join("eval_results.json"));
        for world in [0, 2].into_iter().filter(|world| place::has_gpus(*world)) {
            let [model, data, results] = [name.clone(), "data".to_owned(), format!("{name}-{world}")]
                .map(|name| place.path(&name).display().to_string());
            let words = [
                "eval",
                &model,
                "--dataset",
                &data,
                "--per-device-eval-batch-size",
                "3",
                "--output-dir",
                &results,
            ];
            let text = done(
                world,
                &[&words[..], &["--device", "cuda", "--precision", precision]].concat(),
            );
            assert!(
                text.contains("computing on GPU 0") && text.contains("11 samples"),
                "{text}"
            );
            let ours = json(&Path::new(&results).join("eval_results.json"));
            for figure in ["eval_loss", "eval_accuracy", "eval_f1_macro"] {
                let (ours, expected) = (ours[figure].as_f64().unwrap(), expected[figure].as_f64().unwrap());
                assert!(
                    (ours - expected).abs() <= tolerance,
                    "{name}, {world} ranks, {figure}: {ours} {expected}"
                );
            }
        }
    }
}

#[test]
fn predict_answers_as_the_cpu_does() {
    let place = Playground::new(8, 8);
    let [model, pictures] = ["model", "data/validation"].map(|name| place.path(name).display().to_string());
    let answers = |device: &str, precision: &str| -> Vec<(String, f64)> {
        let words = [
            "predict",
            &model,
            &pictures,
            "--json",
            "--top-k",
            "1",
            "--batch-size",
            "3",
            "--precision",
            precision,
        ];
        let text = done(0, &[&words[..], &["--device", device]].concat());
        let lines = text.lines().filter(|line| line.starts_with('{'));
        let first = |line: &str| {
            let value: Value = serde_json::from_str(line).unwrap();
            let first = &value["predictions"][0];
            (
                first["label"].as_str().unwrap().to_owned(),
                first["score"].as_f64().unwrap(),
            )
        };
        lines.map(first).collect()
    };
    let expected = answers("cpu", "fp32");
    assert_eq!(expected.len(), 8);
    for (precision, tolerance) in [("fp32", 1e-5), ("fp16", 2e-3), ("bf16", 2e-2)] {
        let ours = answers("cuda", precision);
        assert_eq!(ours.len(), expected.len());
        for ((label, score), (of_cpu, expected)) in ours.iter().zip(&expected) {
            let is_clear = (expected - 0.5).abs() > tolerance;
            assert!(!is_clear || label == of_cpu, "{precision}: {label} {of_cpu}");
            assert!((score - expected).abs() <= tolerance, "{precision}: {score} {expected}");
        }
    }
}

#[test]
fn a_pass_makes_its_samples_on_the_gpu() {
    let place = Playground::new(8, 8);
    let dataset = Dataset::open(&place.path("data"), "validation", &Columns::default()).unwrap();
    let preprocessor = Preprocessor::parse(r#"{"size": 32}"#).unwrap();
    for kind in [TransformKind::Eval, TransformKind::Processor] {
        let pass = Pass {
            samples: &dataset,
            count: dataset.len(),
            rows: dataset.len(),
            transform: Transform::new(&preprocessor, kind),
            batch: 3,
            placement: &Placement::new(place::gpu(), Precision::Fp16),
            threads: 1,
            on_bad_image: OnBadImage::Error,
        };
        assert!(pass.loading(&Single).unwrap().feed.is_some());
    }
}

/// The last line, which is the report.
fn report(text: &str) -> Value {
    serde_json::from_str(text.lines().rfind(|line| line.starts_with('{')).expect("a report")).unwrap()
}

#[test]
fn bench_measures_steps_and_sums() {
    let place = Playground::new(8, 8);
    let model = place.path("model").display().to_string();
    for (method, precision) in [("lora", "fp16"), ("full", "fp32")] {
        let words = [
            "bench", "step", &model, "--json", "--rounds", "2", "--batch", "2", "--device", "cuda",
        ];
        let ours = report(&done(
            0,
            &[&words[..], &["--method", method, "--precision", precision]].concat(),
        ));
        let stages: Vec<&str> = ours["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["stage"].as_str().unwrap())
            .collect();
        assert_eq!(stages, ["forward", "backward", "optimizer", "step"], "{ours}");
        // The same images again and again are learnt.
        let losses = ours["settings"]["loss"].as_str().unwrap();
        let mut numbers = losses.split(' ').filter_map(|word| word.parse::<f64>().ok());
        let (first, last) = (numbers.next().unwrap(), numbers.next().unwrap());
        assert!(last < first && last > 0.0, "{losses}");
    }
    if place::has_gpus(2) {
        let words = [
            "bench",
            "allreduce",
            "--json",
            "--rounds",
            "2",
            "--most",
            "512",
            "--also",
            "1001",
            "--device",
            "cuda",
        ];
        let ours = report(&done(2, &words));
        assert_eq!(ours["settings"]["engine"], "NCCL");
        assert!(
            ours["rows"].as_array().unwrap().iter().all(|row| row["#wrong"] == 0),
            "{ours}"
        );
    }
}
