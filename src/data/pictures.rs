//! Decoded pictures kept in memory from epoch to epoch, so that only the first time a picture is decoded.
//!
//! Kept is the whole upright picture as u8, from which any later crop is resized; the samples are the same with and without.
//! Pictures are kept as they come until the budget is used up; the others are decoded each time, as without.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::decode::Decoder;
use super::loader::Samples;
use crate::ops::jpeg::Rect;
use crate::ops::resample::{Planes, ROW_SLACK};

/// Pictures of a dataset by row; many threads use it at once.
pub struct PictureCache {
    slots: Vec<OnceLock<Planes>>,
    /// Bytes that may still be used.
    left: Arc<AtomicUsize>,
}

impl PictureCache {
    /// Of a dataset of `rows` rows; `left`: bytes that its pictures, and those of other caches, may still take.
    pub fn new(rows: usize, left: Arc<AtomicUsize>) -> PictureCache {
        PictureCache {
            slots: (0..rows).map(|_| OnceLock::new()).collect(),
            left,
        }
    }

    pub fn get(&self, row: usize) -> Option<&Planes> {
        self.slots.get(row)?.get()
    }

    /// Whether there is room for a picture of this size, which then is set aside.
    pub(super) fn reserve(&self, width: usize, height: usize) -> bool {
        let bytes = kept_bytes(width, height);
        let less = |left: usize| left.checked_sub(bytes);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }

    /// Gives room back that `reserve` set aside for a picture which then could not be decoded.
    pub(super) fn release(&self, width: usize, height: usize) {
        self.left.fetch_add(kept_bytes(width, height), Ordering::Relaxed);
    }

    /// Keeps a copy of the whole picture of a row, for which room was set aside.
    pub(super) fn keep(&self, row: usize, whole: &Planes) {
        let taken = self.slots[row].set(whole.to_owned_exactly()).is_ok();
        if !taken {
            // Another thread was faster.
            self.release(whole.columns.len(), whole.rows.len());
        }
    }
}

impl fmt::Debug for PictureCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PictureCache({} rows, {:?} bytes left)", self.slots.len(), self.left)
    }
}

fn kept_bytes(width: usize, height: usize) -> usize {
    (width + ROW_SLACK).next_multiple_of(64) * height * 3
}

/// Rows whose sizes are looked at for an estimate.
const LOOKED_AT: usize = 16;

/// Widths and heights of a few of a dataset's pictures, from which it is judged how much memory they take.
pub struct PictureSizes(Vec<(usize, usize)>);

impl PictureSizes {
    /// Of a few of the first `rows` rows.
    pub fn look(samples: &dyn Samples, rows: usize) -> PictureSizes {
        let Ok(mut decoder) = Decoder::new() else {
            return PictureSizes(Vec::new());
        };
        let step = rows.div_ceil(LOOKED_AT).max(1);
        let size = |row: usize| {
            let mut size = None;
            let encoded = samples.encoded(row).ok()?;
            let corner = |width: usize, height: usize| {
                size = Some((width, height));
                Rect::whole(1, 1)
            };
            decoder.region(&encoded, corner).ok()?;
            size
        };
        PictureSizes((0..rows).step_by(step).filter_map(size).collect())
    }

    /// Bytes of a picture on average, if one of a width and height takes `bytes`. None: no picture was readable.
    pub fn mean(&self, bytes: impl Fn(usize, usize) -> usize) -> Option<usize> {
        let sum: usize = self.0.iter().map(|&(width, height)| bytes(width, height)).sum();
        sum.checked_div(self.0.len())
    }

    /// Bytes that so many pictures would take on the host.
    pub fn kept_bytes(&self, rows: usize) -> Option<usize> {
        Some(self.mean(kept_bytes)?.saturating_mul(rows))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::data::loader::{Loader, LoaderConfig, LoaderStatistics};
    use crate::data::{Augmentations, MicroBatch, Preprocessor, Transform};
    use crate::error::Result;
    use crate::recipe::{ColorJitter, ErasingMode, OnBadImage, RandAugment, TransformKind};

    pub const ROWS: usize = 12;

    /// Photographs of different sizes; the last row is damaged.
    #[derive(Clone)]
    pub struct Drawn(Vec<Bytes>);

    impl Drawn {
        pub fn new() -> Drawn {
            let file = |row: usize| -> Bytes {
                let (width, height) = (60 + 7 * row, 90 - 5 * row);
                let value = |at: usize| ((at / 3 % width) * (2 + row) + at / 3 / width * 5 + at * at % 31) as u8;
                let pixels: Vec<u8> = (0..width * height * 3).map(value).collect();
                let image = turbojpeg::Image {
                    pixels: pixels.as_slice(),
                    width,
                    pitch: width * 3,
                    height,
                    format: turbojpeg::PixelFormat::RGB,
                };
                let jpeg = turbojpeg::compress(image, 85, turbojpeg::Subsamp::Sub2x2).unwrap();
                let end = if row == ROWS - 1 { jpeg.len() / 2 } else { jpeg.len() };
                Bytes::copy_from_slice(&jpeg[..end])
            };
            Drawn((0..ROWS).map(file).collect())
        }

        /// Of the damaged file.
        pub fn bad_bytes(&self) -> u64 {
            self.0[ROWS - 1].len() as u64
        }

        pub fn bytes(&self) -> u64 {
            self.0.iter().map(|file| file.len() as u64).sum()
        }
    }

    impl Samples for Drawn {
        fn encoded(&self, row: usize) -> Result<Bytes> {
            Ok(self.0[row].clone())
        }

        fn label(&self, row: usize) -> u32 {
            row as u32
        }

        fn origin(&self, row: usize) -> String {
            format!("row {row}")
        }
    }

    /// All samples of so many epochs as bits, and what the loader says of it.
    pub fn samples(drawn: &Drawn, epochs: u32, config: LoaderConfig) -> (Vec<u32>, LoaderStatistics) {
        let batch =
            |number: u32| MicroBatch::of_rows(number / 2, (0..ROWS as u32).filter(move |row| row % 2 == number % 2));
        let mut loader = Loader::new(drawn.clone(), (0..2 * epochs).map(batch), config).unwrap();
        let mut bits = Vec::new();
        while let Some(batch) = loader.next().unwrap() {
            let values = batch.pixels_bchw.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            bits.extend(values.into_iter().map(f32::to_bits));
        }
        assert_eq!(loader.bad_images().len(), 1);
        (bits, loader.statistics())
    }

    pub fn config(kind: TransformKind, threads: usize) -> LoaderConfig {
        let preprocessor = Preprocessor::parse(r#"{"size": 32}"#).unwrap();
        LoaderConfig {
            transform: Transform::new(&preprocessor, kind),
            seed: 5,
            threads,
            prefetch_batches: 1,
            on_bad_image: OnBadImage::Skip,
            pictures: None,
            feed: None,
        }
    }

    /// All of them, about half of the samples erased.
    pub fn augmentations(random_erasing_mode: ErasingMode) -> Augmentations {
        Augmentations {
            rand_augment: RandAugment {
                num_ops: 3,
                ..RandAugment::default()
            },
            color_jitter: ColorJitter {
                brightness: 0.4,
                contrast: 0.4,
                saturation: 0.4,
                hue: 0.1,
            },
            random_erasing: 0.5,
            random_erasing_mode,
        }
    }

    pub fn host(budget: usize) -> Option<Arc<PictureCache>> {
        Some(Arc::new(PictureCache::new(ROWS, Arc::new(AtomicUsize::new(budget)))))
    }

    /// All samples of three epochs, and how many bytes of files were read.
    fn three_epochs(drawn: &Drawn, transform: &Transform, threads: usize, budget: Option<usize>) -> (Vec<u32>, u64) {
        let config = LoaderConfig {
            transform: transform.clone(),
            pictures: budget.and_then(host),
            ..config(TransformKind::Train, threads)
        };
        let (bits, statistics) = samples(drawn, 3, config);
        (bits, statistics.bytes)
    }

    #[test]
    fn samples_are_the_same_with_and_without_kept_pictures() {
        let drawn = Drawn::new();
        let bad = drawn.bad_bytes();
        let preprocessor = Preprocessor::parse(r#"{"size": 32}"#).unwrap();
        let plain = |kind| Transform::new(&preprocessor, kind);
        let all = augmentations(ErasingMode::Pixel);
        for transform in [
            plain(TransformKind::Train),
            plain(TransformKind::Eval),
            plain(TransformKind::Train).augmented(all),
            plain(TransformKind::Processor).augmented(all),
        ] {
            let (expected, read) = three_epochs(&drawn, &transform, 1, None);
            assert_eq!(read, 3 * drawn.bytes());
            for threads in [1, 3] {
                // Room for all of them, for some, for none.
                for (budget, room) in [(usize::MAX, "all"), (100_000, "some"), (0, "none")] {
                    let (samples, read) = three_epochs(&drawn, &transform, threads, Some(budget));
                    assert!(samples == expected, "{threads} threads, room for {room}");
                    match room {
                        "all" => assert_eq!(read, drawn.bytes() + 2 * bad, "later epochs read only what is damaged"),
                        "some" => assert!(read > drawn.bytes() + 2 * bad && read < 3 * drawn.bytes(), "{read}"),
                        _ => assert_eq!(read, 3 * drawn.bytes()),
                    }
                }
            }
        }
    }

    #[test]
    fn the_estimate_is_about_what_is_kept() {
        let drawn = Drawn::new();
        let (mut kept, left) = (0, Arc::new(AtomicUsize::new(1 << 40)));
        let cache = PictureCache::new(ROWS, left.clone());
        for row in 0..ROWS {
            assert!(cache.reserve(60 + 7 * row, 90 - 5 * row));
            kept = (1 << 40) - left.load(Ordering::Relaxed);
        }
        let estimate = PictureSizes::look(&drawn, ROWS).kept_bytes(ROWS).unwrap();
        assert!(estimate.abs_diff(kept) < kept / 10, "{estimate} for {kept}");
        let unreadable = Drawn(vec![Bytes::new(); 3]);
        assert_eq!(PictureSizes::look(&unreadable, 3).kept_bytes(3), None);
    }
}
