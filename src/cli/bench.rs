//! `dtrain bench`: measures the parts of a run on this machine.

mod loading;
mod loose_files;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};

use loading::LoadingArguments;
use loose_files::loose_files;

use super::arguments::Augmentation;
use super::train::start_threads;
use super::{cores, say};
use crate::bench::{self, AllReduce, DataPath, Report};
use crate::collective::{Collective, job, with_devices};
use crate::data::{Columns, Dataset, Preprocessor, Samples};
use crate::error::{Error, IoContext, Result};
use crate::model::{LoraConfig, Training};
use crate::ops::device::{NodeRank, Placement, open};
use crate::recipe::{Decode, DeviceChoice, Method, Precision, TransformKind};

/// What `dtrain bench` takes.
#[derive(Args, Debug)]
pub struct BenchArguments {
    #[command(subcommand)]
    what: What,
    /// One JSON object instead of a table
    #[arg(long, global = true)]
    json: bool,
    /// Rounds that are counted; one or two more warm up
    #[arg(long, value_name = "N", default_value_t = 5, global = true, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Read, decode, transform: by stage, and by number of threads
    Data(DataArguments),
    /// Batches as a run gets them, from a dataset that may be larger than memory; also under mpirun
    Loader(LoadingArguments),
    /// Forward, backward, optimizer, whole and by kind of layer: times, operations, bytes, share of the machine's ceilings
    Step(StepArguments),
    /// The sum over ranks by size, in nccl-tests' columns; start it with mpirun
    Allreduce(AllReduceArguments),
    /// A whole run, from the command to the finished model
    Train(WholeArguments),
}

#[derive(Args, Debug)]
struct DataArguments {
    /// Dataset, or folder of image files
    source: PathBuf,
    /// Split of the dataset, slices allowed
    #[arg(long, default_value = "train")]
    split: String,
    /// Images of a round, at most
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    images: u32,
    #[arg(long, default_value = "train")]
    transform: TransformKind,
    #[arg(long, default_value = "exact")]
    decode: Decode,
    /// Height and width of a sample, where no model says it
    #[arg(long, value_name = "N", default_value_t = USUAL_SIZE, value_parser = clap::value_parser!(u32).range(1..4096))]
    size: u32,
    #[command(flatten)]
    augmentation: Augmentation,
    /// Directory of a model, whose preprocessor_config.json says size, mean and deviation [default: 224 px, 0.5, 0.5]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Thread counts of the loader [default: 1, 2, 4 … up to the cores]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    threads: Vec<usize>,
}

#[derive(Args, Debug)]
struct StepArguments {
    /// Checkpoint directory
    model: PathBuf,
    #[arg(long, default_value = "lora")]
    method: Method,
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    #[arg(long, value_name = "N", default_value_t = 101, value_parser = clap::value_parser!(u32).range(1..))]
    classes: u32,
    /// Compute threads [default: the cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Dtype of the computation; on a CPU fp16 means fp32
    #[arg(long, default_value = "fp16")]
    precision: Precision,
}

#[derive(Args, Debug)]
struct AllReduceArguments {
    /// f32 values of the smallest sum
    #[arg(long, value_name = "N", default_value_t = 1)]
    least: usize,
    /// f32 values of the largest sum
    #[arg(long, value_name = "N", default_value_t = 1 << 24)]
    most: usize,
    /// Each size is this many times the one before it
    #[arg(long, value_name = "N", default_value_t = 8)]
    factor: usize,
    /// Sizes besides these: gradients of ViT-B/16 with LoRA, and of all of it
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [667_493, 86_543_818])]
    also: Vec<usize>,
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
}

#[derive(Args, Debug)]
struct WholeArguments {
    /// Processes, started with mpirun
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    ranks: u32,
    /// Arguments of `dtrain train`, after --
    #[arg(last = true, required = true)]
    arguments: Vec<String>,
}

/// Measures and prints. Under mpirun every rank takes part in `allreduce` and `loader`; the others are for one process.
pub fn run(arguments: &BenchArguments) -> ExitCode {
    let rounds = arguments.rounds as usize;
    job(|collective| {
        let report = match &arguments.what {
            What::Allreduce(what) => what.measure(rounds, collective)?,
            What::Loader(what) => what.measure(&**collective)?,
            _ if collective.world() > 1 => {
                return Err(Error::usage(
                    "only `bench allreduce` and `bench loader` measure several ranks",
                    "start this one without mpirun (`bench train` has --ranks)",
                ));
            }
            What::Data(what) => what.measure(rounds)?,
            What::Step(what) => what.measure(rounds, collective)?,
            What::Train(what) => what.measure(rounds)?,
        };
        if collective.rank() == 0 {
            say(&match arguments.json {
                true => format!("{}\n", report.json()),
                false => report.text(),
            });
        }
        Ok(())
    })
}

impl DataArguments {
    fn measure(&self, rounds: usize) -> Result<Report> {
        let preprocessor = preprocessor(self.model.as_deref(), self.size)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = match self.threads.as_slice() {
            [] => (0..).map(|power| 1 << power).take_while(|n| *n <= cores).collect(),
            typed => typed.to_vec(),
        };
        if threads.contains(&0) {
            return Err(Error::usage("--threads 0: nobody would decode", "give numbers from 1"));
        }
        match loose_files(&self.source)? {
            files if !files.0.is_empty() => {
                let rows = files.0.len().min(self.images as usize);
                self.data(files, rows, &preprocessor, &threads, rounds)
            }
            _ => {
                let columns = Columns {
                    image: None,
                    label: None,
                };
                let dataset = Dataset::open(&self.source, &self.split, &columns)?;
                let rows = dataset.len().min(self.images as usize);
                self.data(dataset, rows, &preprocessor, &threads, rounds)
            }
        }
    }

    fn data<S: Samples + Clone>(
        &self,
        samples: S,
        rows: usize,
        preprocessor: &Preprocessor,
        threads: &[usize],
        rounds: usize,
    ) -> Result<Report> {
        let mut report = bench::data(&DataPath {
            samples,
            rows,
            preprocessor,
            kind: self.transform,
            decode: self.decode,
            augmentations: self.augmentation.typed(),
            threads,
            rounds,
        })?;
        report.setting("source", self.source.display());
        Ok(report)
    }
}

/// Pixels of a usual sample's side.
const USUAL_SIZE: u32 = 224;

/// The model's, or the usual one for samples of this size.
fn preprocessor(model: Option<&Path>, size: u32) -> Result<Preprocessor> {
    let usual = r#""resample": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]"#;
    match model {
        Some(dir) => Preprocessor::read(dir),
        None => Ok(Preprocessor::parse(&format!("{{\"size\": {size}, {usual}}}")).expect("our own configuration")),
    }
}

impl StepArguments {
    fn measure(&self, rounds: usize, collective: &Arc<dyn Collective>) -> Result<Report> {
        let threads = match self.threads {
            Some(threads) => threads.max(1),
            None => cores::of_this_rank(&**collective)?,
        };
        start_threads(threads)?;
        let device = open(self.device, NodeRank { rank: 0, ranks: 1 })?.device;
        let training = match self.method {
            Method::Lora => Training::Lora(LoraConfig::new(16, 16.0, 0.1, &["query".into(), "value".into()])?),
            Method::Full => Training::Full,
            Method::Head => Training::Head,
        };
        bench::step(&bench::Step {
            model: &self.model,
            training,
            classes: self.classes as usize,
            batch: self.batch as usize,
            rounds,
            placement: Placement::new(&device, self.precision),
        })
    }
}

impl AllReduceArguments {
    fn measure(&self, rounds: usize, collective: &Arc<dyn Collective>) -> Result<Report> {
        let local = collective.local();
        let place = NodeRank {
            rank: local.rank,
            ranks: local.world,
        };
        let opened = open(self.device, place)?;
        let collective = with_devices(collective.clone(), &opened.device, opened.identity.as_deref())?;
        let what = AllReduce {
            least: self.least,
            most: self.most,
            factor: self.factor,
            also: self.also.clone(),
            rounds,
        };
        bench::allreduce(&what, &*collective, &opened.device)
    }
}

impl WholeArguments {
    fn measure(&self, rounds: usize) -> Result<Report> {
        let program = std::env::current_exe().at("find", Path::new("dtrain"))?;
        let program = program.display().to_string();
        let command = match self.ranks {
            1 => vec![program],
            n => [
                "mpirun",
                "--oversubscribe",
                "--bind-to",
                "none",
                "-n",
                &n.to_string(),
                &program,
            ]
            .map(str::to_owned)
            .to_vec(),
        };
        bench::whole(&bench::Whole {
            command,
            arguments: self.arguments.clone(),
            place: std::env::temp_dir().join(format!("dtrain-bench-{}", std::process::id())),
            rounds,
        })
    }
}
