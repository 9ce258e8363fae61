//! How pictures are supplied: on which device samples are made, and which decoded pictures stay in memory from epoch to epoch
//! (`--image-cache`).
//!
//! Each rank decides for itself, and leaves the others on its node and its GPU their share: samples are the same wherever they
//! are made and with or without kept pictures.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use candle_core::{DType, Device};

use crate::collective::Collective;
use crate::data::{
    DevicePictures, DeviceRoom, Feed, FeedShape, PictureCache, PictureSizes, Samples, Transform, kept_bytes,
    usable_memory,
};
use crate::error::Result;
use crate::ops::device::free_bytes;
use crate::ops::intake::Intake;
use crate::ops::staging::StagingShape;
use crate::recipe::ImageCache;

/// What a loader is given; None: pictures are kept nowhere, samples are made on the CPU.
#[derive(Clone, Default)]
pub struct Supplied {
    pub pictures: Option<Arc<PictureCache>>,
    pub feed: Option<Arc<Feed>>,
    /// Bytes set aside for them on the GPU.
    on_device: usize,
}

impl Supplied {
    /// Where pictures stay, for people; None where they do not, or where that is the usual thing.
    pub fn told(&self) -> Option<String> {
        let gigabytes = self.on_device as f64 / 1e9;
        let here = if self.pictures.is_some() {
            ", others in the host's"
        } else {
            ""
        };
        (self.on_device > 0)
            .then(|| format!("stay in the GPU's memory once they are decoded ({gigabytes:.2} GB are set aside){here}"))
    }
}

/// Where samples are made, and what memory there is for it.
pub struct Terms<'a> {
    pub device: &'a Device,
    pub cache: ImageCache,
    /// Bytes that were named for kept pictures, on the device and on the host (`--image-cache-gb`).
    pub named: Option<usize>,
    /// Bytes that the rank itself wants of its GPU, and ranks that compute there.
    pub needed: usize,
    pub ranks_of_device: usize,
}

/// Samples that a loader is for.
pub struct Wanted<'a> {
    /// For people: `training`.
    pub name: &'static str,
    pub samples: &'a dyn Samples,
    /// How many there are.
    pub count: usize,
    pub transform: &'a Transform,
    /// Most samples of a batch, what they are made in, and batches that are in the making at a time.
    pub batch: usize,
    pub dtype: DType,
    pub batches: usize,
    /// How many different rows this rank will read, and whether it reads them again so often that keeping pays off.
    pub rows: usize,
    pub again: bool,
}

/// The part of the host's usable memory that the ranks of a node take together, and of the GPU's free memory that is left
/// when the run has what it needs, if the recipe names no figure.
const PART: usize = 4;
const DEVICE_PART: (usize, usize) = (3, 4);
/// What is taken beyond an estimate, since it is made of few pictures.
const MARGIN: (usize, usize) = (21, 20);
/// CUDA itself, its libraries' kernels, fragments.
const OF_CUDA: usize = 512 << 20;
/// Bytes of a batch on its way to the device: pictures that need more are resized here.
const MOST_STAGED: usize = 256 << 20;
/// Batches of samples on the device: one in use, one ready, one in the making.
const SLOTS: usize = 3;

/// Where the pictures of a dataset are to be kept.
#[derive(Clone, Copy, Default)]
struct Choice {
    host: bool,
    /// Bytes to set aside on the device.
    device: usize,
    on_device: bool,
}

/// Decides for all loaders of a rank; the first ones come first where memory is short. Every rank must call it.
/// Error: the GPU has no room for what was asked.
pub fn supply(terms: &Terms, all: &[Wanted<'_>], collective: &dyn Collective) -> Result<Vec<Supplied>> {
    let on_cpu = terms.device.is_cpu();
    let host = terms
        .named
        .unwrap_or_else(|| usable_memory().unwrap_or(0) / PART / collective.local().world);
    let device = match (on_cpu, terms.named) {
        (true, _) => 0,
        (false, Some(bytes)) => bytes,
        (false, None) => free_share(terms, collective)?,
    };
    let sizes: Vec<PictureSizes> = match terms.cache {
        ImageCache::Host | ImageCache::None if on_cpu => Vec::new(),
        _ => all
            .iter()
            .map(|wanted| PictureSizes::look(wanted.samples, wanted.rows))
            .collect(),
    };
    let mut left = (host, device);
    let choices: Vec<Choice> = all
        .iter()
        .enumerate()
        .map(|(at, wanted)| {
            // Whether a picture found room must not show in its samples, and what is kept is exact.
            let cache = match wanted.transform.is_exact() {
                true => terms.cache,
                false => ImageCache::None,
            };
            choose(cache, wanted, sizes.get(at), on_cpu, &mut left)
        })
        .collect();
    let budget = Arc::new(AtomicUsize::new(host));
    let caches = all.iter().zip(&choices).map(|(wanted, choice)| {
        let cache = || Arc::new(PictureCache::new(wanted.count, budget.clone()));
        choice.host.then(cache)
    });
    let mut supplied: Vec<Supplied> = caches
        .map(|pictures| Supplied {
            pictures,
            ..Supplied::default()
        })
        .collect();
    if !on_cpu {
        give_feeds(terms.device, all, &sizes, &choices, &mut supplied)?;
    }
    Ok(supplied)
}

/// A rank's part of the GPU's memory that nobody needs for anything else.
fn free_share(terms: &Terms, collective: &dyn Collective) -> Result<usize> {
    // All ranks of a GPU have their models there by now, and none takes more before the others have looked.
    collective.barrier()?;
    let (free, _) = free_bytes(terms.device)?;
    collective.barrier()?;
    let mine = free / terms.ranks_of_device;
    Ok(mine.saturating_sub(terms.needed + OF_CUDA) / DEVICE_PART.1 * DEVICE_PART.0)
}

/// Takes what it wants from what is left on host and device.
fn choose(
    cache: ImageCache,
    wanted: &Wanted,
    sizes: Option<&PictureSizes>,
    on_cpu: bool,
    left: &mut (usize, usize),
) -> Choice {
    let may_stay = !on_cpu && wanted.transform.is_a_cut();
    let bytes = |of: fn(usize, usize) -> usize| {
        let mean = sizes.and_then(|sizes| sizes.mean(of));
        mean.map_or(usize::MAX, |mean| mean.saturating_mul(wanted.rows))
    };
    let on_device = bytes(kept_bytes) / MARGIN.1 * MARGIN.0;
    let none = Choice::default();
    let choice = match cache {
        ImageCache::None => none,
        ImageCache::Host => Choice { host: true, ..none },
        ImageCache::Device => Choice {
            host: true,
            device: if may_stay { on_device.min(left.1) } else { 0 },
            on_device: may_stay,
        },
        ImageCache::Auto if !wanted.again => none,
        ImageCache::Auto if may_stay && on_device <= left.1 => Choice {
            device: on_device,
            on_device: true,
            ..none
        },
        ImageCache::Auto => {
            let needed = sizes.and_then(|sizes| sizes.kept_bytes(wanted.rows));
            match needed.and_then(|needed| left.0.checked_sub(needed)) {
                Some(rest) => {
                    left.0 = rest;
                    Choice { host: true, ..none }
                }
                None => none,
            }
        }
    };
    left.1 -= choice.device;
    choice
}

/// Samples are made on the GPU.
fn give_feeds(
    device: &Device,
    all: &[Wanted],
    sizes: &[PictureSizes],
    choices: &[Choice],
    supplied: &mut [Supplied],
) -> Result<()> {
    let shapes = all.iter().zip(sizes).map(|(wanted, sizes)| {
        let mean = sizes.mean(kept_bytes).unwrap_or(0);
        wanted.transform.staging_shape(wanted.batch, mean, MOST_STAGED)
    });
    let shapes: Vec<StagingShape> = shapes.collect();
    let landing = shapes.iter().map(StagingShape::capacity).max().unwrap_or(0);
    let kept = choices.iter().map(|choice| choice.device).sum::<usize>();
    let intake = Intake::open(device, landing, kept).map_err(|error| match kept {
        0 => error.wanted_by(|| "bringing pictures to it".to_owned()),
        _ => error.wanted_by(|| "keeping decoded pictures on it (--image-cache)".to_owned()),
    })?;
    let room = Arc::new(DeviceRoom::of(&intake));
    let intake = Arc::new(intake);
    for (at, supplied) in supplied.iter_mut().enumerate() {
        let (wanted, choice) = (&all[at], choices[at]);
        let shape = FeedShape {
            batch: shapes[at],
            dtype: wanted.dtype,
            stagings: wanted.batches,
            slots: SLOTS,
        };
        let pictures = || DevicePictures::new(wanted.count, room.clone());
        let pictures = choice.on_device.then(pictures);
        supplied.on_device = choice.device;
        supplied.feed = Some(Arc::new(Feed::new(intake.clone(), device, shape, pictures)));
    }
    Ok(())
}
