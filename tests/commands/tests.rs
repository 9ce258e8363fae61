//! What is done with models and datasets besides training: `eval`, `predict`, `merge`, `inspect`.

#[path = "../common/playground.rs"]
mod playground;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

use super::{dtrain, refusal};
use crate::common::{Ended, mpirun};
use playground::Playground;

/// A place with an adapter and a whole model that were trained in it.
fn place() -> &'static Playground {
    static PLACE: OnceLock<Playground> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = Playground::new(64, 24);
        let short = ["max-steps=6", "train-transform=eval", "learning-rate=0.02"];
        place.succeed(0, "adapter", &short);
        place.succeed(
            0,
            "whole",
            &[&short[..], &["method=full", "learning-rate=0.001"]].concat(),
        );
        place
    })
}

fn path(name: &str) -> String {
    place().path(name).display().to_string()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Both outputs of a command that must succeed.
fn done(arguments: &[&str]) -> (String, String) {
    let output = dtrain(arguments);
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{arguments:?}: {out}{err}");
    (out, err)
}

/// The message of a command that must fail.
fn failure(arguments: &[&str]) -> String {
    let output = dtrain(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{arguments:?}");
    assert_eq!(text.matches("error: ").count(), 1, "{arguments:?}: {text}");
    assert!(text.contains("to do:"), "{arguments:?}: {text}");
    text
}

/// Some picture of the validation set.
fn picture() -> PathBuf {
    let class = std::fs::read_dir(place().path("data/validation"))
        .unwrap()
        .flatten()
        .next()
        .unwrap();
    std::fs::read_dir(class.path())
        .unwrap()
        .flatten()
        .next()
        .unwrap()
        .path()
}

#[test]
fn eval_measures_what_the_run_measured_in_the_end() {
    for (name, world) in [("adapter", 0), ("whole", 0), ("adapter", 2)] {
        if world > 0 && cfg!(not(feature = "mpi")) {
            continue;
        }
        let results = place().path(&format!("eval-{name}-{world}"));
        let (model, data, results_text) = (path(name), path("data"), results.display().to_string());
        let flags = [
            "eval",
            &model,
            "--dataset",
            &data,
            "--per_device_eval_batch_size",
            "4",
            "--output-dir",
            &results_text,
        ];
        let text = match world {
            0 => done(&flags).0,
            _ => {
                let program = Path::new(env!("CARGO_BIN_EXE_dtrain"));
                let Ended { code, text } = mpirun(world, program, &flags, &[]);
                assert_eq!(code, Some(0), "{text}");
                text
            }
        };
        let (ours, of_run) = (
            json(&results.join("eval_results.json")),
            json(&place().path(name).join("eval_results.json")),
        );
        for figure in ["eval_accuracy", "eval_f1_macro", "eval_loss", "eval_top_5_accuracy"] {
            let (ours, of_run) = (ours[figure].as_f64().unwrap(), of_run[figure].as_f64().unwrap());
            // A frozen weight and its trained copy are multiplied by other routines.
            assert!((ours - of_run).abs() < 1e-5, "{name} {figure}: {ours} {of_run}");
        }
        assert!(text.contains("accuracy") && text.contains("24 samples"), "{text}");
        let predictions = std::fs::read_to_string(results.join("eval_predictions.csv")).unwrap();
        assert_eq!(predictions.lines().count(), 25);
        let classes = json(&results.join("eval_classes.json"));
        assert_eq!(classes["classes"][0]["name"], "checkers", "{classes}");
    }
}

#[test]
fn eval_refuses_what_cannot_be_measured() {
    let (adapter, model, data) = (path("adapter"), path("model"), path("data"));
    // The base has two classes, a and b.
    assert!(failure(&["eval", &model, "--dataset", &data]).contains("does not know the class"));
    assert!(failure(&["eval", &adapter, "--dataset", &data, "--split", "tset"]).contains("tset"));
    assert!(failure(&["eval", "nowhere/at-all", "--dataset", &data]).contains("nowhere/at-all"));
    assert!(refusal(&["eval", &adapter]).contains("--dataset"));
}

#[test]
fn predict_tells_the_likeliest_classes_of_files_folders_and_datasets() {
    let (adapter, file, folder, shards) = (
        path("adapter"),
        picture().display().to_string(),
        path("data/validation"),
        path("shards"),
    );
    let (out, _) = done(&["predict", &adapter, &file, "--json", "--top_k", "8"]);
    let line: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(line["input"], file.as_str());
    let scores: Vec<f64> = line["predictions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["score"].as_f64().unwrap())
        .collect();
    assert_eq!(scores.len(), 8);
    assert!(
        scores.is_sorted_by(|a, b| a >= b) && (scores.iter().sum::<f64>() - 1.0).abs() < 1e-5,
        "{scores:?}"
    );

    let (out, _) = done(&["predict", &adapter, &folder, &file, "--top-k", "1"]);
    assert_eq!(out.lines().count(), 25, "{out}");
    let best = line["predictions"][0]["label"].as_str().unwrap();
    assert!(out.lines().last().unwrap().contains(best), "{out}");

    let (out, _) = done(&["predict", &adapter, &shards, "--split", "validation[:5]", "--json"]);
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 5);
    assert!(
        lines[0]["true_label"].is_string() && lines[0]["input"].as_str().unwrap().contains("row 0"),
        "{lines:?}"
    );
    // No split named: there is no test, so it is validation.
    assert_eq!(done(&["predict", &adapter, &shards]).0.lines().count(), 24);
}

#[test]
fn predict_draws_a_contact_sheet() {
    let (adapter, shards, drawing) = (path("adapter"), path("shards"), path("sheet.png"));
    done(&[
        "predict",
        &adapter,
        &shards,
        "--split",
        "validation[:7]",
        "--grid",
        &drawing,
        "--grid-columns",
        "3",
    ]);
    let picture = dtrain::data::decode(&std::fs::read(&drawing).unwrap()).unwrap();
    // Three columns and lines of 200 pixels with text below and margins around.
    assert_eq!((picture.width, picture.height), (3 * 212 + 12, 3 * (212 + 3 * 14) + 12));
    let colours: std::collections::BTreeSet<&[u8]> = picture.rgb_hwc.chunks(3).collect();
    assert!(colours.len() > 100, "{}", colours.len());
    let message = failure(&[
        "predict",
        &adapter,
        &shards,
        "--split",
        "validation[:1]",
        "--grid",
        "/nowhere/at/all.png",
    ]);
    assert!(message.contains("/nowhere/at/all.png"), "{message}");
}

#[test]
fn predict_goes_on_after_a_bad_picture_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(picture(), folder.path().join("b.jpg")).unwrap();
    std::fs::write(folder.path().join("a.jpg"), "no picture").unwrap();
    std::fs::write(folder.path().join("words.txt"), "not looked at").unwrap();
    let (adapter, folder_text) = (path("adapter"), folder.path().display().to_string());
    let output = dtrain(&["predict", &adapter, &folder_text, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert!(
        lines[0]["error"].is_string() && lines[1]["predictions"].is_array(),
        "{lines:?}"
    );
    assert!(String::from_utf8(output.stderr).unwrap().contains("a.jpg"));

    let empty = tempfile::tempdir().unwrap();
    let empty = empty.path().display().to_string();
    assert!(failure(&["predict", &adapter, &empty]).contains("no pictures"));
    assert!(failure(&["predict", &adapter, "/nowhere/a.jpg"]).contains("/nowhere/a.jpg"));
    assert!(refusal(&["predict", &adapter]).contains("INPUT"));
    assert!(refusal(&["predict", &adapter, &empty, "--top-k", "0"]).contains("--top-k"));
}

#[test]
fn merged_is_unmerged() {
    let (adapter, merged, folder) = (path("adapter"), path("merged"), path("data/validation"));
    let (out, _) = done(&["merge", &adapter, "--output-dir", &merged]);
    let difference = out
        .split("largest difference of a logit: ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    assert!(difference.parse::<f64>().unwrap() < 1e-4, "{out}");
    let scores = |model: &str| -> Vec<(String, f64)> {
        let (out, _) = done(&["predict", model, &folder, "--json", "--top-k", "1"]);
        let lines = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let best = |line: Value| {
            let best = &line["predictions"][0];
            (
                best["label"].as_str().unwrap().to_owned(),
                best["score"].as_f64().unwrap(),
            )
        };
        lines.map(best).collect()
    };
    let (of_merged, of_adapter) = (scores(&merged), scores(&adapter));
    assert_eq!(of_merged.len(), 24);
    for (merged, adapter) in of_merged.iter().zip(&of_adapter) {
        assert!(
            merged.0 == adapter.0 && (merged.1 - adapter.1).abs() < 1e-5,
            "{merged:?} {adapter:?}"
        );
    }
    let config = json(&place().path("merged/config.json"));
    assert_eq!(config["id2label"].as_object().unwrap().len(), 8, "{config}");
    assert!(place().path("merged/preprocessor_config.json").exists());

    assert!(failure(&["merge", &adapter, "--output-dir", &merged]).contains("something in it already"));
    let fresh = path("never");
    assert!(failure(&["merge", &merged, "--output-dir", &fresh]).contains("no adapter"));
    assert!(failure(&["merge", &adapter, "--base", "/nowhere", "--output-dir", &fresh]).contains("/nowhere"));
    assert!(!place().path("never").exists());
}

#[test]
fn inspect_tells_what_there_is() {
    let (out, _) = done(&["inspect", &path("shards")]);
    assert!(
        out.contains("train: 64 rows, 8 classes") && out.contains("validation: 24 rows"),
        "{out}"
    );
    assert!(out.contains("checkers") && out.contains("24 images decoded"), "{out}");

    let damaged = Playground::new(16, 8);
    std::fs::write(damaged.training_picture(3), "no picture").unwrap();
    let data = damaged.path("data").display().to_string();
    let (out, _) = done(&["inspect", &data, "--split", "train"]);
    let file = damaged.training_picture(3);
    let file = file.file_name().unwrap().to_str().unwrap();
    assert!(
        out.contains("1 cannot be read") && out.contains(file) && !out.contains("validation: 8 rows"),
        "{out}"
    );

    let (out, _) = done(&["inspect", &path("whole")]);
    assert!(
        out.contains("type        vit") && out.contains("2 layers, width 32"),
        "{out}"
    );
    assert!(
        out.contains("8: checkers") && out.contains("tensors loaded") && out.contains("F32"),
        "{out}"
    );
    assert!(
        done(&["inspect", &path("whole"), "--tensors"])
            .0
            .contains("vit.encoder.layer.1.output.dense.weight [32, 64]")
    );
    let (out, _) = done(&["inspect", &path("adapter")]);
    assert!(
        out.contains("r 4") && out.contains("8 classes") && out.contains(&path("model")),
        "{out}"
    );

    assert!(failure(&["inspect", "/nowhere"]).contains("/nowhere"));
    let empty = tempfile::tempdir().unwrap();
    assert!(failure(&["inspect", empty.path().to_str().unwrap()]).contains("Parquet"));
}
