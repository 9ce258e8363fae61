//! Micro-batches that nobody decodes yet: their files are read meanwhile, by threads that wait for disks in the place of those
//! that decode.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

use super::{Place, Queue, State, wait};
use crate::data::MicroBatch;
use crate::data::loader::{LoaderConfig, Samples};

/// Samples that are planned ahead, at least; whole micro-batches.
const ROWS: usize = 64;
/// Threads that read: a disk, and more so a network, answers several questions at once.
pub(in crate::data::loader) const READERS: usize = 2;

#[derive(Default)]
pub(super) struct Ahead {
    planned: VecDeque<Planned>,
}

/// A micro-batch and what was read of it so far.
pub(in crate::data::loader) struct Planned {
    pub micro_batch: MicroBatch,
    pub files: Vec<Option<Bytes>>,
    /// Rows whose reading has begun.
    begun: usize,
}

/// One file to read.
pub(super) struct Reading {
    pub row: u32,
    /// Of the micro-batches that are planned ahead, and of the sample in it.
    pub index: usize,
    pub at: usize,
}

impl Ahead {
    /// Takes micro-batches from the plan until enough are known. None: the plan has ended.
    fn fill(&mut self, plan: &mut dyn Iterator<Item = MicroBatch>) -> Option<()> {
        let rows = |planned: &VecDeque<Planned>| planned.iter().map(|planned| planned.files.len()).sum::<usize>();
        // A rank that a short step leaves nothing has empty micro-batches.
        while rows(&self.planned) < ROWS && self.planned.len() < ROWS {
            let micro_batch = plan.next()?;
            self.planned.push_back(Planned {
                files: vec![None; micro_batch.draws.len()],
                micro_batch,
                begun: 0,
            });
        }
        Some(())
    }

    pub fn clear(&mut self) {
        self.planned.clear();
    }

    /// The next file that nobody reads yet.
    fn reading(&mut self) -> Option<Reading> {
        let open = |planned: &Planned| planned.begun < planned.files.len();
        let index = self.planned.iter().position(open)?;
        let planned = &mut self.planned[index];
        planned.begun += 1;
        Some(Reading {
            row: planned.micro_batch.draws[planned.begun - 1].row,
            index,
            at: planned.begun - 1,
        })
    }

    fn files(&mut self, index: usize) -> Option<&mut Vec<Option<Bytes>>> {
        Some(&mut self.planned.get_mut(index)?.files)
    }
}

impl State {
    /// Will batches be begun?
    pub(super) fn has_more(&self) -> bool {
        self.plan.is_some() || !self.ahead.planned.is_empty()
    }

    /// The next micro-batch, once enough are known that come after it.
    pub(super) fn next_planned(&mut self) -> Option<Planned> {
        let State { plan, ahead, .. } = self;
        if plan.as_mut().is_some_and(|plan| ahead.fill(plan).is_none()) {
            *plan = None;
        }
        ahead.planned.pop_front()
    }
}

impl Queue {
    /// The next row whose file should be read ahead, and whose it is; waits while there are enough. None: there is nothing
    /// more to read.
    pub fn take_reading(&self) -> Option<(usize, Place)> {
        let mut state = self.lock();
        loop {
            if state.closed || !state.has_more() {
                return None;
            }
            if let Some(reading) = state.ahead.reading() {
                let place = Place {
                    batch: state.front + (state.batches.len() + reading.index) as u64,
                    at: reading.at,
                };
                return Some((reading.row as usize, place));
            }
            state = wait(&self.reading, state);
        }
    }

    /// A file was read; whoever decodes it may have been faster.
    pub fn put_file(&self, place: &Place, file: Bytes) {
        let mut state = self.lock();
        let Some(index) = place.batch.checked_sub(state.front).map(|index| index as usize) else {
            return;
        };
        let begun = state.batches.len();
        let files = match state.batches.get_mut(index) {
            Some(batch) => Some(&mut batch.files),
            None => state.ahead.files(index - begun),
        };
        // The batch may also be closed.
        if let Some(slot) = files.and_then(|files| files.get_mut(place.at)) {
            *slot = Some(file);
        }
    }
}

/// One reading thread. What cannot be read is left to who decodes it, and to the error that follows.
pub(in crate::data::loader) fn read(queue: &Queue, samples: &dyn Samples, config: &LoaderConfig) {
    while let Some((row, place)) = queue.take_reading() {
        let device = config.feed.as_deref().and_then(|feed| feed.pictures());
        let is_kept = config.pictures.as_deref().is_some_and(|kept| kept.get(row).is_some());
        if is_kept || device.is_some_and(|kept| kept.get(row).is_some()) {
            continue;
        }
        let read: Result<_, Box<dyn Any + Send>> = catch_unwind(AssertUnwindSafe(|| samples.encoded(row)));
        if let Ok(Ok(file)) = read {
            queue.put_file(&place, file);
        }
    }
}
