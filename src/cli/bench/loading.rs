//! `dtrain bench loader`: the loader as a run uses it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use crate::bench::{self, Loading, Report};
use crate::cli::cores;
use crate::collective::Collective;
use crate::data::{Columns, Dataset};
use crate::error::Result;
use crate::recipe::{Decode, Recipe, ShuffleMode, built_in};

#[derive(Args, Debug)]
pub struct LoadingArguments {
    /// Dataset
    source: PathBuf,
    /// Split of the dataset, slices allowed
    #[arg(long, default_value = "train")]
    split: String,
    #[arg(long, default_value = "auto")]
    shuffle_mode: ShuffleMode,
    /// Encoded images that a rank may keep in memory, in 10^9 bytes
    #[arg(long, value_name = "X", default_value_t = 8.0)]
    data_memory_gb: f64,
    #[arg(long, default_value = "exact")]
    decode: Decode,
    /// Samples of a batch on a rank
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Decoding threads of a rank [default: its share of the cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Seconds before images are counted
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    warm_up: f64,
    /// Seconds in which images are counted
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    seconds: f64,
    /// Directory of a model, whose preprocessor_config.json says size, mean and deviation [default: 224 px, 0.5, 0.5]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
}

impl LoadingArguments {
    pub(super) fn measure(&self, collective: &dyn Collective) -> Result<Report> {
        let recipe = Recipe {
            shuffle_mode: self.shuffle_mode,
            data_memory_gb: self.data_memory_gb,
            decode: self.decode,
            per_device_train_batch_size: self.batch as usize,
            gradient_accumulation_steps: 1,
            ..built_in("vit-lora")?
        };
        let preprocessor = super::preprocessor(self.model.as_deref(), super::USUAL_SIZE)?;
        let threads = match self.threads {
            Some(threads) => threads.max(1),
            None => cores::of_this_rank(collective)?,
        };
        let begun = Instant::now();
        let dataset = Dataset::open(&self.source, &self.split, &Columns::default())?;
        let what = Loading {
            recipe: &recipe,
            preprocessor: &preprocessor,
            dataset,
            opening: begun.elapsed(),
            threads,
            warm_up: Duration::from_secs_f64(self.warm_up.clamp(0.0, 1e6)),
            time: Duration::from_secs_f64(self.seconds.clamp(0.0, 1e6)),
        };
        let mut report = bench::loading(what, collective)?;
        report.setting("source", self.source.display());
        Ok(report)
    }
}
