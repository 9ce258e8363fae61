//! `dtrain demo DIR`: everything to try fine-tuning with, made on the spot: a dataset that we draw, and a small pretrained ViT
//! that has seen none of its classes.

mod base;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::train::{Depth, carry_out};
use super::{failed, say};
use crate::collective::{Collective, job};
use crate::data::{DemoDataset, DemoSubject, write_demo_dataset};
use crate::error::{Error, Result};
use crate::recipe::{Layer, Recipe, named, resolve};

/// What `dtrain demo` takes.
#[derive(Args, Debug)]
pub struct DemoArguments {
    /// Where to put them
    dir: PathBuf,
    /// Train the base model anew instead of taking the one that comes with dtrain (some minutes on two cores)
    #[arg(long)]
    train_base: bool,
}

/// Where things lie in the demonstration's directory.
struct Places {
    /// What to fine-tune to.
    dataset: PathBuf,
    /// The base model.
    base: PathBuf,
    /// What the base model is trained on; no class of it is in `dataset`.
    base_dataset: PathBuf,
    /// The base model before its training.
    untrained: PathBuf,
}

const SEED: u64 = 42;
/// Images to train the base model on.
const BASE_ROWS: usize = 8192;

/// Makes dataset and base model; what was there from an earlier demonstration is replaced.
pub fn run(arguments: &DemoArguments) -> ExitCode {
    let places = Places::new(&arguments.dir);
    match places.recipe() {
        Err(error) => failed(&error),
        Ok(recipe) if arguments.train_base => job(|collective| train_base(&places, recipe, collective)),
        Ok(_) => match places.fill() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        },
    }
}

fn train_base(places: &Places, recipe: Recipe, collective: &Arc<dyn Collective>) -> Result<()> {
    let first = collective.rank() == 0;
    if first {
        let demo = DemoDataset {
            train_rows: BASE_ROWS,
            ..DemoDataset::new(DemoSubject::BaseModel)
        };
        draw(&places.base_dataset, &demo)?;
        base::write_untrained(&places.untrained, SEED)?;
    }
    collective.barrier()?;
    carry_out(recipe, Depth::Train, collective)?;
    if first {
        base::round_to_f16(&places.base)?;
        places.draw_dataset()?;
        places.tell();
    }
    Ok(())
}

/// Draws with all cores, in a pool of its own: the training run's pool has yet to get its size.
fn draw(dir: &Path, demo: &DemoDataset) -> Result<()> {
    say(&format!("drawing {} images\n", demo.train_rows + demo.validation_rows));
    let pool = rayon::ThreadPoolBuilder::new().build().map_err(|e| {
        Error::usage(
            format!("cannot start threads: {e}"),
            "raise the limit of processes (ulimit -u)",
        )
    })?;
    pool.install(|| write_demo_dataset(dir, demo))
}

impl Places {
    fn new(dir: &Path) -> Self {
        Places {
            dataset: dir.join("shapes"),
            base: dir.join("base-vit"),
            base_dataset: dir.join("base-shapes"),
            untrained: dir.join("untrained-vit"),
        }
    }

    fn fill(&self) -> Result<()> {
        self.draw_dataset()?;
        base::write(&self.base)?;
        self.tell();
        Ok(())
    }

    fn draw_dataset(&self) -> Result<()> {
        draw(&self.dataset, &DemoDataset::new(DemoSubject::FineTuning))
    }

    fn tell(&self) {
        let (model, dataset) = (self.base.display(), self.dataset.display());
        say(&format!(
            "dataset: {dataset}\nbase model: {model}\nfine-tune it with:\n  dtrain --recipe vit-lora --model {model} \
             --dataset {dataset} --train-split train --validation-split validation \
             --per-device-train-batch-size 16 --gradient-accumulation-steps 1\n"
        ));
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
        let values = values.map(|(key, value)| (key.to_owned(), value));
        layers.push(Layer::flags(values.into_iter().collect()));
        resolve(&layers)
    }
}
