//! How batches go from the threads that decode to the device that makes samples of them.
//!
//! Memory of the host in which batches are put together, and memory of the device for samples, are a few pieces each, used
//! over and over, by one loader after the other. One thread hands complete batches over in their order: it waits for free
//! samples, asks the device for everything, passes the batch on, and returns the host's memory once it is copied. So while
//! a batch is used the next ones are copied and made, and nobody waits for the device but this thread.

use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use candle_core::{DType, Device};

use super::queue::Queue;
use super::unfinished::{Contents, Finished};
use super::{LoaderStatistics, Partners, worker};
use crate::data::DevicePictures;
use crate::error::Result;
use crate::ops::intake::{Intake, Slot};
use crate::ops::preprocess::Values;
use crate::ops::staging::{Staging, StagingShape};

/// Memory of the host and of a device for batches on their way.
pub struct Feed {
    intake: Arc<Intake>,
    device: Device,
    shape: FeedShape,
    pictures: Option<DevicePictures>,
    stagings: Mutex<Vec<Staging>>,
    slots: Mutex<Vec<Slot>>,
    /// A slot came back, or somebody does not want one any more.
    returned: Condvar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedShape {
    pub batch: StagingShape,
    /// What samples are made in.
    pub dtype: DType,
    /// Batches that are being put together or copied.
    pub stagings: usize,
    /// Batches of samples on the device, those in use included.
    pub slots: usize,
}

impl Feed {
    /// `pictures`: those that stay on the device; None: none do.
    pub fn new(intake: Arc<Intake>, device: &Device, shape: FeedShape, pictures: Option<DevicePictures>) -> Feed {
        Feed {
            intake,
            device: device.clone(),
            shape,
            pictures,
            stagings: Mutex::default(),
            slots: Mutex::default(),
            returned: Condvar::new(),
        }
    }

    pub(super) fn pictures(&self) -> Option<&DevicePictures> {
        self.pictures.as_ref()
    }

    /// Memory for another batch, if some is free.
    pub(super) fn take_staging(&self) -> Option<Staging> {
        lock(&self.stagings).pop()
    }

    /// Memory that nothing is in.
    pub(super) fn return_staging(&self, staging: Staging) {
        lock(&self.stagings).push(staging);
    }

    /// Makes what of the memory there is not yet; host memory is given to the queue as it comes.
    fn fill(&self, queue: &Queue) -> Result<()> {
        let missing = self.shape.stagings.saturating_sub(lock(&self.stagings).len());
        for _ in 0..missing {
            self.return_staging(Staging::new(self.shape.batch, &self.device)?);
            queue.returned();
        }
        let StagingShape { pictures, size, .. } = self.shape.batch;
        let missing = self.shape.slots.saturating_sub(lock(&self.slots).len());
        for _ in 0..missing {
            let slot = self.intake.slot(pictures, size, self.shape.dtype);
            let slot = slot.map_err(|error| error.wanted_by(|| format!("the samples of {pictures} images")))?;
            lock(&self.slots).push(slot);
        }
        Ok(())
    }

    /// Waits for free samples; None once `closed`.
    fn take_slot(self: &Arc<Self>, closed: &AtomicBool) -> Option<Lent> {
        let mut slots = lock(&self.slots);
        loop {
            if closed.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(slot) = slots.pop() {
                return Some(Lent {
                    slot: Some(slot),
                    feed: self.clone(),
                });
            }
            slots = (self.returned.wait(slots)).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        // The fields that follow are memory that the device may still be working on.
        self.intake.settle();
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Feed({:?})", self.shape)
    }
}

/// Samples on the device, which go back to their feed when nobody needs them.
pub(in crate::data) struct Lent {
    slot: Option<Slot>,
    feed: Arc<Feed>,
}

impl Deref for Lent {
    type Target = Slot;

    fn deref(&self) -> &Slot {
        self.slot.as_ref().expect("there until it is dropped")
    }
}

impl Lent {
    /// What is asked of the device from now on comes after the samples are made.
    pub fn admit(&self) -> Result<()> {
        self.feed.intake.admit(self)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        if self.feed.intake.release(&slot).is_err() {
            // The GPU has failed, which whatever is asked of it next says; samples that may be in use are not lent again.
            std::mem::forget(slot);
            return;
        }
        lock(&self.feed.slots).push(slot);
        self.feed.returned.notify_one();
    }
}

/// A batch that was handed over.
pub(super) struct Ready {
    pub epoch: u32,
    pub labels: Vec<u32>,
    pub samples: Vec<u64>,
    pub partners: Option<Partners>,
    pub lent: Lent,
}

/// The thread that hands over, and what comes from it.
pub(super) struct Feeder {
    feed: Arc<Feed>,
    closed: Arc<AtomicBool>,
    ready: Option<Receiver<Result<Ready>>>,
    thread: Option<JoinHandle<()>>,
}

impl Feeder {
    pub fn start(feed: Arc<Feed>, queue: Arc<Queue>, values: Values) -> std::io::Result<Feeder> {
        let (sender, ready) = channel();
        let closed = Arc::new(AtomicBool::new(false));
        let own = (feed.clone(), closed.clone());
        let thread = std::thread::Builder::new().name("feed".to_owned()).spawn(move || {
            let (feed, closed) = own;
            let done = catch_unwind(AssertUnwindSafe(|| hand_over(&feed, &queue, &values, &closed, &sender)));
            let error = match done {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error,
                Err(panic) => worker::bug("the batches", &*panic),
            };
            queue.close();
            let _ = sender.send(Err(error)); // nobody listens: the loader is gone
        })?;
        Ok(Feeder {
            feed,
            closed,
            ready: Some(ready),
            thread: Some(thread),
        })
    }

    /// Waits for the next batch; None behind the last one.
    pub fn next(&self) -> Result<Option<Ready>> {
        match self.ready.as_ref().and_then(|ready| ready.recv().ok()) {
            Some(ready) => ready.map(Some),
            None => Ok(None),
        }
    }
}

impl Drop for Feeder {
    /// The queue must be closed before.
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        // Batches that nobody took give their samples back.
        self.ready = None;
        {
            // Under the lock, so that it does not fall between the thread's look and its wait.
            let _slots = lock(&self.feed.slots);
            self.feed.returned.notify_all();
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic was caught
        }
    }
}

fn hand_over(
    feed: &Arc<Feed>,
    queue: &Queue,
    values: &Values,
    closed: &AtomicBool,
    ready: &Sender<Result<Ready>>,
) -> Result<()> {
    feed.fill(queue)?;
    while let Some(finished) = queue.next()? {
        let Finished {
            epoch,
            labels,
            samples,
            contents: Contents::Staged(mut staging, staged),
            partners,
        } = finished
        else {
            unreachable!("a queue with a feed makes staged batches");
        };
        let Some(lent) = feed.take_slot(closed) else {
            return Ok(());
        };
        // What the batch that had these samples before took.
        let preprocess = lent.spent()?.unwrap_or_default();
        let mut keep = Vec::new();
        for (made, row) in staged.iter().filter_map(|made| Some((made, made.stays?))) {
            let pictures = feed.pictures().expect("pictures stay somewhere");
            keep.extend(pictures.keep(row, made.staged.picture));
        }
        let staged: Vec<_> = staged.into_iter().map(|made| made.staged).collect();
        let asked = feed
            .intake
            .prepare(&mut staging, (&staged, &labels), values, &lent, &keep);
        // Where some of it was asked for, the memory may still be read until then.
        let contents = asked.inspect_err(|_| feed.intake.settle())?;
        let batch = Ready {
            epoch,
            labels,
            samples,
            partners,
            lent,
        };
        let is_wanted = ready.send(Ok(batch)).is_ok();
        let copy = staging.wait_for_copy()?;
        queue.book(&LoaderStatistics {
            copied: contents.bytes as u64,
            copy,
            preprocess,
            ..LoaderStatistics::default()
        });
        staging.clear();
        feed.return_staging(*staging);
        queue.returned();
        if !is_wanted {
            break;
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind them is whole at any time.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests;
