//! The data path: from encoded files to batches of normalized samples, by stage on one thread, and whole on several; beside
//! that what as many threads do that have nothing to do with each other.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use candle_core::Tensor;

use super::spread::Spread;
use super::{Figure, Report};
use crate::data::augment::SampleName;
use crate::data::transform::Workplace;
use crate::data::{
    Augmentations, Loader, LoaderConfig, MicroBatch, Preprocessor, Samples, Transform, prefetch_batches,
};
use crate::error::{Error, Result};
use crate::recipe::{Decode, OnBadImage, TransformKind};

/// What is measured.
pub struct DataPath<'a, S> {
    pub samples: S,
    /// Rows of it that every round goes through.
    pub rows: usize,
    pub preprocessor: &'a Preprocessor,
    pub kind: TransformKind,
    pub decode: Decode,
    pub augmentations: Augmentations,
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
    let transform = Transform::new(what.preprocessor, what.kind)
        .decoded(what.decode)
        .augmented(what.augmentations);
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
    report.setting("decode", format!("{:?}", what.decode).to_lowercase());
    if what.augmentations != Augmentations::default() {
        let Augmentations {
            rand_augment,
            color_jitter,
            random_erasing,
            ..
        } = what.augmentations;
        report.setting(
            "augmentations",
            format!("{rand_augment:?}, {color_jitter:?}, {random_erasing} of the samples erased").to_lowercase(),
        );
    }
    report.setting("rounds", format!("{}, median [least-most]", what.rounds));

    let stages = stages(what, &transform, &files)?;
    for (name, seconds) in ["read", "decode", "crop, resize, normalize", "one thread in all"]
        .into_iter()
        .zip(stages)
    {
        report.row(row(name.to_owned(), seconds, what.rows, megabytes, None));
    }
    let mut expected = None;
    for &threads in what.threads {
        // This round is not timed: looking at samples takes longer than making them.
        let mut bits = Fingerprint::new();
        whole(what, &transform, threads, |pixels| bits.add(pixels))?;
        if bits.0 != *expected.get_or_insert(bits.0) {
            return Err(Error::usage(
                format!("{threads} threads made other samples than {} did", what.threads[0]),
                "this is a bug of dtrain, please report it",
            ));
        }
    }
    // All thread counts take turns, so that none is measured while the machine has better times than another had.
    let mut of_loader = vec![Vec::new(); what.threads.len()];
    let mut of_apart = vec![Vec::new(); what.threads.len()];
    for _ in 0..what.rounds {
        for (number, &threads) in what.threads.iter().enumerate() {
            // A batch is let go before the next one is taken, as a step does; its memory is used again.
            of_loader[number].push(whole(what, &transform, threads, |pixels| {
                std::hint::black_box(pixels);
                Ok(())
            })?);
            of_apart[number].push(apart(what, &transform, &files, threads)?);
        }
    }
    for (who, times) in [("loader", of_loader), ("apart", of_apart)] {
        let mut one_thread = None;
        for (times, &threads) in times.into_iter().zip(what.threads) {
            let seconds = Spread::of(times);
            if threads == 1 {
                one_thread = Some(seconds.median);
            }
            let name = format!("{who}, {threads} thread{}", if threads == 1 { "" } else { "s" });
            report.row(row(name, seconds, what.rows, megabytes, one_thread));
        }
    }
    report
        .notes
        .push("All thread counts made the same samples, bit for bit.".to_owned());
    report.notes.push(
        "Apart: threads that share nothing but the machine, each making samples in memory of its own. What they lose is the \
         machine's."
            .to_owned(),
    );
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

/// Seconds that a loader takes for as many images as there are rows, once its first batch is there; `look` sees every batch.
fn whole<S: Samples + Clone>(
    what: &DataPath<S>,
    transform: &Transform,
    threads: usize,
    mut look: impl FnMut(&Tensor) -> Result<()>,
) -> Result<f64> {
    let rows: Vec<u32> = (0..what.rows as u32).collect();
    let batches: Vec<MicroBatch> = rows
        .chunks(BATCH)
        .map(|rows| MicroBatch::of_rows(0, rows.iter().copied()))
        .collect();
    let mut clock = (Instant::now(), 0);
    let mut loader = Loader::new(
        what.samples.clone(),
        batches.into_iter(),
        LoaderConfig {
            transform: transform.clone(),
            seed: SEED,
            threads,
            prefetch_batches: prefetch_batches(threads, BATCH),
            on_bad_image: OnBadImage::Error,
            pictures: None,
            feed: None,
        },
    )?;
    let (mut images, mut latest) = (0, clock.0);
    while let Some(batch) = loader.next()? {
        latest = Instant::now();
        images += batch.labels.len();
        if images == batch.labels.len() && images < what.rows {
            clock = (latest, images);
        }
        look(&batch.pixels_bchw)?;
    }
    let (begun, before) = clock;
    Ok((latest - begun).as_secs_f64() * what.rows as f64 / (images - before) as f64)
}

/// Seconds that threads take for all rows without a loader: each takes the next file and makes its sample in a batch of its own.
fn apart<S: Samples>(what: &DataPath<S>, transform: &Transform, files: &[Bytes], threads: usize) -> Result<f64> {
    let next = AtomicUsize::new(0);
    let all_begin = Barrier::new(threads + 1);
    let work = || -> Result<()> {
        let mut workplace = Workplace::new().map_err(|cause| {
            all_begin.wait();
            Error::usage(cause, "free some memory")
        })?;
        // As much memory as a loader goes through.
        let samples = BATCH * prefetch_batches(threads, BATCH) / threads;
        let mut batch = vec![0f32; samples.max(1) * transform.sample_len()];
        let mut make = |number: usize| {
            let name = SampleName {
                seed: SEED,
                epoch: 0,
                sample: number as u64,
            };
            let place = number % samples.max(1) * transform.sample_len();
            let sample_chw = &mut batch[place..][..transform.sample_len()];
            let made = transform.apply(&files[number], name, &mut workplace, sample_chw);
            made.map_err(|cause| Error::Image {
                at: what.samples.origin(number),
                what: cause,
            })
        };
        let warmed = (0..files.len().min(BATCH)).try_for_each(|number| make(number).map(drop));
        all_begin.wait();
        warmed?;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= files.len() {
                return Ok(());
            }
            make(number)?;
        }
    };
    std::thread::scope(|scope| {
        let working: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        all_begin.wait();
        let begun = Instant::now();
        for thread in working {
            thread.join().expect("errors are returned")?;
        }
        Ok(begun.elapsed().as_secs_f64())
    })
}

/// Of samples, bit for bit: FNV-1a.
struct Fingerprint(u64);

impl Fingerprint {
    fn new() -> Fingerprint {
        Fingerprint(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, pixels: &Tensor) -> Result<()> {
        for value in pixels.flatten_all()?.to_vec1::<f32>()? {
            self.0 = (self.0 ^ u64::from(value.to_bits())).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}
