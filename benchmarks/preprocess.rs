//! Times decode + RandomResizedCrop + flip + normalize on one core: dtrain's side of `data.py`.
//!
//!     cargo bench --bench preprocess -- FOLDER [--passes N] [--size 224] [--decode fast] [--augment rand-augment]
//!
//! Reads all files of the folder into memory. With --passes it prints the images per second of each pass; without, it makes
//! a pass for every line on stdin and answers with its seconds (total, decode, resample), so that `data.py` can alternate.
//! Time is the thread's CPU time.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use dtrain::data::augment::SampleName;
use dtrain::data::transform::Workplace;
use dtrain::data::{Augmentations, Preprocessor, Transform};
use dtrain::recipe::{ColorJitter, Decode, RandAugment, TransformKind};

/// Samples share a buffer of this many, as in training.
const BATCH: usize = 32;

#[derive(Parser)]
struct Options {
    folder: PathBuf,
    #[arg(long)]
    passes: Option<u32>,
    /// Height and width of a sample
    #[arg(long, default_value_t = 224)]
    size: usize,
    #[arg(long, default_value = "exact")]
    decode: Decode,
    #[arg(long, default_value = "none")]
    augment: Addition,
}

/// What is done besides, and how: `data.py` says the same to torchvision.
#[derive(Clone, Copy, ValueEnum)]
enum Addition {
    None,
    RandAugment,
    ColorJitter,
    RandomErasing,
}

impl Addition {
    fn settings(self) -> Augmentations {
        let off = Augmentations::default();
        match self {
            Addition::None => off,
            Addition::RandAugment => Augmentations {
                rand_augment: RandAugment {
                    num_ops: 2,
                    ..off.rand_augment
                },
                ..off
            },
            Addition::ColorJitter => Augmentations {
                color_jitter: ColorJitter {
                    brightness: 0.4,
                    contrast: 0.4,
                    saturation: 0.4,
                    hue: 0.1,
                },
                ..off
            },
            Addition::RandomErasing => Augmentations {
                random_erasing: 1.0,
                ..off
            },
        }
    }
}

fn main() {
    let arguments = std::env::args().filter(|argument| argument != "--bench");
    let options = Options::parse_from(arguments);
    let files = read_folder(&options.folder);
    let preprocessor = Preprocessor::parse(&format!(r#"{{"size": {}, "resample": 2}}"#, options.size));
    let transform = Transform::new(&preprocessor.expect("the configuration is right"), TransformKind::Train)
        .decoded(options.decode)
        .augmented(options.augment.settings());
    let mut workplace = Workplace::new().expect("memory");
    let mut batch = vec![0f32; BATCH * transform.sample_len()];
    let mut pass = |epoch: u32| {
        let (start, cpu_start) = (Instant::now(), cpu_seconds());
        let (mut decode, mut resample) = (Duration::ZERO, Duration::ZERO);
        for (sample, bytes) in files.iter().enumerate() {
            let place = &mut batch[sample % BATCH * transform.sample_len()..][..transform.sample_len()];
            let name = SampleName {
                seed: 42,
                epoch,
                sample: sample as u64,
            };
            let durations = transform.apply(bytes, name, &mut workplace, place).expect("a picture");
            decode += durations.decode;
            resample += durations.resample;
        }
        // The share of the processor that others took counts neither here nor in the parts.
        let (total, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu_start);
        [
            cpu,
            decode.as_secs_f64() * cpu / total,
            resample.as_secs_f64() * cpu / total,
        ]
    };
    match options.passes {
        Some(passes) => {
            for epoch in 0..passes {
                let [total, decode, resample] = pass(epoch).map(|seconds| seconds / files.len() as f64);
                println!(
                    "{:8.1} images/s   decode {:6.1} us   resample {:6.1} us",
                    1.0 / total,
                    decode * 1e6,
                    resample * 1e6
                );
            }
        }
        None => {
            println!("{}", files.len());
            for (epoch, line) in std::io::stdin().lock().lines().enumerate() {
                line.expect("stdin can be read");
                let [total, decode, resample] = pass(epoch as u32);
                println!("{total} {decode} {resample}");
                std::io::stdout().flush().expect("stdout can be written");
            }
        }
    }
}

/// Time that this thread has run.
fn cpu_seconds() -> f64 {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanoseconds = statistics.split(' ').next().and_then(|first| first.parse::<f64>().ok());
    nanoseconds.expect("a number of nanoseconds") * 1e-9
}

fn read_folder(folder: &Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder).expect("the folder can be read");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no files in {}", folder.display());
    paths
        .iter()
        .map(|path| std::fs::read(path).expect("the file can be read"))
        .collect()
}
