//! A place for runs of the program itself: a small model with random weights, drawn pictures, an output directory a run.
#![allow(dead_code)] // no test program uses all of it

use std::path::{Path, PathBuf};
use std::process::Command;

use dtrain::data::{Columns, Dataset, DemoDataset, DemoSubject, write_demo_dataset};
use dtrain::model::{ResNet, ResNetConfig, Training, Vit, VitConfig};
use serde_json::{Value, json};

use crate::common::{Ended, mpirun_command};

pub struct Playground {
    place: tempfile::TempDir,
}

/// What a run left.
pub struct Outcome {
    pub ended: Ended,
    pub directory: PathBuf,
}

/// Elsewhere than where it was built, DTRAIN names it.
pub fn program() -> PathBuf {
    std::env::var_os("DTRAIN").map_or_else(|| env!("CARGO_BIN_EXE_dtrain").into(), PathBuf::from)
}

impl Playground {
    /// Pictures of 32 px in eight classes, as an image folder so that single files can be damaged.
    pub fn new(train: usize, validation: usize) -> Playground {
        let place = tempfile::tempdir().unwrap();
        let demo = DemoDataset {
            train_rows: train,
            validation_rows: validation,
            ..DemoDataset::new(DemoSubject::FineTuning)
        };
        let shards = place.path().join("shards");
        write_demo_dataset(&shards, &demo).unwrap();
        for split in ["train", "validation"] {
            let dataset = Dataset::open(&shards, split, &Columns::default()).unwrap();
            for row in 0..dataset.len() {
                let class = &dataset.classes()[dataset.label(row) as usize];
                let folder = place.path().join("data").join(split).join(class);
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join(format!("{row:04}.jpg")), dataset.encoded(row).unwrap()).unwrap();
            }
        }
        let model = place.path().join("model");
        std::fs::create_dir(&model).unwrap();
        let config = json!({
            "model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32, "patch_size": 8,
            "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
            "id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1},
        });
        let config = VitConfig::from_json(config, Path::new("a test's config")).unwrap();
        let vit = Vit::random(config, &Training::Full, 7, &candle_core::Device::Cpu).unwrap();
        vit.save_full(&model).unwrap();
        let preprocessor = json!({
            "image_processor_type": "ViTImageProcessor", "do_resize": true, "do_normalize": true, "do_rescale": true,
            "size": {"height": 32, "width": 32}, "resample": 2, "rescale_factor": 1.0 / 255.0,
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        });
        std::fs::write(model.join("preprocessor_config.json"), preprocessor.to_string()).unwrap();
        Playground { place }
    }

    /// The same with a ResNet, of which all weights are trained.
    pub fn residual(train: usize, validation: usize) -> Playground {
        let place = Playground::new(train, validation);
        let config = json!({
            "model_type": "resnet", "architectures": ["ResNetForImageClassification"], "embedding_size": 8,
            "hidden_sizes": [16, 24], "depths": [1, 2], "layer_type": "bottleneck", "hidden_act": "relu",
            "id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1},
        });
        let config = ResNetConfig::from_json(config, Path::new("a test's config")).unwrap();
        let resnet = ResNet::random(config, &Training::Full, 7, &candle_core::Device::Cpu).unwrap();
        resnet.save_full(&place.path("model")).unwrap();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Some picture of the training set, for damaging; `which` counts them from 0.
    pub fn training_picture(&self, which: usize) -> PathBuf {
        let mut pictures = Vec::new();
        for class in std::fs::read_dir(self.path("data/train")).unwrap() {
            pictures.extend(
                std::fs::read_dir(class.unwrap().path())
                    .unwrap()
                    .map(|file| file.unwrap().path()),
            );
        }
        pictures.sort();
        pictures.swap_remove(which)
    }

    /// The command of a run on `world` ranks (0: without mpirun) into the output directory `name`. One thread computes and
    /// one decodes; every step is logged; `arguments` come last, and `key=value` stands for `--key value`.
    pub fn command(&self, world: usize, name: &str, arguments: &[&str]) -> Command {
        let (model, data, output) = (self.path("model"), self.path("data"), self.path(name));
        let mut all: Vec<String> = [
            "recipe=vit-lora",
            "train-split=train",
            "validation-split=validation",
            "per-device-train-batch-size=4",
            "per-device-eval-batch-size=4",
            "gradient-accumulation-steps=1",
            "logging-steps=1",
            "lora-r=4",
            "threads=1",
            "dataloader-num-workers=1",
        ]
        .map(str::to_owned)
        .to_vec();
        all.push(format!("model={}", model.display()));
        all.push(format!("dataset={}", data.display()));
        all.push(format!("output-dir={}", output.display()));
        let own = |argument: &&String| {
            let key = argument.split('=').next().unwrap();
            !arguments.iter().any(|given| given.split('=').next() == Some(key))
        };
        let mut flags: Vec<String> = all.iter().filter(own).cloned().collect();
        flags.extend(arguments.iter().map(|&argument| argument.to_owned()));
        let words: Vec<String> = flags
            .iter()
            .flat_map(|flag| match flag.split_once('=') {
                Some((key, value)) => vec![format!("--{key}"), value.to_owned()],
                None => vec![format!("--{flag}")],
            })
            .collect();
        let program = program();
        if world == 0 {
            let mut command = Command::new(&program);
            command.args(words);
            return command;
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        mpirun_command(world, &program, &words, &[])
    }

    /// Runs [`Playground::command`] to its end.
    pub fn run(&self, world: usize, name: &str, arguments: &[&str]) -> Outcome {
        let output = self
            .command(world, name, arguments)
            .output()
            .expect("the program starts");
        Outcome {
            ended: Ended::of(output),
            directory: self.path(name),
        }
    }

    /// The same for a run that must succeed.
    pub fn succeed(&self, world: usize, name: &str, arguments: &[&str]) -> Outcome {
        let outcome = self.run(world, name, arguments);
        assert_eq!(
            outcome.ended.code,
            Some(0),
            "{world} ranks, {arguments:?}:\n{}",
            outcome.ended.text
        );
        outcome
    }
}

impl Outcome {
    pub fn json(&self, name: &str) -> Value {
        let path = self.directory.join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_str(&text).unwrap()
    }

    /// One figure of the history, entry by entry, of those entries that have it.
    pub fn history(&self, figure: &str) -> Vec<f64> {
        let state = self.json("trainer_state.json");
        state["log_history"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|entry| entry[figure].as_f64())
            .collect()
    }

    /// The final model, byte for byte.
    pub fn model(&self) -> Vec<u8> {
        std::fs::read(self.directory.join("model.safetensors")).unwrap()
    }

    /// The final adapter, byte for byte.
    pub fn adapter(&self) -> Vec<u8> {
        std::fs::read(self.directory.join("adapter_model.safetensors")).unwrap()
    }

    /// `eval_predictions.csv`: sample, label and prediction of each line.
    pub fn predictions(&self) -> Vec<Vec<String>> {
        let text = std::fs::read_to_string(self.directory.join("eval_predictions.csv")).unwrap();
        let fields = |line: &str| line.split(',').take(3).map(str::to_owned).collect();
        text.lines().skip(1).map(fields).collect()
    }

    /// The history without what depends on the clock.
    pub fn timeless_history(&self) -> Vec<Value> {
        let mut entries = self.json("trainer_state.json")["log_history"]
            .as_array()
            .unwrap()
            .clone();
        for entry in &mut entries {
            entry
                .as_object_mut()
                .unwrap()
                .retain(|key, _| !key.ends_with("_runtime") && !key.ends_with("_per_second"));
        }
        entries
    }

    pub fn checkpoints(&self) -> Vec<String> {
        let names = std::fs::read_dir(&self.directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names
            .map(|name| name.into_string().unwrap())
            .filter(|name| name.starts_with("checkpoint-"))
            .collect();
        names.sort();
        names
    }
}
