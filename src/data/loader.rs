//! Batches of normalized samples, made ahead of the step by threads of their own.
//!
//! Work is handed out picture by picture, over several batches, so that no thread and no step waits for one slow picture.
//! Files are read ahead by further threads, so that none that decodes waits for a disk.
//! Batches come in the order of the plan. The number of threads changes nothing about what is in them.
//! What is read and in which order is decided by others (`Dataset`, `order`); here it is only carried out.

mod feed;
mod queue;
mod unfinished;
mod worker;

use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use candle_core::{DType, Device, Tensor};

use super::MicroBatch;
use super::pictures::PictureCache;
use super::transform::Transform;
use crate::error::{Error, Result};
use crate::ops::cast::sent;
use crate::recipe::OnBadImage;
pub use feed::{Feed, FeedShape};
use feed::{Feeder, Lent, Ready};
use queue::Queue;
use unfinished::{Contents, Finished};

/// Samples in the form that a model takes.
pub struct Batch {
    /// `[samples, 3, height, width]`: f32 on the CPU; or, of a loader with a feed, on its device in its format, and then only
    /// for as long as the batch lives.
    pub pixels_bchw: Tensor,
    pub labels: Vec<u32>,
    /// The labels on the feed's device; None without one, or if that is the CPU.
    pub labels_there: Option<Tensor>,
    /// Names of the draws, in most cases rows of the dataset; as many as pictures could be decoded.
    pub samples: Vec<u64>,
    pub epoch: u32,
    /// Where samples are to be mixed: with whom.
    pub partners: Option<Partners>,
    /// Where they are.
    pub mixture: Option<Mixture>,
    /// The memory of `pixels_bchw`, which goes back to the feed.
    pub(super) _lent: Option<Lent>,
}

impl Batch {
    /// The samples on `device`: as they are if they were made there, else a copy in f32.
    pub fn pixels_on(&self, device: &Device) -> Result<Tensor> {
        match self.pixels_bchw.device().same_device(device) {
            true => Ok(self.pixels_bchw.clone()),
            false => sent(&self.pixels_bchw, device, DType::F32),
        }
    }
}

/// Partners among the samples of a batch, by their places in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partners {
    /// The samples that count; the others are only partners.
    pub own: Range<usize>,
    /// Of each sample; None: there is none, or it could not be read.
    pub of: Vec<Option<usize>>,
}

/// What mixed samples have besides their label.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mixture {
    pub second_labels: Vec<u32>,
    /// Of the first label.
    pub shares: Vec<f32>,
}

/// What samples are made of: a dataset's rows.
pub trait Samples: Send + Sync + 'static {
    /// The file of the picture. `Error::Image`: this row has none that could be read; anything else ends the run.
    fn encoded(&self, row: usize) -> Result<Bytes>;
    fn label(&self, row: usize) -> u32;
    /// Where the row comes from, for messages.
    fn origin(&self, row: usize) -> String;
}

#[derive(Clone, Debug)]
pub struct LoaderConfig {
    pub transform: Transform,
    /// Of crops and flips.
    pub seed: u64,
    /// Threads that decode, at least one.
    pub threads: usize,
    /// Batches that may be in the making or ready, at least one; see [`prefetch_batches`].
    pub prefetch_batches: usize,
    pub on_bad_image: OnBadImage,
    /// Keeps decoded pictures; None: each is decoded whenever it is needed.
    pub pictures: Option<Arc<PictureCache>>,
    /// Makes samples on its device; for one loader at a time. None: they are made here.
    pub feed: Option<Arc<Feed>>,
}

/// Batches ahead: enough that every one of `threads` has pictures to decode while a batch waits to be taken.
pub fn prefetch_batches(threads: usize, batch: usize) -> usize {
    2 + (2 * threads).div_ceil(batch.max(1))
}

/// A picture that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadImage {
    pub row: usize,
    /// File and row.
    pub origin: String,
    pub cause: String,
}

/// Where time went since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoaderStatistics {
    /// Time that `next` waited for a batch.
    pub waited: Duration,
    /// Summed over all threads.
    pub decode: Duration,
    pub resample: Duration,
    pub images: u64,
    /// Of the encoded files that were read.
    pub bytes: u64,
    /// Copied to the feed's device.
    pub copied: u64,
    /// What that, and making samples there, took of the device's time, as far as it is known.
    pub copy: Duration,
    pub preprocess: Duration,
}

impl LoaderStatistics {
    fn add(&mut self, other: &LoaderStatistics) {
        self.waited += other.waited;
        self.decode += other.decode;
        self.resample += other.resample;
        self.images += other.images;
        self.bytes += other.bytes;
        self.copied += other.copied;
        self.copy += other.copy;
        self.preprocess += other.preprocess;
    }
}

/// What a thread does.
type Work = fn(&Queue, &dyn Samples, &LoaderConfig);

pub struct Loader {
    queue: Arc<Queue>,
    size: (usize, usize),
    threads: Vec<JoinHandle<()>>,
    feeder: Option<Feeder>,
}

impl Loader {
    /// Starts decoding at once. Error: the system refuses another thread.
    pub fn new(
        samples: impl Samples,
        micro_batches: impl Iterator<Item = MicroBatch> + Send + 'static,
        config: LoaderConfig,
    ) -> Result<Loader> {
        let refused = |what: String, e: std::io::Error| {
            Error::usage(
                format!("cannot start {what}: {e}"),
                "choose fewer threads with --dataloader-num-workers",
            )
        };
        let queue = Arc::new(Queue::new(
            Box::new(micro_batches),
            config.transform.sample_len(),
            config.prefetch_batches.max(1),
            config.feed.clone(),
        ));
        let mut loader = Loader {
            queue: queue.clone(),
            size: config.transform.size(),
            threads: Vec::new(),
            feeder: None,
        };
        if let Some(feed) = &config.feed {
            let values = *config.transform.normalization().values();
            let feeder = Feeder::start(feed.clone(), queue.clone(), values);
            loader.feeder = Some(feeder.map_err(|e| refused("the thread that feeds the device".to_owned(), e))?);
        }
        let samples: Arc<dyn Samples> = Arc::new(samples);
        let decoding = (0..config.threads.max(1)).map(|number| (format!("decode {number}"), worker::work as Work));
        let reading = (0..queue::READERS).map(|number| (format!("read {number}"), queue::read as Work));
        for (name, work) in decoding.chain(reading) {
            let (queue, samples, config) = (queue.clone(), samples.clone(), config.clone());
            let thread = std::thread::Builder::new()
                .name(name.clone())
                .spawn(move || work(&queue, &*samples, &config))
                .map_err(|e| refused(format!("the thread `{name}`"), e))?;
            loader.threads.push(thread);
        }
        Ok(loader)
    }

    /// The next batch; None behind the last one. It has fewer samples than planned, maybe none, where pictures were skipped.
    ///
    /// Errors: a picture that cannot be decoded (if that is fatal), a shard that cannot be read, a bug in a decoding
    /// thread. After an error there are no more batches.
    #[expect(
        clippy::should_implement_trait,
        reason = "an error ends the sequence, which an Iterator could not say"
    )]
    pub fn next(&mut self) -> Result<Option<Batch>> {
        let begun = Instant::now();
        let batch = match &self.feeder {
            Some(feeder) => feeder.next()?.map(Batch::there).transpose(),
            None => (self.queue.next()?.map(|finished| Batch::here(finished, self.size))).transpose(),
        };
        self.queue.book(&LoaderStatistics {
            waited: begun.elapsed(),
            ..LoaderStatistics::default()
        });
        batch
    }

    /// Pictures that were skipped so far, in the order of their rows.
    pub fn bad_images(&self) -> Vec<BadImage> {
        self.queue.bad_images()
    }

    pub fn statistics(&self) -> LoaderStatistics {
        self.queue.statistics()
    }
}

impl Batch {
    fn here(finished: Finished, (height, width): (usize, usize)) -> Result<Batch> {
        let Contents::Floats(values) = finished.contents else {
            unreachable!("without a feed samples are made here");
        };
        let shape = (finished.samples.len(), 3, height, width);
        Ok(Batch {
            pixels_bchw: Tensor::from_vec(values, shape, &Device::Cpu)?,
            labels: finished.labels,
            labels_there: None,
            samples: finished.samples,
            epoch: finished.epoch,
            partners: finished.partners,
            mixture: None,
            _lent: None,
        })
    }

    fn there(ready: Ready) -> Result<Batch> {
        ready.lent.admit()?;
        Ok(Batch {
            pixels_bchw: ready.lent.pixels(ready.samples.len())?,
            labels_there: ready.lent.labels(ready.labels.len())?,
            labels: ready.labels,
            samples: ready.samples,
            epoch: ready.epoch,
            partners: ready.partners,
            mixture: None,
            _lent: Some(ready.lent),
        })
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.queue.close();
        self.feeder = None;
        for thread in self.threads.drain(..) {
            // A panic was caught and reported by the worker itself.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
