//! `dtrain bench`: its tables have what they promise, its answers are checked, and nonsense is refused. No time is asserted.

mod common;
#[path = "common/playground.rs"]
mod playground;

use std::path::Path;
use std::process::Command;

use common::{Ended, mpirun};
use playground::Playground;
use serde_json::Value;

fn dtrain(arguments: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dtrain"));
    Ended::of(command.args(arguments).output().expect("dtrain starts"))
}

/// The report of a benchmark that must succeed.
fn report(arguments: &[&str]) -> Value {
    let ended = dtrain(arguments);
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    serde_json::from_str(&ended.text).unwrap_or_else(|e| panic!("{e}: {}", ended.text))
}

fn rows<'a>(report: &'a Value, column: &str) -> Vec<&'a Value> {
    report["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row[column])
        .collect()
}

#[test]
fn a_loader_is_measured_in_either_order() {
    let place = Playground::new(24, 8);
    let shards = place.path("shards");
    for mode in ["exact", "block"] {
        let arguments = ["bench", "loader", shards.to_str().unwrap(), "--shuffle-mode", mode];
        let brief = ["--batch", "8", "--warm-up", "0", "--seconds", "0.2", "--json"];
        let report = report(&[&arguments[..], &brief].concat());
        assert_eq!(report["benchmark"], "loader");
        let speeds = rows(&report, "images/s");
        assert!(!speeds.is_empty(), "{report}");
        assert!(speeds.iter().all(|speed| speed.as_f64().unwrap() > 0.0), "{report}");
    }
}

#[test]
fn the_data_path_is_measured_by_stage_and_thread_count() {
    let place = Playground::new(24, 8);
    let data = place.path("data");
    let arguments = [
        "bench",
        "data",
        data.to_str().unwrap(),
        "--images",
        "16",
        "--rounds",
        "2",
    ];
    let report = report(&[&arguments[..], &["--threads", "1,3", "--json"]].concat());
    assert_eq!(report["benchmark"], "data");
    assert_eq!(report["settings"]["images"], "16");
    assert!(report["machine"]["processor"].is_string());
    let stages = rows(&report, "stage");
    assert_eq!(stages.len(), 8, "{stages:?}");
    assert_eq!(
        (stages[5], stages[7]),
        (&"loader, 3 threads".into(), &"apart, 3 threads".into())
    );
    for speed in rows(&report, "images/s") {
        let [least, median, most] = ["least", "median", "most"].map(|name| speed[name].as_f64().unwrap());
        assert!(0.0 < least && least <= median && median <= most, "{speed}");
    }
    let text = dtrain(&arguments).text;
    assert!(text.contains("one thread in all"), "{text}");
    let augmented = [
        &arguments[..],
        &["--size", "40", "--rand-augment", "2,9", "--random-erasing", "1"],
    ]
    .concat();
    let text = dtrain(&augmented).text;
    assert!(text.contains("to 40 x 40") && text.contains("augmentations"), "{text}");
    assert!(text.contains("same samples, bit for bit"), "{text}");
}

#[test]
fn a_folder_of_files_is_measured_too_and_a_bad_one_is_named() {
    let place = Playground::new(24, 8);
    let picture = place.training_picture(3);
    let folder = place.path("loose");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(&picture, folder.join("one.jpg")).unwrap();
    let folder_name = folder.to_str().unwrap();
    let good = report(&[
        "bench",
        "data",
        folder_name,
        "--rounds",
        "1",
        "--threads",
        "1",
        "--json",
    ]);
    assert_eq!(good["settings"]["images"], "1");
    std::fs::write(folder.join("two.jpg"), b"no picture").unwrap();
    let bad = dtrain(&["bench", "data", folder_name, "--rounds", "1"]);
    assert_eq!(bad.code, Some(1), "{}", bad.text);
    assert!(bad.text.contains("two.jpg"), "{}", bad.text);
}

#[test]
fn a_step_has_its_operations_counted() {
    let place = Playground::new(8, 8);
    let model = place.path("model");
    for method in ["lora", "full", "head"] {
        let arguments = [
            "bench",
            "step",
            model.to_str().unwrap(),
            "--method",
            method,
            "--batch",
            "2",
        ];
        let report = report(
            &[
                &arguments[..],
                &["--rounds", "1", "--threads", "1", "--device", "cpu", "--json"],
            ]
            .concat(),
        );
        assert_eq!(rows(&report, "stage"), ["forward", "backward", "optimizer", "step"]);
        let gflop: Vec<f64> = rows(&report, "GFLOP").iter().filter_map(|f| f.as_f64()).collect();
        assert!(
            gflop[0] > 0.0 && (gflop[0] + gflop[1] - gflop[2]).abs() < 1e-9,
            "{gflop:?}"
        );
        // With the head alone, there is only the gradient of its weights.
        assert_eq!(gflop[1] > 0.1 * gflop[0], method != "head", "{gflop:?}");
        if method != "lora" {
            // By hand, for 2 images of 17 tokens: patches; a whole block; a block of which CLS alone goes on; the classifier.
            let (s, d, m) = (17, 32, 64);
            let patches = 16 * d * 3 * 8 * 8;
            let whole = s * (4 * d * d + 2 * d * m) + 2 * s * s * d;
            let last = s * 2 * d * d + 2 * d * d + 2 * d * m + 2 * s * d;
            let by_hand = 2e-9 * 2.0 * f64::from(patches + whole + last + 101 * d);
            assert!((gflop[0] / by_hand - 1.0).abs() < 1e-12, "{} {by_hand}", gflop[0]);
        }
        let parts = parts(&report);
        for part in ["embeddings", "layer norm", "attention", "MLP products", "AdamW", "sum"] {
            assert!(parts.contains(&part), "{parts:?}");
        }
        assert_eq!(parts.contains(&"adapters"), method == "lora", "{parts:?}");
        every_figure_is_the_sum_of_its_parts(&report, gflop[2]);
    }
}

#[test]
fn a_residual_network_is_measured_by_kind_of_convolution() {
    let place = Playground::residual(8, 8);
    let model = place.path("model");
    let arguments = [
        "bench",
        "step",
        model.to_str().unwrap(),
        "--method",
        "full",
        "--batch",
        "2",
    ];
    let report = report(
        &[
            &arguments[..],
            &["--rounds", "1", "--threads", "1", "--device", "cpu", "--json"],
        ]
        .concat(),
    );
    let parts = parts(&report);
    for part in ["convolution 1x1", "convolution 3x3/2", "convolution 7x7/2", "pooling"] {
        assert!(parts.contains(&part), "{parts:?}");
    }
    let step = rows(&report, "GFLOP")[3].as_f64().unwrap();
    every_figure_is_the_sum_of_its_parts(&report, step);
}

fn parts(report: &Value) -> Vec<&str> {
    let parts = report["parts"].as_array().unwrap().iter();
    parts.map(|row| row["part"].as_str().unwrap()).collect()
}

/// Operations and bytes lie with the layers that need them, and nothing is counted that no layer has claimed.
fn every_figure_is_the_sum_of_its_parts(report: &Value, gflop: f64) {
    let table = report["parts"].as_array().unwrap();
    let (sum, parts) = table.split_last().unwrap();
    for column in ["ms", "GFLOP", "MB"] {
        let summed: f64 = parts.iter().filter_map(|row| row[column].as_f64()).sum();
        assert!(
            (summed / sum[column].as_f64().unwrap() - 1.0).abs() < 1e-9,
            "{column}: {report}"
        );
    }
    assert!((sum["GFLOP"].as_f64().unwrap() / gflop - 1.0).abs() < 1e-9, "{report}");
    for row in parts.iter().filter(|row| row["part"] == "the rest") {
        assert!(row["GFLOP"].is_null(), "{row}");
    }
}

#[test]
fn sums_over_ranks_are_verified() {
    let program = Path::new(env!("CARGO_BIN_EXE_dtrain"));
    for world in [1, 3] {
        let sizes = [
            "--most", "512", "--also", "1001", "--rounds", "2", "--device", "cpu", "--json",
        ];
        let ended = mpirun(world, program, &[&["bench", "allreduce"][..], &sizes].concat(), &[]);
        assert_eq!(ended.code, Some(0), "{}", ended.text);
        let report: Value = serde_json::from_str(&ended.text).unwrap_or_else(|e| panic!("{e}: {}", ended.text));
        assert_eq!(report["settings"]["ranks"], world.to_string());
        assert_eq!(rows(&report, "count"), [1, 8, 64, 512, 1001]);
        assert!(rows(&report, "#wrong").iter().all(|wrong| **wrong == 0));
    }
}

#[test]
fn a_whole_run_is_measured_and_its_failure_is_told() {
    let place = Playground::new(8, 8);
    let (model, data) = (place.path("model"), place.path("data"));
    let run = [
        "--recipe",
        "vit-lora",
        "--max-steps",
        "2",
        "--threads",
        "1",
        "--device",
        "cpu",
    ];
    let splits = ["--train-split", "train", "--validation-split", "validation"];
    let inputs = ["--model", model.to_str().unwrap(), "--dataset", data.to_str().unwrap()];
    let bench = ["bench", "train", "--rounds", "2", "--json", "--"];
    let report = report(&[&bench[..], &run, &splits, &inputs].concat());
    assert_eq!(report["rows"].as_array().unwrap().len(), 3);
    assert!(
        report["notes"][0].as_str().unwrap().ends_with("in every round."),
        "{report}"
    );
    let ended = dtrain(&["bench", "train", "--", "--recipe", "no-such-recipe"]);
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    assert!(ended.text.contains("no-such-recipe"), "{}", ended.text);
}

#[test]
fn only_the_sum_is_for_several_ranks() {
    let ended = mpirun(2, Path::new(env!("CARGO_BIN_EXE_dtrain")), &["bench", "data", "."], &[]);
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    assert!(ended.text.contains("start this one without mpirun"), "{}", ended.text);
}
