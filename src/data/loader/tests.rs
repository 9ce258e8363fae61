//! Batches are whole, in order and the same whatever the number of threads; pictures that cannot be read are named.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::*;
use crate::data::{Augmentations, Preprocessor};
use crate::ops::counted::asked;
use crate::recipe::{ColorJitter, RandAugment, TransformKind};

/// BMP pictures of one colour, drawn when they are asked for.
pub(super) struct Drawn {
    pub rows: usize,
    pub asked: Arc<AtomicUsize>,
    pub bad: fn(usize) -> Bad,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Bad {
    No,
    Garbage,
    NullCell,
    BrokenShard,
    Panic,
    Slow,
}

impl Samples for Drawn {
    fn encoded(&self, row: usize) -> Result<Bytes> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        assert!(row < self.rows);
        match (self.bad)(row) {
            Bad::No => {}
            Bad::Garbage => return Ok(Bytes::from_static(b"\xff\xd8\xff no picture")),
            Bad::NullCell => {
                return Err(Error::Image {
                    at: self.origin(row),
                    what: "no bytes".into(),
                });
            }
            Bad::BrokenShard => return Err(Error::dataset("shard".as_ref(), "broken", "mend it")),
            Bad::Panic => panic!("row {row} is cursed"),
            Bad::Slow => std::thread::sleep(Duration::from_millis(30)),
        }
        let mut bmp = b"BM\x3a\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\x18\0".to_vec();
        bmp.extend([0; 24]);
        bmp.extend([row as u8, row as u8, row as u8, 0]);
        Ok(bmp.into())
    }

    fn label(&self, row: usize) -> u32 {
        row as u32 + 100
    }

    fn origin(&self, row: usize) -> String {
        format!("drawn row {row}")
    }
}

pub(super) fn plan(sizes: &[usize], rows: usize) -> Vec<MicroBatch> {
    let mut next = 0;
    let micro_batch = |&size: &usize| {
        let rows = (next..next + size).map(|row| (row * 7 % rows) as u32);
        next += size;
        MicroBatch::of_rows(3, rows)
    };
    sizes.iter().map(micro_batch).collect()
}

fn loader(rows: usize, sizes: &[usize], threads: usize, on_bad_image: OnBadImage, bad: fn(usize) -> Bad) -> Loader {
    let preprocessor = Preprocessor::parse(r#"{"size": 4}"#).unwrap();
    let config = LoaderConfig {
        transform: Transform::new(&preprocessor, TransformKind::Train),
        seed: 1,
        threads,
        prefetch_batches: 2,
        on_bad_image,
        pictures: None,
        feed: None,
    };
    let drawn = Drawn {
        rows,
        asked: Arc::default(),
        bad,
    };
    Loader::new(drawn, plan(sizes, rows).into_iter(), config).unwrap()
}

/// Row, label and value of a sample.
type Named = (u64, u32, f32);

/// Batch by batch.
fn all(mut loader: Loader) -> (Vec<Vec<Named>>, Vec<BadImage>) {
    let mut batches = Vec::new();
    while let Some(batch) = loader.next().unwrap() {
        assert_eq!(batch.epoch, 3);
        assert_eq!(batch.pixels_bchw.dims(), [batch.samples.len(), 3, 4, 4]);
        let values = batch.pixels_bchw.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let first = values.chunks(48).map(|sample| {
            assert!(sample.iter().all(|value| *value == sample[0]));
            sample[0]
        });
        let named = batch.samples.into_iter().zip(batch.labels).zip(first);
        batches.push(named.map(|((row, label), value)| (row, label, value)).collect());
    }
    (batches, loader.bad_images())
}

#[test]
fn batches_come_in_the_order_of_the_plan_whoever_decodes() {
    let sizes = [5, 1, 0, 8, 3, 0];
    let expected: Vec<Vec<Named>> = plan(&sizes, 40)
        .into_iter()
        .map(|batch| {
            let named = |row: u32| (row as u64, row + 100, (row as f32 / 255.0 - 0.5) / 0.5);
            batch.draws.into_iter().map(|draw| named(draw.row)).collect()
        })
        .collect();
    let slow = |row: usize| if row.is_multiple_of(11) { Bad::Slow } else { Bad::No };
    for threads in [1, 2, 7] {
        let (got, bad) = all(loader(40, &sizes, threads, OnBadImage::Skip, slow));
        assert_eq!(got, expected, "{threads} threads");
        assert!(bad.is_empty());
    }
}

#[test]
fn bad_pictures_are_left_out_and_named() {
    let bad = |row: usize| match row {
        0 | 7 => Bad::Garbage,
        14 => Bad::NullCell,
        _ => Bad::No,
    };
    let (batches, bad) = all(loader(30, &[2, 4, 3], 2, OnBadImage::Skip, bad));
    let rows: Vec<Vec<u64>> = batches
        .iter()
        .map(|b| b.iter().map(|(row, ..)| *row).collect())
        .collect();
    assert_eq!(rows, [vec![], vec![21, 28, 5], vec![12, 19, 26]]);
    // What is left in a batch has moved up with its values.
    assert_eq!(batches[1][0], (21, 121, (21.0 / 255.0 - 0.5) / 0.5));
    let named: Vec<(usize, &str)> = bad.iter().map(|bad| (bad.row, bad.origin.as_str())).collect();
    assert_eq!(named, [(0, "drawn row 0"), (7, "drawn row 7"), (14, "drawn row 14")]);
    assert!(bad[0].cause.contains("truncated"), "{}", bad[0].cause);
    assert_eq!(bad[2].cause, "no bytes");
}

/// Rows 0, 7, 14, …; the first is only a partner, the last has none, and the partner of 21 cannot be read.
#[test]
fn partners_are_found_among_what_could_be_read() {
    let bad = |row: usize| if row == 14 { Bad::Garbage } else { Bad::No };
    let preprocessor = Preprocessor::parse(r#"{"size": 4}"#).unwrap();
    let config = LoaderConfig {
        transform: Transform::new(&preprocessor, TransformKind::Train),
        seed: 1,
        threads: 2,
        prefetch_batches: 2,
        on_bad_image: OnBadImage::Skip,
        pictures: None,
        feed: None,
    };
    let drawn = Drawn {
        rows: 40,
        asked: Arc::default(),
        bad,
    };
    let batch = MicroBatch {
        own: Some(1..5),
        ..MicroBatch::of_rows(3, [0, 7, 14, 21, 28])
    };
    let mut loader = Loader::new(drawn, [batch].into_iter(), config).unwrap();
    let batch = loader.next().unwrap().unwrap();
    assert_eq!(batch.samples, [0, 7, 21, 28]);
    let expected = Partners {
        own: 1..4,
        of: vec![Some(1), Some(0), None, None],
    };
    assert_eq!(batch.partners, Some(expected));
}

#[test]
fn fatal_trouble_ends_the_run_in_its_batch() {
    for (trouble, on_bad_image, words) in [
        (
            (|row| if row == 21 { Bad::Garbage } else { Bad::No }) as fn(usize) -> Bad,
            OnBadImage::Error,
            "drawn row 21",
        ),
        (
            |row| if row == 21 { Bad::BrokenShard } else { Bad::No },
            OnBadImage::Skip,
            "broken",
        ),
        (
            |row| if row == 21 { Bad::Panic } else { Bad::No },
            OnBadImage::Skip,
            "row 21 is cursed",
        ),
    ] {
        let mut loader = loader(30, &[2, 2, 2, 2], 2, on_bad_image, trouble);
        assert_eq!(loader.next().unwrap().unwrap().samples, [0, 7]);
        let error = loader.next().err().expect("row 21 is in the second batch").to_string();
        assert!(error.contains(words), "{error}");
        assert!(loader.next().unwrap().is_none());
    }
}

#[test]
fn a_plan_that_panics_is_an_error_too() {
    let preprocessor = Preprocessor::parse(r#"{"size": 4}"#).unwrap();
    let config = LoaderConfig {
        transform: Transform::new(&preprocessor, TransformKind::Eval),
        seed: 1,
        threads: 3,
        prefetch_batches: 2,
        on_bad_image: OnBadImage::Skip,
        pictures: None,
        feed: None,
    };
    let drawn = Drawn {
        rows: 1,
        asked: Arc::default(),
        bad: |_| Bad::No,
    };
    let plan = std::iter::from_fn(|| -> Option<MicroBatch> { panic!("no plan") });
    let mut loader = Loader::new(drawn, plan, config).unwrap();
    let error = loader.next().err().expect("there is no plan").to_string();
    assert!(error.contains("no plan"), "{error}");
}

#[test]
fn no_more_is_decoded_ahead_than_allowed_and_dropping_ends_everything() {
    let mut loader = loader(30, &[3; 1000], 2, OnBadImage::Skip, |_| Bad::No);
    loader.next().unwrap();
    let start = Instant::now();
    // One batch is out, two may be in the making.
    while loader.statistics().images < 9 && start.elapsed() < Duration::from_secs(20) {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(20));
    let statistics = loader.statistics();
    assert_eq!((statistics.images, statistics.bytes), (9, 9 * 58));
    drop(loader); // returns although the threads are waiting
}

/// JPEG files in memory.
struct Files(Vec<Bytes>);

impl Samples for Files {
    fn encoded(&self, row: usize) -> Result<Bytes> {
        Ok(self.0[row % self.0.len()].clone())
    }

    fn label(&self, _row: usize) -> u32 {
        0
    }

    fn origin(&self, row: usize) -> String {
        row.to_string()
    }
}

/// A JPEG file of this size.
fn jpeg(width: usize, height: usize) -> Bytes {
    let pixels: Vec<u8> = (0..3 * width * height).map(|at| (at * at / 7 % 251) as u8).collect();
    let image = turbojpeg::Image {
        pixels: &pixels[..],
        width,
        pitch: 3 * width,
        height,
        format: turbojpeg::PixelFormat::RGB,
    };
    turbojpeg::compress(image, 90, turbojpeg::Subsamp::Sub2x2)
        .unwrap()
        .to_vec()
        .into()
}

/// How often a thread asks for memory while it makes some batches of `size` samples each.
fn asked_for_batches(size: usize, transform: &Transform) -> u64 {
    const BATCHES: usize = 4;
    let files = Files(
        [(300, 200), (199, 260), (64, 48), (300, 260)]
            .map(|(w, h)| jpeg(w, h))
            .to_vec(),
    );
    let config = LoaderConfig {
        transform: transform.clone(),
        seed: 1,
        threads: 1,
        prefetch_batches: BATCHES + 1,
        on_bad_image: OnBadImage::Error,
        pictures: None,
        feed: None,
    };
    let plan = plan(&[size; BATCHES], 1000).into_iter();
    let queue = Queue::new(Box::new(plan), transform.sample_len(), BATCHES + 1, None);
    let before = asked();
    worker::work(&queue, &files, &config);
    let count = asked() - before;
    for _ in 0..BATCHES {
        assert_eq!(queue.next().unwrap().unwrap().labels.len(), size);
    }
    count
}

/// Working memory grows with the first pictures, here within 64 samples; further ones ask for none.
#[test]
fn no_memory_is_asked_for_by_the_picture() {
    let preprocessor = Preprocessor::parse(r#"{"size": 32}"#).unwrap();
    let plain = Transform::new(&preprocessor, TransformKind::Train);
    let augmented = plain.clone().augmented(Augmentations {
        rand_augment: RandAugment {
            num_ops: 2,
            ..RandAugment::default()
        },
        color_jitter: ColorJitter {
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.4,
            hue: 0.1,
        },
        random_erasing: 0.5,
        ..Augmentations::default()
    });
    for transform in [&plain, &plain.clone().decoded(crate::recipe::Decode::Fast), &augmented] {
        let (few, many) = (asked_for_batches(64, transform), asked_for_batches(256, transform));
        let is_plain = transform.is_a_cut();
        assert!(
            many <= few + 8,
            "{few} times for 256 samples, {many} for 1024; a plain cut: {is_plain}"
        );
    }
}
