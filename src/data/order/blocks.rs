//! The block shuffle: for datasets that memory cannot hold, an order in which rows that are read together are used together.
//!
//! Blocks (row groups, or runs of rows) are permuted and laid end to end, and this sequence is cut into lanes. Each slot of the
//! global batch belongs to one lane, and is filled from a window that moves along the lane; within a window rows are
//! shuffled. So a step mixes as many places of the dataset as there are lanes, and no more blocks are in use at a time
//! than were granted. A rank has the same slots in every step, therefore the same lanes: what one rank reads no other needs,
//! although the number of ranks does not enter into the order. Windows of different lanes begin at different times, so that
//! reading is spread evenly.
//! A window has to be read almost whole before its first few rows are used. So that an epoch does not begin with reading
//! all windows, those at its beginning are small: the first of a lane is a block or less, and each further one as long as
//! all before it, until they are whole. That costs at most twice the reading of later times, and mixing: the first rows of an
//! epoch come from a block for each lane, and those at place n of a lane from the n rows before or behind it.
//! Like the exact shuffle, the order of an epoch is a function of names, so that resuming needs nothing but the step.

use std::sync::Arc;

use crate::rng::{Purpose, Stream};

/// Whether a row can be read alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading a row reads its block.
    ByBlock,
    ByRow,
}

/// The rows of a dataset, grouped by where they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Every row once, block after block.
    pub rows: Vec<u32>,
    /// First place of each block in `rows`, and the number of rows at the end; blocks are not empty.
    pub starts: Vec<u32>,
    /// Encoded images of all blocks.
    pub bytes: u64,
    pub access: Access,
}

impl Blocks {
    pub fn count(&self) -> usize {
        self.starts.len() - 1
    }

    /// Of a block, on average; at least 1.
    pub fn mean_bytes(&self) -> u64 {
        (self.bytes / self.count().max(1) as u64).max(1)
    }

    fn block(&self, number: u32) -> &[u32] {
        &self.rows[self.starts[number as usize] as usize..self.starts[number as usize + 1] as usize]
    }
}

/// A block shuffle of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockShuffle {
    pub seed: u64,
    pub blocks: Arc<Blocks>,
    /// Blocks that may be in use at a time, over all ranks.
    pub open: usize,
    /// Samples of an optimizer step.
    pub global_batch: usize,
}

/// The way in which the order follows from all that is named: another number for every other way.
const METHOD: u64 = 2;

/// How the blocks in use are spread over the global batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lanes {
    pub lanes: usize,
    /// Blocks that a window is as long as. It touches one more, since it need not begin where a block does.
    pub window: usize,
}

impl BlockShuffle {
    /// One lane for each slot of the global batch, if so many blocks may be in use.
    pub fn lanes(&self) -> Lanes {
        let count = self.blocks.count();
        let open = self.open.min(2 * count);
        let lanes = (open / 2).min(self.global_batch).min(count).max(1);
        Lanes {
            lanes,
            window: (open / lanes).saturating_sub(1).max(1),
        }
    }

    /// Tells this order from all others: of other rows or blocks, with more of them in use, in another global batch, or made
    /// in another way.
    pub fn fingerprint(&self) -> u64 {
        let Blocks { rows, starts, .. } = &*self.blocks;
        let numbers = [
            METHOD,
            self.seed,
            self.open as u64,
            self.global_batch as u64,
            rows.len() as u64,
        ];
        let places = rows.iter().chain(starts).map(|&place| u64::from(place));
        // FNV-1a, by the number.
        (numbers.into_iter().chain(places)).fold(0xcbf2_9ce4_8422_2325, |hash, number| {
            (hash ^ number).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }

    /// All rows in the order of `epoch`.
    pub fn of_epoch(&self, epoch: u32) -> Vec<u32> {
        let mut sequence = self.permuted(epoch);
        let samples = sequence.len();
        let slots = self.global_batch.min(samples);
        let Lanes { lanes, window } = self.lanes();
        let block_rows = samples.div_ceil(self.blocks.count());
        let window_rows = window * block_rows;
        let whole_steps = (samples - 1) / slots;
        let last_step = samples - whole_steps * slots;
        let mut order = vec![0; samples];
        let mut rest = sequence.as_mut_slice();
        for lane in 0..lanes {
            let of_lane = slots * lane / lanes..slots * (lane + 1) / lanes;
            let in_last = of_lane.end.min(last_step).saturating_sub(of_lane.start);
            let (piece, behind) = rest.split_at_mut(whole_steps * of_lane.len() + in_last);
            rest = behind;
            // Lanes' whole windows begin at different times, evenly spread.
            let first_whole = window_rows + (window_rows * (lane + 1)).div_ceil(lanes);
            let stream = Stream::new(self.seed, epoch, 1 + lane as u64, Purpose::Order);
            shuffle_windows(piece, window_starts(first_whole, window_rows, block_rows), &stream);
            for (at, row) in piece.iter().enumerate() {
                let (step, slot) = (at / of_lane.len(), at % of_lane.len());
                order[step * slots + of_lane.start + slot] = *row;
            }
        }
        order
    }

    /// The rows, block after block, in the blocks' order of `epoch`.
    fn permuted(&self, epoch: u32) -> Vec<u32> {
        let mut numbers: Vec<u32> = (0..self.blocks.count() as u32).collect();
        shuffle(&mut numbers, 0, &Stream::new(self.seed, epoch, 0, Purpose::Order));
        let mut sequence = Vec::with_capacity(self.blocks.rows.len());
        for number in numbers {
            sequence.extend_from_slice(self.blocks.block(number));
        }
        sequence
    }
}

/// Where windows begin behind the first one: whole ones of `window` rows from `first_whole` on, before that at half of it, a
/// quarter, and so on down to `least`. None is longer than a whole one if `first_whole` is at most two.
fn window_starts(first_whole: usize, window: usize, least: usize) -> impl Iterator<Item = usize> {
    let halves = std::iter::successors(Some(first_whole), |start| {
        (*start > least.max(1)).then(|| start.div_ceil(2))
    });
    let mut growing: Vec<usize> = halves.collect();
    growing.reverse();
    growing
        .into_iter()
        .chain((1..).map(move |number| first_whole + number * window))
}

/// Shuffles rows among those between two of `starts`.
fn shuffle_windows(rows: &mut [u32], starts: impl Iterator<Item = usize>, stream: &Stream) {
    let (mut rest, mut used) = (rows, 0);
    for start in starts {
        let (window, behind) = rest.split_at_mut((start - used).min(rest.len()));
        shuffle(window, used as u32, stream);
        used += window.len();
        rest = behind;
        if rest.is_empty() {
            return;
        }
    }
}

/// Fisher-Yates with the numbers of `stream` from `from` on.
pub(super) fn shuffle<T>(rows: &mut [T], from: u32, stream: &Stream) {
    for last in (1..rows.len()).rev() {
        rows.swap(last, stream.below(from + last as u32, last as u64 + 1) as usize);
    }
}

#[cfg(test)]
mod tests;
