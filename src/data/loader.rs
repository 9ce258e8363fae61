//! Batches of normalized samples, made ahead of the step by threads of their own.
//!
//! Work is handed out picture by picture, over several batches, so that no thread and no step waits for one slow picture.
//! Batches come in the order of the plan. The number of threads changes nothing about what is in them.
//! What is read and in which order is decided by others (`Dataset`, `order`); here it is only carried out.

mod queue;
mod worker;

use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use candle_core::{Device, Tensor};

use super::MicroBatch;
use super::pictures::PictureCache;
use super::transform::Transform;
use crate::error::{Error, Result};
use crate::recipe::OnBadImage;
use queue::{Finished, Queue};

/// Samples in the form that a model takes.
pub struct Batch {
    /// `[samples, 3, height, width]`, f32, on the CPU.
    pub pixels_bchw: Tensor,
    pub labels: Vec<u32>,
    /// Names of the draws, in most cases rows of the dataset; as many as pictures could be decoded.
    pub samples: Vec<u64>,
    pub epoch: u32,
    /// Where samples are to be mixed: with whom.
    pub partners: Option<Partners>,
    /// Where they are.
    pub mixture: Option<Mixture>,
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
    /// Batches that may be in the making or ready, at least one.
    pub prefetch_batches: usize,
    pub on_bad_image: OnBadImage,
    /// Keeps decoded pictures; None: each is decoded whenever it is needed.
    pub pictures: Option<Arc<PictureCache>>,
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
}

pub struct Loader {
    queue: Arc<Queue>,
    size: (usize, usize),
    threads: Vec<JoinHandle<()>>,
}

impl Loader {
    /// Starts decoding at once. Error: the system refuses another thread.
    pub fn new(
        samples: impl Samples,
        micro_batches: impl Iterator<Item = MicroBatch> + Send + 'static,
        config: LoaderConfig,
    ) -> Result<Loader> {
        let queue = Arc::new(Queue::new(
            Box::new(micro_batches),
            config.transform.sample_len(),
            config.prefetch_batches.max(1),
        ));
        let mut loader = Loader {
            queue: queue.clone(),
            size: config.transform.size(),
            threads: Vec::new(),
        };
        let samples: Arc<dyn Samples> = Arc::new(samples);
        for number in 0..config.threads.max(1) {
            let (queue, samples, config) = (queue.clone(), samples.clone(), config.clone());
            let thread = std::thread::Builder::new()
                .name(format!("decode {number}"))
                .spawn(move || worker::work(&queue, &*samples, &config))
                .map_err(|e| {
                    Error::usage(
                        format!("cannot start decoding thread {number}: {e}"),
                        "choose fewer threads with --dataloader-num-workers",
                    )
                })?;
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
        let Some(finished) = self.queue.next()? else {
            return Ok(None);
        };
        let Finished {
            epoch,
            labels,
            samples,
            values,
            partners,
        } = finished;
        let (height, width) = self.size;
        let pixels_bchw = Tensor::from_vec(values, (samples.len(), 3, height, width), &Device::Cpu)?;
        Ok(Some(Batch {
            pixels_bchw,
            labels,
            samples,
            epoch,
            partners,
            mixture: None,
        }))
    }

    /// Pictures that were skipped so far, in the order of their rows.
    pub fn bad_images(&self) -> Vec<BadImage> {
        self.queue.bad_images()
    }

    pub fn statistics(&self) -> LoaderStatistics {
        self.queue.statistics()
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.queue.close();
        for thread in self.threads.drain(..) {
            // A panic was caught and reported by the worker itself.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
