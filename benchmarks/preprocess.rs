//! Times decode + RandomResizedCrop + flip + normalize on one core: dtrain's side of `data.py`.
//!
//!     cargo bench --bench preprocess -- FOLDER [PASSES]
//!
//! Reads all files of the folder into memory. With PASSES it prints the images per second of each pass; without, it makes
//! a pass for every line on stdin and answers with its seconds (total, decode, resample), so that `data.py` can alternate.
//! Time is the thread's CPU time.

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use dtrain::data::augment::SampleName;
use dtrain::data::transform::Workplace;
use dtrain::data::{Preprocessor, Transform};
use dtrain::recipe::TransformKind;

/// Samples share a buffer of this many, as in training.
const BATCH: usize = 32;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let Some(folder) = arguments.first() else {
        eprintln!("usage: preprocess FOLDER [PASSES]");
        return;
    };
    let files = read_folder(Path::new(folder));
    let preprocessor = Preprocessor::parse(r#"{"size": 224, "resample": 2}"#).expect("the configuration is right");
    let transform = Transform::new(&preprocessor, TransformKind::Train);
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
    match arguments
        .get(1)
        .map(|passes| passes.parse().expect("a number of passes"))
    {
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
