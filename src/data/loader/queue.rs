//! The batches in the making: who decodes which picture next, and which batch is ready.

mod ahead;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use ahead::Ahead;
pub(super) use ahead::{Planned, READERS, read};
use bytes::Bytes;

use super::feed::Feed;
use super::unfinished::{Destination, Finished, Unfinished};
use super::{BadImage, LoaderStatistics};
use crate::data::transform::StagedSample;
use crate::data::{Draw, MicroBatch};
use crate::error::{Error, Result};

/// Shared by the loader and its threads.
pub(super) struct Queue {
    state: Mutex<State>,
    /// Something to decode may be there, or the end.
    work: Condvar,
    /// Something to read may be there, or the end.
    reading: Condvar,
    /// The front batch may be ready, or the end.
    ready: Condvar,
    sample_len: usize,
    most_batches: usize,
    /// Gives the memory that batches are made in, if a device makes samples of them.
    feed: Option<Arc<Feed>>,
}

struct State {
    /// None: no more batches will be begun.
    plan: Option<Box<dyn Iterator<Item = MicroBatch> + Send>>,
    /// What comes after `batches`.
    ahead: Ahead,
    /// In the order of the plan; the front one is delivered next.
    batches: VecDeque<Unfinished>,
    /// Number of the front batch, counted from the start.
    front: u64,
    closed: bool,
    /// By row.
    bad_images: BTreeMap<usize, BadImage>,
    /// What keeps the threads from going on at all.
    failure: Option<Error>,
    statistics: LoaderStatistics,
}

/// One picture to decode.
pub(super) struct Task {
    pub epoch: u32,
    pub draw: Draw,
    /// The file, if it was read ahead.
    pub encoded: Option<Bytes>,
    pub destination: Destination,
    pub place: Place,
}

/// Which sample of which batch, counted from the start.
pub(super) struct Place {
    batch: u64,
    at: usize,
}

/// What came of a task.
pub(super) enum Made {
    Sample { label: u32, staged: Option<StagedSample> },
    Skipped(BadImage),
    Failure(Error),
}

impl Queue {
    pub fn new(
        plan: Box<dyn Iterator<Item = MicroBatch> + Send>,
        sample_len: usize,
        most_batches: usize,
        feed: Option<Arc<Feed>>,
    ) -> Queue {
        Queue {
            state: Mutex::new(State {
                plan: Some(plan),
                ahead: Ahead::default(),
                batches: VecDeque::new(),
                front: 0,
                closed: false,
                bad_images: BTreeMap::new(),
                failure: None,
                statistics: LoaderStatistics::default(),
            }),
            work: Condvar::new(),
            reading: Condvar::new(),
            ready: Condvar::new(),
            sample_len,
            most_batches,
            feed,
        }
    }

    /// The next picture to decode; waits while enough batches are ahead. None: there is nothing more to do.
    pub fn take(&self) -> Option<Task> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let front = state.front;
            let open = state
                .batches
                .iter_mut()
                .enumerate()
                .find(|(_, batch)| !batch.parts.is_empty());
            if let Some((index, batch)) = open {
                let destination = batch.parts.pop()?;
                let at = batch.draws.len() - batch.parts.len() - 1;
                return Some(Task {
                    epoch: batch.epoch,
                    draw: batch.draws[at],
                    encoded: batch.files[at].take(),
                    destination,
                    place: Place {
                        batch: front + index as u64,
                        at,
                    },
                });
            }
            if state.has_more() && state.batches.len() >= self.most_batches {
                state = wait(&self.work, state);
                continue;
            }
            if !state.has_more() {
                return None;
            }
            let staging = match &self.feed {
                None => None,
                Some(feed) => match feed.take_staging() {
                    Some(staging) => Some(staging),
                    None => {
                        state = wait(&self.work, state); // until `returned`
                        continue;
                    }
                },
            };
            match state.next_planned() {
                Some(planned) => {
                    let batch = Unfinished::begin(planned, self.sample_len, staging);
                    state.batches.push_back(batch);
                }
                None => {
                    if let (Some(feed), Some(staging)) = (&self.feed, staging) {
                        feed.return_staging(staging);
                    }
                }
            }
            // Whoever waits for work, for files to read or for an (empty) batch looks again.
            self.reading.notify_all();
            self.work.notify_all();
            self.ready.notify_all();
        }
    }

    /// The task of `place` is done and its part back.
    pub fn put(&self, place: Place, made: Made, spent: LoaderStatistics) {
        let mut state = self.lock();
        state.statistics.add(&spent);
        let index = (place.batch - state.front) as usize;
        let Some(batch) = state.batches.get_mut(index) else {
            return; // closed meanwhile
        };
        match made {
            Made::Sample { label, staged } => batch.made[place.at] = Some((label, staged)),
            Made::Failure(error) if batch.failure.as_ref().is_none_or(|(at, _)| place.at < *at) => {
                batch.failure = Some((place.at, error));
            }
            Made::Failure(_) => {}
            Made::Skipped(bad) => {
                state.bad_images.insert(bad.row, bad);
            }
        }
        let batch = &mut state.batches[index];
        batch.missing -= 1;
        if batch.missing == 0 {
            self.ready.notify_all();
        }
    }

    /// Waits for the front batch.
    pub fn next(&self) -> Result<Option<Finished>> {
        let mut state = self.lock();
        let batch = loop {
            if let Some(error) = state.failure.take() {
                self.stop(&mut state);
                return Err(error);
            }
            match state.batches.front() {
                Some(front) if front.missing == 0 => break state.batches.pop_front(),
                None if !state.has_more() => break None,
                _ => {}
            }
            state = wait(&self.ready, state);
        };
        let Some(batch) = batch else {
            return Ok(None);
        };
        state.front += 1;
        self.work.notify_all();
        if let Some((_, error)) = batch.failure {
            self.stop(&mut state);
            return Err(error);
        }
        drop(state);
        Ok(Some(batch.assemble(self.sample_len)))
    }

    /// Memory for batches came back to the feed: whoever waits for it looks again.
    pub fn returned(&self) {
        // Under the lock, so that it does not fall between a look and the wait that follows.
        let _state = self.lock();
        self.work.notify_all();
    }

    pub fn book(&self, spent: &LoaderStatistics) {
        self.lock().statistics.add(spent);
    }

    /// A thread cannot go on: `next` says so.
    pub fn fail(&self, error: Error) {
        self.lock().failure.get_or_insert(error);
        self.ready.notify_all();
    }

    /// No more pictures are handed out; `take` and `next` return.
    pub fn close(&self) {
        self.stop(&mut self.lock());
    }

    fn stop(&self, state: &mut State) {
        state.closed = true;
        state.plan = None;
        state.batches.clear();
        state.ahead.clear();
        self.reading.notify_all();
        self.work.notify_all();
        self.ready.notify_all();
    }

    pub fn bad_images(&self) -> Vec<BadImage> {
        self.lock().bad_images.values().cloned().collect()
    }

    pub fn statistics(&self) -> LoaderStatistics {
        self.lock().statistics
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics between two related changes, except a plan; that leaves the state whole.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn wait<'a>(condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    condition.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner())
}
