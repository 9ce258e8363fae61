//! Samples are those that are made without a feed, whatever is kept where; memory is used over and over and never too early;
//! everything ends, also in the middle. On the CPU, which stands for a device; tests/gpu has the same on a GPU.

use std::time::Duration;

use super::*;
use crate::data::loader::tests::{Bad, Drawn, plan};
use crate::data::loader::{BadImage, Batch, Loader, LoaderConfig};
use crate::data::pictures::tests as photographs;
use crate::data::{Augmentations, DeviceRoom, Preprocessor, Transform};
use crate::recipe::{Decode, ErasingMode, OnBadImage, TransformKind};

/// For batches of six samples of 32 x 32; `bytes` for each picture, `kept` for those that stay.
fn feed(bytes: usize, kept: usize) -> Arc<Feed> {
    feed_of(StagingShape::new(6, (32, 32), bytes, usize::MAX), kept)
}

fn feed_of(batch: StagingShape, kept: usize) -> Arc<Feed> {
    let intake = Arc::new(Intake::open(&Device::Cpu, batch.capacity(), kept).unwrap());
    let room = Arc::new(DeviceRoom::of(&intake));
    let pictures = DevicePictures::new(photographs::ROWS, room);
    let shape = FeedShape {
        batch,
        dtype: DType::F32,
        stagings: 2,
        slots: 2,
    };
    Arc::new(Feed::new(intake, &Device::Cpu, shape, (kept > 0).then_some(pictures)))
}

#[test]
fn samples_are_the_same_whatever_is_kept_where() {
    let drawn = photographs::Drawn::new();
    let all: usize = 1 << 20;
    for kind in [TransformKind::Train, TransformKind::Eval, TransformKind::Processor] {
        let (expected, _) = photographs::samples(&drawn, 3, photographs::config(kind, 1));
        for threads in [1, 3] {
            // Pictures as they are, most of them resized here, all of them resized here.
            for bytes in [1 << 16, 12_000, 0] {
                for (device, host) in [(0, 0), (all, 0), (60_000, 0), (0, all), (60_000, 60_000)] {
                    let config = LoaderConfig {
                        feed: Some(feed(bytes, device)),
                        pictures: photographs::host(host),
                        ..photographs::config(kind, threads)
                    };
                    let (samples, _) = photographs::samples(&drawn, 3, config);
                    let place =
                        format!("{kind:?}, {threads} threads, {bytes} bytes, {device} on the device, {host} here");
                    assert!(samples == expected, "{place}");
                }
            }
        }
    }
}

#[test]
fn augmented_and_erased_samples_are_the_same_whatever_is_kept_where() {
    let drawn = photographs::Drawn::new();
    let all: usize = 1 << 20;
    for mode in [ErasingMode::Const, ErasingMode::Rand, ErasingMode::Pixel] {
        let augmented = photographs::augmentations(mode);
        let erased = Augmentations {
            random_erasing: 0.5,
            random_erasing_mode: mode,
            ..Augmentations::default()
        };
        for (augmentations, kind) in [(augmented, TransformKind::Train), (erased, TransformKind::Eval)] {
            let plain = photographs::config(kind, 2);
            let transform = plain.transform.clone().augmented(augmentations);
            let config = LoaderConfig { transform, ..plain };
            let (expected, _) = photographs::samples(&drawn, 3, config.clone());
            for (device, host) in [(0, 0), (all, 0), (60_000, 60_000), (0, all)] {
                let device = if config.transform.is_a_cut() { device } else { 0 };
                for mean in [1 << 16, 0] {
                    let shape = config.transform.staging_shape(6, mean, usize::MAX);
                    let config = LoaderConfig {
                        feed: Some(feed_of(shape, device)),
                        pictures: photographs::host(host),
                        ..config.clone()
                    };
                    let (samples, _) = photographs::samples(&drawn, 3, config);
                    let place = format!("{augmentations:?}, {mean} bytes, {device} on the device, {host} here");
                    assert!(samples == expected, "{place}");
                }
            }
        }
    }
}

/// Pictures that are decoded at a half or less are staged as they are then, with edges between their pixels.
#[test]
fn samples_of_pictures_that_are_decoded_fast_are_the_same() {
    let drawn = photographs::Drawn::new();
    let preprocessor = Preprocessor::parse(r#"{"size": 12}"#).unwrap();
    for kind in [TransformKind::Train, TransformKind::Eval, TransformKind::Processor] {
        let transform = Transform::new(&preprocessor, kind).decoded(Decode::Fast);
        let config = LoaderConfig {
            transform: transform.clone(),
            ..photographs::config(kind, 2)
        };
        let (expected, _) = photographs::samples(&drawn, 2, config.clone());
        let exact = LoaderConfig {
            transform: Transform::new(&preprocessor, kind),
            ..config.clone()
        };
        assert!(
            photographs::samples(&drawn, 2, exact).0 != expected,
            "nothing was decoded smaller"
        );
        for mean in [1 << 16, 0] {
            let feed = feed_of(transform.staging_shape(6, mean, usize::MAX), 0);
            let config = LoaderConfig {
                feed: Some(feed),
                ..config.clone()
            };
            assert!(
                photographs::samples(&drawn, 2, config).0 == expected,
                "{kind:?}, {mean} bytes"
            );
        }
    }
}

#[test]
fn of_pictures_on_the_device_only_tables_are_copied() {
    let drawn = photographs::Drawn::new();
    let after = |epochs: u32, kept: usize| {
        let config = LoaderConfig {
            feed: Some(feed(1 << 16, kept)),
            ..photographs::config(TransformKind::Train, 2)
        };
        photographs::samples(&drawn, epochs, config).1
    };
    let (one, three) = (after(1, 1 << 20), after(3, 1 << 20));
    assert_eq!(
        three.bytes,
        one.bytes + 2 * drawn.bad_bytes(),
        "later epochs decode only what is damaged"
    );
    // What is in front of two batches; spans, and weights of at most 92 inputs of 32 outputs, for eleven pictures.
    let front = StagingShape::new(6, (32, 32), 0, 0).capacity() as u64;
    let tables = 11 * (8 * 64 + 2 * 32 * 16 * 4);
    assert!(
        three.copied - one.copied <= 2 * (2 * front + tables),
        "{one:?} {three:?}"
    );
    assert!(one.copied > 100_000 && after(3, 0).copied > 2 * (three.copied - one.copied));
}

/// A loader of one-pixel pictures with a feed.
fn loader(feed: &Arc<Feed>, sizes: &[usize], on_bad_image: OnBadImage, bad: fn(usize) -> Bad) -> Loader {
    let preprocessor = Preprocessor::parse(r#"{"size": 32}"#).unwrap();
    let config = LoaderConfig {
        transform: Transform::new(&preprocessor, TransformKind::Train),
        seed: 1,
        threads: 3,
        prefetch_batches: 2,
        on_bad_image,
        pictures: None,
        feed: Some(feed.clone()),
    };
    let drawn = Drawn {
        rows: 30,
        asked: Arc::default(),
        bad,
    };
    Loader::new(drawn, plan(sizes, 30).into_iter(), config).unwrap()
}

/// Row, label and value of a sample.
type Named = (u64, u32, f32);

fn named(batch: &Batch) -> Vec<Named> {
    assert_eq!(batch.pixels_bchw.dims(), [batch.samples.len(), 3, 32, 32]);
    let values = batch.pixels_bchw.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let first = values.chunks(3 * 32 * 32).map(|sample| {
        assert!(sample.iter().all(|value| *value == sample[0]));
        sample[0]
    });
    let names = batch.samples.iter().zip(&batch.labels);
    names
        .zip(first)
        .map(|((row, label), value)| (*row, *label, value))
        .collect()
}

/// The value of a picture whose pixels are all `row`, normalized with mean and deviation 1/2.
fn value(row: u64) -> f32 {
    (row as f32 / 255.0 - 0.5) / 0.5
}

#[test]
fn a_batch_stays_as_it_is_while_somebody_holds_it() {
    let feed = feed(0, 0);
    let mut loader = loader(&feed, &[5; 40], OnBadImage::Skip, |_| Bad::No);
    let mut held: Option<(Batch, Vec<Named>)> = None;
    let mut count = 0;
    while let Some(batch) = loader.next().unwrap() {
        let found = named(&batch);
        for (at, (row, label, x)) in found.iter().enumerate() {
            assert_eq!(*row, ((5 * count + at) * 7 % 30) as u64, "batch {count}");
            assert_eq!((*label, *x), (*row as u32 + 100, value(*row)), "batch {count}");
        }
        std::thread::sleep(Duration::from_millis(1)); // the others run ahead as far as they may
        assert_eq!(named(&batch), found);
        if let Some((before, found)) = held.replace((batch, found)) {
            assert_eq!(named(&before), found);
        }
        count += 1;
    }
    assert_eq!(count, 40);
    drop((held, loader));
    assert_eq!((lock(&feed.stagings).len(), lock(&feed.slots).len()), (2, 2));
}

#[test]
fn pictures_that_cannot_be_read_leave_no_gap() {
    let bad = |row: usize| match row {
        7 => Bad::Garbage,
        21 => Bad::NullCell,
        9 => Bad::Slow,
        _ => Bad::No,
    };
    let mut loader = loader(&feed(0, 0), &[3, 2, 1, 3], OnBadImage::Skip, bad);
    let mut batches = Vec::new();
    while let Some(batch) = loader.next().unwrap() {
        batches.push(named(&batch).iter().map(|(row, _, _)| *row).collect::<Vec<_>>());
        assert!(named(&batch).iter().all(|(row, _, x)| *x == value(*row)));
    }
    assert_eq!(batches, [vec![0, 14], vec![28], vec![5], vec![12, 19, 26]]);
    let rows: Vec<usize> = loader.bad_images().iter().map(|BadImage { row, .. }| *row).collect();
    assert_eq!(rows, [7, 21]);
}

#[test]
fn an_error_comes_in_its_batch_and_ends_everything() {
    for (bad, on_bad_image, words) in [
        (Bad::Garbage, OnBadImage::Error, "drawn row 21"),
        (Bad::BrokenShard, OnBadImage::Skip, "broken"),
        (Bad::Panic, OnBadImage::Skip, "row 21 is cursed"),
    ] {
        let trouble: fn(usize) -> Bad = match bad {
            Bad::Garbage => |row| if row == 21 { Bad::Garbage } else { Bad::No },
            Bad::BrokenShard => |row| if row == 21 { Bad::BrokenShard } else { Bad::No },
            _ => |row| if row == 21 { Bad::Panic } else { Bad::No },
        };
        let mut loader = loader(&feed(0, 0), &[2, 2, 2, 2], on_bad_image, trouble);
        assert_eq!(loader.next().unwrap().unwrap().samples, [0, 7]);
        let error = loader.next().err().expect("row 21 is in the second batch").to_string();
        assert!(error.contains(words), "{error}");
        assert!(loader.next().unwrap().is_none());
    }
}

#[test]
fn a_loader_ends_in_the_middle_and_its_feed_serves_the_next_one() {
    let feed = feed(0, 0);
    for taken in [0, 1, 2, 5] {
        let mut first = loader(&feed, &[4; 1000], OnBadImage::Skip, |_| Bad::No);
        let mut held = Vec::new();
        for _ in 0..taken {
            held.truncate(1); // as many as there are slots at most
            held.insert(0, first.next().unwrap().unwrap());
        }
        drop(first); // returns although somebody holds all the samples that there are
        drop(held);
        let mut second = loader(&feed, &[6, 6], OnBadImage::Skip, |_| Bad::No);
        let mut rows = 0;
        while let Some(batch) = second.next().unwrap() {
            rows += named(&batch).len();
        }
        assert_eq!(rows, 12, "after {taken} batches");
    }
}

#[test]
fn a_plan_without_samples_ends_at_once() {
    let feed = feed(0, 0);
    assert!(
        loader(&feed, &[], OnBadImage::Skip, |_| Bad::No)
            .next()
            .unwrap()
            .is_none()
    );
    let mut empty = loader(&feed, &[0, 2], OnBadImage::Skip, |_| Bad::No);
    assert_eq!(empty.next().unwrap().unwrap().samples.len(), 0);
    assert_eq!(empty.next().unwrap().unwrap().samples.len(), 2);
    assert!(empty.next().unwrap().is_none());
}
