//! The program as people type it: recipes, spellings of flags, and one clear error for every kind of nonsense.

mod common;

use std::path::Path;
use std::process::{Command, Output};

fn dtrain(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dtrain"))
        .args(arguments)
        .output()
        .expect("dtrain starts")
}

/// What a command that must succeed prints.
fn printed(arguments: &[&str]) -> String {
    let output = dtrain(arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The message of a command that must fail as wrong usage: exit code 2, nothing on stdout, one error.
fn refusal(arguments: &[&str]) -> String {
    let output = dtrain(arguments);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    assert_eq!(message.matches("error: ").count(), 1, "{arguments:?}: {message}");
    message
}

fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_seed_recipe_has_the_seeds_values() {
    let recipe: toml::Table = printed(&["recipes", "vit-lora"]).parse().unwrap();
    let expected: toml::Table = r#"
        model = "google/vit-base-patch16-224-in21k"
        dataset = "ethz/food101"
        train_split = "train[:5000]"
        test_size = 0.1
        method = "lora"
        lora_r = 16
        lora_alpha = 16.0
        lora_dropout = 0.1
        lora_target_modules = ["query", "value"]
        train_transform = "train"
        learning_rate = 5e-3
        lr_scheduler_type = "linear"
        per_device_train_batch_size = 128
        gradient_accumulation_steps = 4
        per_device_eval_batch_size = 128
        precision = "fp16"
        num_train_epochs = 5.0
        logging_steps = 10
        eval_strategy = "epoch"
        save_strategy = "epoch"
        save_total_limit = 2
        load_best_model_at_end = true
        metric_for_best_model = "accuracy"
        weight_decay = 0.0
        max_grad_norm = 1.0
        seed = 42
        shuffle = true
    "#
    .parse()
    .unwrap();
    for (key, value) in &expected {
        assert_eq!(recipe.get(key), Some(value), "{key}");
    }
}

#[test]
fn the_list_names_every_recipe_and_a_printed_recipe_gives_itself_back() {
    let list = printed(&["recipes"]);
    assert!(list.starts_with("vit-lora "), "{list}");
    let folder = tempfile::tempdir().unwrap();
    for name in list.lines().filter_map(|line| line.split_whitespace().next()) {
        let recipe = printed(&["recipes", name]);
        let copy = file(folder.path(), "copy.toml", &recipe);
        assert_eq!(printed(&["recipes", &copy]), recipe);
    }
}

#[test]
fn a_file_extends_a_recipe_through_a_chain() {
    let folder = tempfile::tempdir().unwrap();
    file(
        folder.path(),
        "base.toml",
        "extends = \"vit-lora\"\nlearning_rate = 1e-3\nseed = 7\n",
    );
    let top = file(
        folder.path(),
        "top.toml",
        "extends = \"base.toml\"\nseed = 8\nvalidation_split = \"validation\"\n",
    );
    let recipe: toml::Table = printed(&["recipes", &top]).parse().unwrap();
    assert_eq!(recipe["learning_rate"].as_float(), Some(1e-3));
    assert_eq!(recipe["seed"].as_integer(), Some(8));
    assert_eq!(recipe["lora_r"].as_integer(), Some(16));
    // A validation split takes the place of the held out part.
    assert_eq!(recipe["validation_split"].as_str(), Some("validation"));
    assert!(!recipe.contains_key("test_size"));
}

#[test]
fn recipes_that_cannot_be_read_name_file_and_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        (
            "learning_rat = 1e-3",
            &["learning_rat", "did you mean `learning_rate`?"][..],
        ),
        ("learning_rate = \"fast\"", &["learning_rate", "fast"]),
        ("learning_rate = ", &["line 1"]),
        ("seed = -1", &["seed"]),
        ("lr_scheduler_type = \"cosin\"", &["cosin", "cosine"]),
        ("extends = \"case.toml\"", &["circle"]),
        ("extends = \"vit-lor\"", &["did you mean `vit-lora`?"]),
        ("extends = \"none.toml\"", &["none.toml", "spelling"]),
        ("extends = 3", &["extends"]),
        (
            "model = \"m\"\ndataset = \"d\"\nnum_train_epochs = -1.0",
            &["num_train_epochs", "-1", "above 0"],
        ),
        (
            "model = \"m\"\ndataset = \"d\"\ntest_size = 0.1\nvalidation_split = \"v\"",
            &["twice"],
        ),
        (
            "model = \"m\"\ndataset = \"d\"\nwarmup_steps = 3\nwarmup_ratio = 0.1",
            &["twice"],
        ),
    ];
    for (text, expected) in cases {
        let path = file(folder.path(), "case.toml", text);
        let output = dtrain(&["recipes", &path]);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{text}: {message}");
        assert_eq!(message.matches("error: ").count(), 1, "{text}: {message}");
        for part in expected.iter().chain(&["to do:"]) {
            assert!(message.contains(part), "{text}: `{part}` is not in: {message}");
        }
    }
}

#[test]
fn nonsense_values_are_refused_with_flag_value_and_range() {
    let cases = [
        ("--learning-rate 0", "above 0"),
        ("--learning-rate -1", "above 0"),
        ("--learning-rate nan", "above 0"),
        ("--learning-rate inf", "above 0"),
        ("--learning-rate fast", "invalid float"),
        ("--per-device-train-batch-size 0", "from 1"),
        ("--per-device-train-batch-size -8", "-8"),
        ("--per-device-train-batch-size 1.5", "1.5"),
        ("--per-device-eval-batch-size 0", "from 1"),
        ("--gradient-accumulation-steps 0", "from 1"),
        ("--num-train-epochs 0", "above 0"),
        ("--num-train-epochs -2", "above 0"),
        ("--max-steps 0", "from 1"),
        ("--max-steps -7", "from 1"),
        ("--lora-r 0", "from 1"),
        ("--lora-alpha 0", "above 0"),
        ("--lora-dropout 1", "from 0 below 1"),
        ("--lora-dropout -0.1", "from 0 below 1"),
        ("--lora-target-modules dense", "query"),
        ("--lora-target-modules query,q_proj", "twice"),
        ("--test-size 0", "fraction above 0"),
        ("--test-size 1", "fraction above 0"),
        ("--test-size 1.5", "fraction above 0"),
        ("--test-size -0.1", "fraction above 0"),
        ("--warmup-ratio 1.5", "from 0 to 1"),
        ("--warmup-steps -1", "-1"),
        ("--weight-decay -0.1", "from 0"),
        ("--adam-beta1 1", "below 1"),
        ("--adam-beta2 -0.5", "from 0"),
        ("--adam-epsilon 0", "above 0"),
        ("--max-grad-norm -1", "from 0"),
        ("--label-smoothing-factor 1", "below 1"),
        ("--logging-steps 0", "from 1"),
        ("--eval-steps 0", "from 1"),
        ("--save-steps 0", "from 1"),
        ("--save-total-limit 0", "from 1"),
        ("--metric-for-best-model f1", "accuracy"),
        ("--threads 0", "from 1"),
        ("--seed -1", "-1"),
        ("--seed many", "many"),
        ("--lr-scheduler-type cosin", "cosine"),
        ("--eval-strategy never", "epoch"),
        ("--method lorra", "lora"),
        ("--shuffle maybe", "true or false"),
        ("--train-transform none", "eval"),
        ("--on-bad-image ignore", "skip"),
        ("--device tpu", "cuda"),
        ("--precision fp8", "bf16"),
    ];
    for (typed, range) in cases {
        let (flag, value) = typed.split_once(' ').unwrap();
        let message = refusal(&["--recipe", "vit-lora", flag, value]);
        assert!(message.contains(flag), "{typed}: the flag is not in: {message}");
        let shown = value
            .parse::<f64>()
            .map_or(value.to_owned(), |number| number.to_string());
        assert!(
            message.contains(value) || message.contains(&shown),
            "{typed}: the value is not in: {message}"
        );
        assert!(message.contains(range), "{typed}: `{range}` is not in: {message}");
    }
}

#[test]
fn combinations_that_contradict_themselves_are_refused() {
    let cases = [
        (&["--eval-strategy", "no"][..], "nothing is evaluated"),
        (&["--eval-strategy", "steps"], "different strategies"),
        (
            &[
                "--eval-strategy",
                "steps",
                "--save-strategy",
                "steps",
                "--eval-steps",
                "7",
                "--save-steps",
                "10",
            ],
            "multiple",
        ),
        (
            &["--lr-scheduler-type", "constant", "--warmup-steps", "5"],
            "constant_with_warmup",
        ),
        (&["--method", "full", "--adapter", "x"], "method lora"),
        (&["--precision", "fp32", "--fp16"], "cannot be used with"),
        (&["--test-size", "0.1", "--validation-split", "validation"], "twice"),
    ];
    for (flags, expected) in cases {
        let message = refusal(&[&["--recipe", "vit-lora"], flags].concat());
        assert!(message.contains(expected), "{flags:?}: {message}");
    }
}

#[test]
fn unknown_words_are_answered_with_the_nearest_known_one() {
    assert!(refusal(&["--learning-rte", "1"]).contains("--learning-rate"));
    assert!(refusal(&["--recipe", "vit-lra"]).contains("vit-lora"));
    assert!(refusal(&["recipe"]).contains("recipes"));
    assert!(refusal(&["--model", "m"]).contains("--dataset"));
    assert!(refusal(&["--dataset", "d"]).contains("--model"));
}

#[test]
fn help_and_version_succeed() {
    assert_eq!(
        printed(&["--version"]),
        format!("dtrain {}\n", env!("CARGO_PKG_VERSION"))
    );
    let help = printed(&["--help"]);
    for flag in [
        "--recipe",
        "--gradient-accumulation-steps",
        "--resume-from-checkpoint",
        "--dry-run",
        "recipes",
    ] {
        assert!(help.contains(flag), "{flag}");
    }
}

#[cfg(feature = "mpi")]
#[test]
fn all_ranks_refuse_and_one_of_them_says_why() {
    let flags = ["--recipe", "vit-lora", "--learning-rate", "0"];
    let ended = common::mpirun(3, Path::new(env!("CARGO_BIN_EXE_dtrain")), &flags, &[]);
    assert_eq!(ended.code, Some(2), "{}", ended.text);
    assert_eq!(
        ended.text.matches("error: --learning-rate 0").count(),
        1,
        "{}",
        ended.text
    );
}
