//! The batches in the making: who decodes which picture next, and which batch is ready.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Instant;

use super::{BadImage, LoaderStatistics, Partners};
use crate::data::{Draw, MicroBatch};
use crate::error::{Error, Result};
use crate::ops::parts::{Part, Whole, parts};

/// Shared by the loader and its threads.
pub(super) struct Queue {
    state: Mutex<State>,
    /// Something to decode may be there, or the end.
    work: Condvar,
    /// The front batch may be ready, or the end.
    ready: Condvar,
    sample_len: usize,
    most_batches: usize,
}

struct State {
    /// None: no more batches will be begun.
    plan: Option<Box<dyn Iterator<Item = MicroBatch> + Send>>,
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

struct Unfinished {
    epoch: u32,
    draws: Vec<Draw>,
    own: Option<Range<usize>>,
    /// Of draws that nobody has taken, the next one last.
    parts: Vec<Part>,
    values: Whole,
    /// Label of each draw that is decoded.
    labels: Vec<Option<u32>>,
    missing: usize,
    /// What makes the batch impossible: that of the first row.
    failure: Option<(usize, Error)>,
}

/// One picture to decode.
pub(super) struct Task {
    pub epoch: u32,
    pub draw: Draw,
    /// Where its sample goes.
    pub part: Part,
    pub place: Place,
}

/// Which sample of which batch, counted from the start.
pub(super) struct Place {
    batch: u64,
    at: usize,
}

/// What came of a task.
pub(super) enum Made {
    Sample { label: u32 },
    Skipped(BadImage),
    Failure(Error),
}

/// A batch whose pictures are all decoded or skipped.
pub(super) struct Finished {
    pub epoch: u32,
    pub labels: Vec<u32>,
    pub samples: Vec<u64>,
    /// `[samples, sample_len]`.
    pub values: Vec<f32>,
    pub partners: Option<Partners>,
}

impl Queue {
    pub fn new(plan: Box<dyn Iterator<Item = MicroBatch> + Send>, sample_len: usize, most_batches: usize) -> Queue {
        Queue {
            state: Mutex::new(State {
                plan: Some(plan),
                batches: VecDeque::new(),
                front: 0,
                closed: false,
                bad_images: BTreeMap::new(),
                failure: None,
                statistics: LoaderStatistics::default(),
            }),
            work: Condvar::new(),
            ready: Condvar::new(),
            sample_len,
            most_batches,
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
                let part = batch.parts.pop()?;
                let at = batch.draws.len() - batch.parts.len() - 1;
                return Some(Task {
                    epoch: batch.epoch,
                    draw: batch.draws[at],
                    part,
                    place: Place {
                        batch: front + index as u64,
                        at,
                    },
                });
            }
            if state.plan.is_some() && state.batches.len() >= self.most_batches {
                state = wait(&self.work, state);
                continue;
            }
            // Whoever waits for work or for an (empty) batch looks again.
            match state.plan.as_mut()?.next() {
                Some(micro_batch) => {
                    let batch = self.begin(micro_batch);
                    state.batches.push_back(batch);
                }
                None => state.plan = None,
            }
            self.work.notify_all();
            self.ready.notify_all();
        }
    }

    fn begin(&self, micro_batch: MicroBatch) -> Unfinished {
        let draws = micro_batch.draws;
        let (values, mut parts) = parts(draws.len(), self.sample_len);
        parts.reverse();
        Unfinished {
            epoch: micro_batch.epoch,
            parts,
            values,
            labels: vec![None; draws.len()],
            missing: draws.len(),
            failure: None,
            draws,
            own: micro_batch.own,
        }
    }

    /// The task of `place` is done and its part back.
    pub fn put(&self, place: Place, made: Made, spent: LoaderStatistics) {
        let mut state = self.lock();
        let total = &mut state.statistics;
        total.decode += spent.decode;
        total.resample += spent.resample;
        total.images += spent.images;
        total.bytes += spent.bytes;
        let index = (place.batch - state.front) as usize;
        let Some(batch) = state.batches.get_mut(index) else {
            return; // closed meanwhile
        };
        match made {
            Made::Sample { label } => batch.labels[place.at] = Some(label),
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
        let start = Instant::now();
        let mut state = self.lock();
        let batch = loop {
            if let Some(error) = state.failure.take() {
                self.stop(&mut state);
                return Err(error);
            }
            match state.batches.front() {
                Some(front) if front.missing == 0 => break state.batches.pop_front(),
                None if state.plan.is_none() => break None,
                _ => {}
            }
            state = wait(&self.ready, state);
        };
        state.statistics.waited += start.elapsed();
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
        Ok(Some(self.assemble(batch)))
    }

    /// Closes the gaps that skipped pictures left.
    fn assemble(&self, batch: Unfinished) -> Finished {
        let mut values = batch.values.into_vec();
        let partners = batch.own.map(|own| partners(&batch.labels, own));
        let (mut labels, mut samples) = (Vec::new(), Vec::new());
        for (place, (draw, label)) in batch.draws.iter().zip(batch.labels).enumerate() {
            let Some(label) = label else { continue };
            if samples.len() < place {
                let from = place * self.sample_len;
                values.copy_within(from..from + self.sample_len, samples.len() * self.sample_len);
            }
            labels.push(label);
            samples.push(draw.name());
        }
        values.truncate(samples.len() * self.sample_len);
        Finished {
            epoch: batch.epoch,
            labels,
            samples,
            values,
            partners,
        }
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

/// Partners among what could be read: neighbours, first and second, third and fourth, and so on.
fn partners(labels: &[Option<u32>], own: Range<usize>) -> Partners {
    let read_before = |place: usize| labels[..place].iter().flatten().count();
    let of = (0..labels.len()).filter(|place| labels[*place].is_some()).map(|place| {
        let partner = labels.get(place ^ 1).copied().flatten();
        partner.map(|_| read_before(place ^ 1))
    });
    Partners {
        of: of.collect(),
        own: read_before(own.start)..read_before(own.end),
    }
}

fn wait<'a>(condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    condition.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner())
}
