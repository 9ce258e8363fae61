//! The data path: from encoded files to batches of normalized samples, by stage on one thread, and whole on several.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::spread::Spread;
use super::{Figure, Report};
use crate::data::augment::SampleName;
use crate::data::transform::Workplace;
use crate::data::{Loader, LoaderConfig, MicroBatch, Preprocessor, Samples, Transform};
use crate::error::{Error, Result};
use crate::recipe::{OnBadImage, TransformKind};

/// What is measured.
pub struct DataPath<'a, S> {
    pub samples: S,
    /// Rows of it that every round goes through.
    pub rows: usize,
    pub preprocessor: &'a Preprocessor,
    pub kind: TransformKind,
    /// Thread counts of the loader, one row of the table each.
    pub threads: &'a [usize],
    pub rounds: usize,
}

/// Samples of a batch of the loader.
const BATCH: usize = 32;
const SEED: u64 = 42;

/// Time of the stages on one thread, then images per second of the loader. Every thread count must give the same bits.
///
/// Errors: a picture that cannot be decoded; a shard that cannot be read.
pub fn data<S: Samples + Clone>(what: &DataPath<S>) -> Result<Report> {
    let mut report = Report::new("data", &["stage", "us/image", "images/s", "MB/s", "x 1 thread"]);
    let transform = Transform::new(what.preprocessor, what.kind);
    let files = (0..what.rows)
        .map(|row| what.samples.encoded(row))
        .collect::<Result<Vec<Bytes>>>()?;
    let megabytes = files.iter().map(Bytes::len).sum::<usize>() as f64 * 1e-6;
    report.setting("images", what.rows);
    report.setting("mean size", format!("{:.1} kB", 1e3 * megabytes / what.rows as f64));
    let (height, width) = transform.size();
    report.setting(
        "transform",
        format!("{:?} to {width} x {height}", what.kind).to_lowercase(),
    );
    report.setting("rounds", format!("{}, median [least-most]", what.rounds));

    let stages = stages(what, &transform, &files)?;
    for (name, seconds) in ["read", "decode", "crop, resize, normalize", "one thread in all"]
        .into_iter()
        .zip(stages)
    {
        report.row(row(name.to_owned(), seconds, what.rows, megabytes, None));
    }
    drop(files);

    let mut one_thread: Option<(f64, u64)> = None;
    for &threads in what.threads {
        let mut times = Vec::new();
        for round in 0..=what.rounds {
            let (seconds, bits) = whole(what, &transform, threads)?;
            if round > 0 {
                times.push(seconds);
            }
            let (_, expected) = *one_thread.get_or_insert((seconds, bits));
            if bits != expected {
                return Err(Error::usage(
                    format!("{threads} threads made other samples than {} did", what.threads[0]),
                    "this is a bug of dtrain, please report it",
                ));
            }
        }
        let seconds = Spread::of(times);
        if threads == what.threads[0] {
            one_thread = one_thread.map(|(_, bits)| (seconds.median, bits));
        }
        let base = one_thread.filter(|_| what.threads[0] == 1).map(|(seconds, _)| seconds);
        let name = format!("loader, {threads} thread{}", if threads == 1 { "" } else { "s" });
        report.row(row(name, seconds, what.rows, megabytes, base));
    }
    report
        .notes
        .push("All thread counts made the same samples, bit for bit.".to_owned());
    Ok(report)
}

fn row(name: String, seconds: Spread, images: usize, megabytes: f64, one_thread: Option<f64>) -> Vec<Figure> {
    vec![
        Figure::Text(name),
        Figure::Spread(seconds.times(1e6 / images as f64), 1),
        Figure::Spread(seconds.rate(images as f64), 0),
        Figure::Number(megabytes / seconds.median, 1),
        one_thread.map_or(Figure::Nothing, |one| Figure::Number(one / seconds.median, 2)),
    ]
}

/// Seconds for all rows: reading, decoding, the rest, and all of it. The calling thread does the work.
fn stages<S: Samples>(what: &DataPath<S>, transform: &Transform, files: &[Bytes]) -> Result<[Spread; 4]> {
    let mut workplace = Workplace::new().map_err(|cause| Error::usage(cause, "free some memory"))?;
    let mut batch = vec![0f32; BATCH * transform.sample_len()];
    let mut times: [Vec<f64>; 4] = Default::default();
    for round in 0..=what.rounds {
        let begun = Instant::now();
        for sample in 0..what.rows {
            // The bytes are looked at, so that a mapped file is really read.
            let file = what.samples.encoded(sample)?;
            std::hint::black_box(file.iter().step_by(4096).fold(0u8, |sum, byte| sum ^ byte));
        }
        let read = begun.elapsed();
        let (mut decode, mut rest) = (Duration::ZERO, Duration::ZERO);
        let begun = Instant::now();
        for (sample, file) in files.iter().enumerate() {
            let place = &mut batch[sample % BATCH * transform.sample_len()..][..transform.sample_len()];
            let name = SampleName {
                seed: SEED,
                epoch: round as u32,
                sample: sample as u64,
            };
            let spent = transform
                .apply(file, name, &mut workplace, place)
                .map_err(|cause| Error::Image {
                    at: what.samples.origin(sample),
                    what: cause,
                })?;
            decode += spent.decode;
            rest += spent.resample;
        }
        if round > 0 {
            let all = read + begun.elapsed();
            for (list, time) in times.iter_mut().zip([read, decode, rest, all]) {
                list.push(time.as_secs_f64());
            }
        }
    }
    Ok(times.map(Spread::of))
}

/// Seconds that a loader takes for all rows, and a fingerprint of what it made.
fn whole<S: Samples + Clone>(what: &DataPath<S>, transform: &Transform, threads: usize) -> Result<(f64, u64)> {
    let rows: Vec<u32> = (0..what.rows as u32).collect();
    let batches: Vec<MicroBatch> = rows
        .chunks(BATCH)
        .map(|rows| MicroBatch::of_rows(0, rows.iter().copied()))
        .collect();
    let begun = Instant::now();
    let mut loader = Loader::new(
        what.samples.clone(),
        batches.into_iter(),
        LoaderConfig {
            transform: transform.clone(),
            seed: SEED,
            threads,
            prefetch_batches: 2 + threads.div_ceil(4),
            on_bad_image: OnBadImage::Error,
            pictures: None,
            feed: None,
        },
    )?;
    let mut made = Vec::new();
    while let Some(batch) = loader.next()? {
        made.push(batch.pixels_bchw);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let mut bits = 0xcbf2_9ce4_8422_2325u64;
    for pixels in made {
        for value in pixels.flatten_all()?.to_vec1::<f32>()? {
            bits = (bits ^ u64::from(value.to_bits())).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    Ok((seconds, bits))
}
