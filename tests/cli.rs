//! The program as people type it: recipes, spellings of flags, and one clear error for every kind of nonsense.

mod common;
#[path = "commands/tests.rs"]
mod commands;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;

fn dtrain(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dtrain"))
        .args(arguments)
        // Names that are no paths are the Hub's, which is not asked here.
        .env("HF_HUB_OFFLINE", "1")
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
        ("--mixup-alpha -1", "from 0"),
        ("--cutmix-alpha nan", "from 0"),
        ("--mixup-prob 1.5", "from 0 to 1"),
        ("--ema-decay 1", "from 0 below 1"),
        ("--freeze 3x", "layers.0-5"),
        ("--balanced-sampling maybe", "true or false"),
        ("--logging-steps 0", "from 1"),
        ("--eval-steps 0", "from 1"),
        ("--save-steps 0", "from 1"),
        ("--save-total-limit 0", "from 1"),
        ("--metric-for-best-model f2", "accuracy"),
        ("--threads 0", "from 1"),
        ("--seed -1", "-1"),
        ("--seed many", "many"),
        ("--lr-scheduler-type cosin", "cosine"),
        ("--eval-strategy never", "epoch"),
        ("--method lorra", "lora"),
        ("--shuffle maybe", "true or false"),
        ("--train-transform none", "eval"),
        ("--rand-augment 2", "num_ops,magnitude"),
        ("--rand-augment 2,nine", "invalid digit"),
        ("--rand-augment 2,-9", "invalid digit"),
        ("--rand-augment 2,31,31", "0 to 30"),
        ("--rand-augment 2,0,1", "from 2"),
        ("--rand-augment 15,9,31", "0 to 14"),
        ("--color-jitter 0.4", "brightness,contrast,saturation"),
        ("--color-jitter 0.4,0.4,0.4,0.6", "0 to 0.5"),
        ("--color-jitter 0.4,-0.1,0.4,0", "from 0"),
        ("--color-jitter inf,0,0,0", "from 0"),
        ("--random-erasing 1.5", "from 0 to 1"),
        ("--random-erasing -0.1", "from 0 to 1"),
        ("--random-erasing-mode black", "const"),
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
        (&["--freeze", "2"], "--method full"),
        (&["--balanced-sampling", "--shuffle", "false"], "order of the dataset"),
        (&["--mixup-prob", "0.5"], "nothing is mixed"),
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

/// The demonstration's dataset and base model, made once for all tests here.
fn demo() -> &'static Path {
    static DEMO: OnceLock<tempfile::TempDir> = OnceLock::new();
    DEMO.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        printed(&["demo", folder.path().to_str().unwrap()]);
        folder
    })
    .path()
}

/// The preflight of a run on the demonstration's files.
fn preflight(flags: &[&str]) -> String {
    let (model, dataset) = (demo().join("base-vit"), demo().join("shapes"));
    let output_dir = demo().join("never-written");
    let files = [
        "--model",
        model.to_str().unwrap(),
        "--dataset",
        dataset.to_str().unwrap(),
    ];
    let rest = ["--output-dir", output_dir.to_str().unwrap(), "--dry-run"];
    let text = printed(&[&files[..], flags, &rest].concat());
    assert!(!output_dir.exists(), "a dry run writes nothing");
    text
}

#[test]
fn a_dry_run_says_what_would_be_run() {
    let text = preflight(&["--recipe", "vit-lora", "--train-split", "train[:500]", "--threads", "2"]);
    for part in [
        "450 training samples (train[:500]), 50 validation samples (test_size 0.1)",
        "8 of 8 have training samples",
        "512 samples a step: 128 x 1 rank x 4 of accumulation",
        "1 an epoch, 5 in all (5.000 epochs)",
        "logged every 10 steps, evaluated every epoch, saved every epoch",
        "72 tensors loaded",
        "LoRA r 16 alpha 16 dropout 0.1 on query, value",
        // 4 blocks × 2 projections × 16 × 2 × 96, and 96 × 8 + 8 of the classifier, which counts twice in the whole.
        "trainable params: 25,352 || all params: ",
        "world size 1; each rank has 2 compute threads",
        "precision fp16 is for GPUs",
        "a step takes 512 samples, but there are only 450",
        "memory   about ",
    ] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
}

#[test]
fn a_dry_run_tells_of_training_aids() {
    let text = preflight(&[
        "--freeze",
        "embeddings,layers.0-1",
        "--class-weights",
        "balanced",
        "--ema-decay",
        "0.99",
    ]);
    for part in [
        "trained: all weights but embeddings, layers.0-1; evaluated and saved: their moving average, decay 0.99",
        "weights in the training loss: ",
    ] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    let whole = preflight(&[]);
    let trainable = |text: &str| {
        let line = text
            .lines()
            .find_map(|line| line.split("trainable params: ").nth(1))
            .unwrap()
            .to_owned();
        let (trained, all) = line.split_once(" || all params: ").unwrap();
        let number = |text: &str| text.replace(',', "").split(' ').next().unwrap().parse::<u64>().unwrap();
        (number(trained), number(all))
    };
    let ((some, all), (every, every_one)) = (trainable(&text), trainable(&whole));
    assert!(
        some < every && every == every_one && all == every_one,
        "{some} of {all}, {every} of {every_one}"
    );
}

#[test]
fn flags_may_be_spelled_in_all_of_hugging_faces_ways() {
    let plain = preflight(&[
        "--num-train-epochs",
        "7",
        "--validation-split",
        "validation",
        "--shuffle",
        "false",
        "--max-steps",
        "-1",
    ]);
    assert!(plain.contains("1792 in all"), "{plain}");
    let others: [&[&str]; 4] = [
        &[
            "--num_train_epochs",
            "7",
            "--validation_split",
            "validation",
            "--shuffle",
            "False",
            "--max_steps",
            "-1",
        ],
        &[
            "--num-train-epochs=7",
            "--validation_split=validation",
            "--shuffle=no",
            "--max-steps=-1",
        ],
        &[
            "--num-train-epochs",
            "2",
            "--num-train-epochs",
            "7.0",
            "--validation-split",
            "validation",
            "--shuffle",
            "0",
        ],
        &[
            "--overwrite-output-dir",
            "True",
            "--num-train-epochs",
            "7",
            "--validation-split",
            "validation",
            "--shuffle",
            "no",
        ],
    ];
    for flags in others {
        assert_eq!(preflight(flags), plain, "{flags:?}");
    }
}

#[test]
fn flags_override_a_file_which_overrides_the_recipe_that_it_extends() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(
        folder.path(),
        "mine.toml",
        "extends = \"vit-lora\"\nper_device_train_batch_size = 16\ngradient_accumulation_steps = 2\nmax_steps = 3\n\
         bf16 = true\nfp16 = false\n",
    );
    let text = preflight(&["--recipe", &path]);
    assert!(text.contains("32 samples a step: 16 x 1 rank x 2"), "{text}");
    // Computed in, or said to be for other processors than this one.
    let bf16 = ["operands to bf16", "precision bf16"];
    assert!(text.contains(" 3 in all"), "{text}");
    assert!(bf16.iter().any(|said| text.contains(said)), "{text}");
    let text = preflight(&[
        "--recipe",
        &path,
        "--gradient-accumulation-steps",
        "1",
        "--num-train-epochs",
        "2",
        "--fp16",
    ]);
    assert!(text.contains("16 samples a step"), "{text}");
    // 1,843 samples: epochs that are typed take the place of the file's steps.
    assert!(
        text.contains("116 an epoch, 232 in all") && text.contains("precision fp16"),
        "{text}"
    );
}

#[test]
fn what_cannot_be_opened_is_one_error() {
    let (model, dataset) = (demo().join("base-vit"), demo().join("shapes"));
    let (model, dataset) = (model.to_str().unwrap(), dataset.to_str().unwrap());
    let cases = [
        (vec!["--model", "nowhere", "--dataset", dataset], "nowhere"),
        (vec!["--model", model, "--dataset", "nowhere"], "nowhere"),
        (
            vec!["--model", model, "--dataset", dataset, "--train-split", "trian"],
            "trian",
        ),
        (
            vec!["--model", model, "--dataset", dataset, "--train-split", "train[:0]"],
            "train[:0]",
        ),
        (
            vec!["--model", model, "--dataset", dataset, "--image-column-name", "picture"],
            "picture",
        ),
        (
            vec!["--model", model, "--dataset", dataset, "--test-size", "2048"],
            "2048",
        ),
        (
            vec!["--model", model, "--dataset", dataset, "--eval-strategy", "epoch"],
            "--test-size",
        ),
        (
            vec!["--model", model, "--dataset", dataset, "--warmup-steps", "1000"],
            "--warmup-steps 1000",
        ),
        (
            vec![
                "--model",
                model,
                "--dataset",
                dataset,
                "--freeze",
                "embeddings,layers.4",
            ],
            "embeddings, layers.0-3, layernorm",
        ),
        (
            vec!["--model", model, "--dataset", dataset, "--class-weights", "1,2"],
            "2 weights for 8 classes",
        ),
        (
            vec![
                "--model",
                model,
                "--dataset",
                dataset,
                "--class-weights",
                "0,1,1,1,1,1,1,1",
            ],
            "0 is out of range",
        ),
        (
            vec![
                "--model",
                model,
                "--dataset",
                dataset,
                "--class-weights",
                "nowhere.json",
            ],
            "nowhere.json",
        ),
        (
            vec!["--model", model, "--dataset", dataset, "--num-train-epochs", "1e300"],
            "--num-train-epochs",
        ),
    ];
    for (mut flags, expected) in cases {
        flags.push("--dry-run");
        let output = dtrain(&flags);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{flags:?}");
        assert_eq!(message.matches("error: ").count(), 1, "{flags:?}: {message}");
        assert!(message.contains(expected), "{flags:?}: {message}");
        assert!(message.contains("to do:"), "{flags:?}: {message}");
    }
}

#[cfg(feature = "mpi")]
#[test]
fn a_real_model_and_dataset_are_counted_on_two_ranks() {
    let (Some(model), Some(dataset)) = (common::shared("models/deit-tiny"), common::shared("data/food10")) else {
        return;
    };
    let flags = [
        "--recipe=vit-lora",
        "--model",
        model.to_str().unwrap(),
        "--dataset",
        dataset.to_str().unwrap(),
        "--train-split=train",
        "--validation-split=validation",
        "--per-device-train-batch-size=16",
        "--gradient-accumulation-steps=1",
        "--threads=1",
        "--dry-run",
    ];
    let ended = common::mpirun(2, Path::new(env!("CARGO_BIN_EXE_dtrain")), &flags, &[]);
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    for part in [
        "800 training samples (train), 350 validation samples (validation)",
        "10 of 10 have training samples",
        "apple_pie 80, bibimbap 80",
        "32 samples a step: 16 x 2 ranks x 1 of accumulation",
        "25 an epoch, 125 in all",
        "trainable params: 149,386 || all params: 5,675,732 || trainable%: 2.6320",
        "world size 2",
    ] {
        assert_eq!(ended.text.matches(part).count(), 1, "`{part}`:\n{}", ended.text);
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
