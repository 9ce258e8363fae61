//! Samples that are made on the GPU are the CPU's, bit for bit in f32 and rounded in the other formats, wherever pictures are
//! kept; and so are runs.

use std::sync::Arc;

use bytes::Bytes;
use candle_core::{DType, Device, Tensor};
use dtrain::data::{
    Augmentations, DevicePictures, DeviceRoom, Feed, FeedShape, Loader, LoaderConfig, LoaderStatistics, MicroBatch,
    Preprocessor, Samples, Transform,
};
use dtrain::error::{Error, Result};
use dtrain::ops::cast::cast;
use dtrain::ops::intake::Intake;
use dtrain::ops::staging::StagingShape;
use dtrain::ops::storage::values;
use dtrain::recipe::{ColorJitter, Decode, ErasingMode, OnBadImage, RandAugment, TransformKind};
use dtrain::rng::{Purpose, Stream};

use super::place;

const ROWS: usize = 10;
const BATCH: usize = 5;

/// Pictures of noise, of different sizes; there is none in row 7.
#[derive(Clone)]
struct Noise;

impl Samples for Noise {
    fn encoded(&self, row: usize) -> Result<Bytes> {
        if row == 7 {
            return Err(Error::Image {
                at: self.origin(row),
                what: "nothing".into(),
            });
        }
        let (width, height) = (50 + 9 * row, 97 - 8 * row);
        let pitch = (3 * width).next_multiple_of(4);
        let mut bmp = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
        bmp.extend((width as u32).to_le_bytes());
        bmp.extend((height as u32).to_le_bytes());
        bmp.extend(b"\x01\0\x18\0");
        bmp.extend([0; 24]);
        let noise = Stream::new(row as u64, 0, 0, Purpose::Init(1));
        bmp.extend((0..(pitch * height) as u32).map(|at| noise.below(at, 256) as u8));
        Ok(bmp.into())
    }

    fn label(&self, row: usize) -> u32 {
        3 * row as u32
    }

    fn origin(&self, row: usize) -> String {
        format!("row {row}")
    }
}

fn config(kind: TransformKind, feed: Option<Arc<Feed>>) -> LoaderConfig {
    let preprocessor = Preprocessor::parse(r#"{"size": 32}"#).unwrap();
    LoaderConfig {
        transform: Transform::new(&preprocessor, kind),
        seed: 5,
        threads: 2,
        prefetch_batches: 2,
        on_bad_image: OnBadImage::Skip,
        pictures: None,
        feed,
    }
}

/// `bytes` for each picture of a batch, `kept` for those that stay.
fn feed(dtype: DType, bytes: usize, kept: usize) -> Arc<Feed> {
    feed_of(dtype, StagingShape::new(BATCH, (32, 32), bytes, usize::MAX), kept)
}

fn feed_of(dtype: DType, batch: StagingShape, kept: usize) -> Arc<Feed> {
    let intake = Arc::new(Intake::open(place::gpu(), batch.capacity(), kept).unwrap());
    let pictures = DevicePictures::new(ROWS, Arc::new(DeviceRoom::of(&intake)));
    let shape = FeedShape {
        batch,
        dtype,
        stagings: 2,
        slots: 2,
    };
    Arc::new(Feed::new(intake, place::gpu(), shape, (kept > 0).then_some(pictures)))
}

/// Rounded to the format, in f32.
fn rounded(samples: &[f32], dtype: DType) -> Vec<f32> {
    let there = super::there(&Tensor::new(samples, &Device::Cpu).unwrap(), dtype);
    values(&cast(&there, DType::F32).unwrap()).unwrap().to_vec()
}

/// All samples of so many epochs, in f32.
fn samples(epochs: u32, config: LoaderConfig) -> (Vec<f32>, LoaderStatistics) {
    let on_gpu = config.feed.is_some();
    let batch =
        |number: u32| MicroBatch::of_rows(number / 2, (0..ROWS as u32).filter(move |row| row % 2 == number % 2));
    let mut loader = Loader::new(Noise, (0..2 * epochs).map(batch), config).unwrap();
    let mut all = Vec::new();
    while let Some(batch) = loader.next().unwrap() {
        let pixels = batch
            .pixels_on(if on_gpu { place::gpu() } else { &Device::Cpu })
            .unwrap();
        assert_eq!(pixels.device().is_cuda(), on_gpu);
        assert_eq!(pixels.dims(), [batch.samples.len(), 3, 32, 32]);
        all.extend_from_slice(&values(&pixels).unwrap());
        let labels: Vec<u32> = batch.samples.iter().map(|row| 3 * *row as u32).collect();
        assert_eq!(batch.labels, labels);
        assert_eq!(batch.labels_there.is_some(), on_gpu);
    }
    assert_eq!(loader.bad_images().len(), 1);
    (all, loader.statistics())
}

#[test]
fn samples_are_the_cpus_whatever_is_kept() {
    for kind in [TransformKind::Train, TransformKind::Eval, TransformKind::Processor] {
        let (expected, _) = samples(3, config(kind, None));
        // Pictures as they are, most of them resized here; all stay, some, none.
        for (bytes, kept) in [
            (1 << 16, 1 << 20),
            (1 << 16, 40_000),
            (1 << 16, 0),
            (0, 0),
            (9000, 1 << 20),
        ] {
            let (ours, _) = samples(3, config(kind, Some(feed(DType::F32, bytes, kept))));
            let same = ours
                .iter()
                .map(|x| x.to_bits())
                .eq(expected.iter().map(|x| x.to_bits()));
            assert!(same, "{kind:?}, {bytes} bytes for a picture, {kept} kept");
        }
        for dtype in [DType::F16, DType::BF16] {
            let (ours, _) = samples(3, config(kind, Some(feed(dtype, 1 << 16, 60_000))));
            assert!(ours == rounded(&expected, dtype), "{kind:?} in {dtype:?}");
        }
    }
}

/// Augmented on the processor, erased on the GPU, decoded at a half or less.
#[test]
fn other_samples_are_the_cpus_too() {
    let augmented = Augmentations {
        rand_augment: RandAugment {
            num_ops: 2,
            ..RandAugment::default()
        },
        color_jitter: ColorJitter {
            saturation: 0.4,
            ..ColorJitter::default()
        },
        ..Augmentations::default()
    };
    let erased = |on: Augmentations, random_erasing_mode| Augmentations {
        random_erasing: 0.6,
        random_erasing_mode,
        ..on
    };
    for (on, decode, kept) in [
        (augmented, Decode::Exact, 0),
        (erased(augmented, ErasingMode::Rand), Decode::Exact, 0),
        (
            erased(Augmentations::default(), ErasingMode::Const),
            Decode::Exact,
            1 << 20,
        ),
        (
            erased(Augmentations::default(), ErasingMode::Pixel),
            Decode::Exact,
            60_000,
        ),
        (erased(Augmentations::default(), ErasingMode::Pixel), Decode::Fast, 0),
    ] {
        let preprocessor = Preprocessor::parse(r#"{"size": 32}"#).unwrap();
        let transform = Transform::new(&preprocessor, TransformKind::Train);
        let transform = transform.decoded(decode).augmented(on);
        let with = |feed| LoaderConfig {
            transform: transform.clone(),
            ..config(TransformKind::Train, feed)
        };
        let (expected, _) = samples(3, with(None));
        for dtype in [DType::F32, DType::F16] {
            let shape = transform.staging_shape(BATCH, 9000, usize::MAX);
            let (ours, _) = samples(3, with(Some(feed_of(dtype, shape, kept))));
            assert!(ours == rounded(&expected, dtype), "{on:?}, {decode:?}, {dtype:?}");
        }
    }
}

#[test]
fn of_pictures_that_stay_only_tables_are_copied() {
    let of = |epochs: u32, kept: usize| {
        let feed = feed(DType::F32, 1 << 16, kept);
        samples(epochs, config(TransformKind::Train, Some(feed))).1
    };
    let (one, two, four) = (of(1, 1 << 20), of(2, 1 << 20), of(4, 1 << 20));
    assert_eq!(four.bytes, one.bytes, "later epochs decode nothing");
    // What is in front of two batches; spans, and weights of at most four groups for each of 32 outputs, for nine pictures.
    let front = StagingShape::new(BATCH, (32, 32), 0, 0).capacity() as u64;
    let tables = 9 * (8 * 64 + 2 * 4 * 32 * 16);
    assert!(four.copied - two.copied <= 2 * (2 * front + tables), "{two:?} {four:?}");
    let pictures: u64 = (0..ROWS as u64)
        .filter(|row| *row != 7)
        .map(|row| 3 * (50 + 9 * row) * (97 - 8 * row))
        .sum();
    assert!(
        one.copied > pictures && one.copied > 3 * (four.copied - two.copied) / 2,
        "{one:?}"
    );
}

/// These tests once more, on streams that do their work as late as they may, or with the feed's stream ahead of the others: a
/// missing wait gives other samples.
#[test]
fn the_order_is_that_of_events_alone() {
    if place::is_real() || std::env::var_os("DTRAIN_STAND_IN_ORDER").is_some() {
        return;
    }
    for order in ["late", "mixed"] {
        let mut tests = std::process::Command::new(std::env::current_exe().unwrap());
        tests
            .args(["feed::", "--test-threads", "1"])
            .env("DTRAIN_STAND_IN_ORDER", order);
        let output = tests.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("6 passed"), "{order}:\n{text}");
    }
}

/// Samples that are read late, long after their batch is gone: the GPU keeps the order, not the host.
#[test]
fn what_was_asked_of_samples_comes_before_the_next_ones() {
    let feed = feed(DType::F16, 1 << 16, 0);
    let (expected, _) = samples(3, config(TransformKind::Train, Some(feed.clone())));
    let batch =
        |number: u32| MicroBatch::of_rows(number / 2, (0..ROWS as u32).filter(move |row| row % 2 == number % 2));
    let mut loader = Loader::new(Noise, (0..6).map(batch), config(TransformKind::Train, Some(feed))).unwrap();
    let mut copies = Vec::new();
    while let Some(batch) = loader.next().unwrap() {
        copies.push(cast(&batch.pixels_bchw, DType::F32).unwrap());
    }
    let found: Vec<f32> = copies.iter().flat_map(|copy| values(copy).unwrap().to_vec()).collect();
    assert!(found == expected);
}

#[test]
fn a_loader_ends_in_the_middle_and_its_feed_serves_the_next_one() {
    let feed = feed(DType::F32, 0, 0);
    let endless = |number: u32| MicroBatch::of_rows(number, 0..BATCH as u32);
    let (expected, _) = samples(1, config(TransformKind::Train, None));
    for taken in 0..4 {
        let mut loader = Loader::new(
            Noise,
            (0..).map(endless),
            config(TransformKind::Train, Some(feed.clone())),
        )
        .unwrap();
        let mut held = Vec::new();
        for _ in 0..taken {
            held.truncate(1);
            held.insert(0, loader.next().unwrap().unwrap());
        }
        drop(loader);
        drop(held);
        let (ours, _) = samples(1, config(TransformKind::Train, Some(feed.clone())));
        assert!(ours == expected, "after {taken} batches");
    }
}
