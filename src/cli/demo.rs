//! `dtrain demo DIR`: everything to try fine-tuning with, made on the spot: two small datasets that we draw, and a small ViT
//! that is trained on one of them, to be fine-tuned to the other one.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use candle_core::Device;
use serde_json::json;

use super::failed;
use super::train::{Depth, carry_out};
use crate::collective::{Collective, job};
use crate::data::{DemoDataset, DemoSubject, preprocessor, write_demo_dataset};
use crate::error::{Error, IoContext, Result};
use crate::model::{Training, Vit, VitConfig};
use crate::recipe::{Layer, Recipe, named, resolve};

/// Where things lie in the demonstration's directory.
struct Places {
    /// What to fine-tune to.
    dataset: PathBuf,
    /// What the base model is trained on; no class of it is in `dataset`.
    base_dataset: PathBuf,
    /// The base model before and after its training.
    untrained: PathBuf,
    base: PathBuf,
}

/// Pixels of an image's side, and of a patch's.
const IMAGE: usize = 64;
const PATCH: usize = 8;
const SEED: u64 = 42;
const BASE_ROWS: usize = 8192;

/// Makes datasets and base model in `dir`; what was there from an earlier demonstration is replaced.
pub fn run(dir: &Path) -> ExitCode {
    let places = Places::new(dir);
    match places.recipe() {
        Ok(recipe) => job(|collective| make(&places, recipe, collective)),
        Err(error) => failed(&error),
    }
}

fn make(places: &Places, recipe: Recipe, collective: &Arc<dyn Collective>) -> Result<()> {
    if collective.rank() == 0 {
        println!("drawing two datasets");
        draw(places)?;
        write_untrained(&places.untrained)?;
        println!("training the base model");
    }
    collective.barrier()?;
    carry_out(recipe, Depth::Train, collective)?;
    if collective.rank() == 0 {
        let (model, dataset) = (places.base.display(), places.dataset.display());
        println!(
            "\nready; now fine-tune:\n  dtrain --recipe vit-lora --model {model} --dataset {dataset} --train-split train \
             --validation-split validation --per-device-train-batch-size 16 --gradient-accumulation-steps 1"
        );
    }
    Ok(())
}

/// Draws with all cores, in a pool of its own: the training run's pool has yet to get its size.
fn draw(places: &Places) -> Result<()> {
    let base = DemoDataset {
        train_rows: BASE_ROWS,
        ..DemoDataset::new(DemoSubject::BaseModel)
    };
    let pool = rayon::ThreadPoolBuilder::new().build();
    let pool = pool.map_err(|e| {
        Error::usage(
            format!("cannot start threads: {e}"),
            "raise the limit of processes (ulimit -u)",
        )
    })?;
    pool.install(|| {
        write_demo_dataset(&places.dataset, &DemoDataset::new(DemoSubject::FineTuning))?;
        write_demo_dataset(&places.base_dataset, &base)
    })
}

/// A small ViT with random weights, in Hugging Face's layout.
fn write_untrained(dir: &Path) -> Result<()> {
    let json = json!({
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "attention_probs_dropout_prob": 0.0,
        "encoder_stride": PATCH,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": 96,
        "image_size": IMAGE,
        "initializer_range": 0.02,
        "intermediate_size": 192,
        "layer_norm_eps": 1e-12,
        "num_attention_heads": 3,
        "num_channels": 3,
        "num_hidden_layers": 4,
        "patch_size": PATCH,
        "qkv_bias": true,
    });
    let images = json!({
        "do_normalize": true,
        "do_rescale": true,
        "do_resize": true,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "ViTImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
        "rescale_factor": 1.0 / 255.0,
        "size": {"height": IMAGE, "width": IMAGE},
    });
    std::fs::create_dir_all(dir).at("create", dir)?;
    let mut config = VitConfig::from_json(json, &dir.join("config.json"))?;
    config.classes = DemoSubject::BaseModel.classes().map(str::to_owned).to_vec();
    Vit::random(config, &Training::Full, SEED, &Device::Cpu)?.save_full(dir)?;
    let path = dir.join(preprocessor::FILE_NAME);
    std::fs::write(&path, format!("{images:#}\n")).at("write", &path)
}

impl Places {
    fn new(dir: &Path) -> Self {
        Places {
            dataset: dir.join("shapes"),
            base_dataset: dir.join("base-shapes"),
            untrained: dir.join("untrained-vit"),
            base: dir.join("base-vit"),
        }
    }

    /// How the base model is trained.
    fn recipe(&self) -> Result<Recipe> {
        let text = |path: &Path| path.display().to_string().into();
        let mut layers = named("demo-base")?;
        let values: [(&str, toml::Value); 5] = [
            ("model", text(&self.untrained)),
            ("dataset", text(&self.base_dataset)),
            ("output_dir", text(&self.base)),
            ("overwrite_output_dir", true.into()),
            ("seed", (SEED as i64).into()),
        ];
        layers.push(Layer::flags(
            values.map(|(key, value)| (key.to_owned(), value)).into_iter().collect(),
        ));
        resolve(&layers)
    }
}
