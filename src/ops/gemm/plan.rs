//! How a product is divided: into tasks for threads, and into pieces that fit the caches.
//!
//! Nothing here changes a result but `chunk`, which depends on k and the kernel alone.

use std::ops::Range;

use rayon::prelude::*;

use super::kernel::PANEL;
use super::{Product, Right, Threads};

/// Floats of A that one task packs: 1 MiB, half of L2.
const A_FLOATS: usize = 256 * 1024;

/// Row tiles of one task, if A's rows lie one after the other: few, because each row of C and of A is on another page,
/// and the first translation buffer has 64 to 96 of them.
const TILES: usize = 8;

/// Row tiles of one task, if A's rows are adjacent: many, because what is read at each step should be long.
const ADJACENT_TILES: usize = 24;

/// Floats of B that one task packs for itself.
const OWN_B_FLOATS: usize = 256 * 1024;

/// Floats of B that are packed together before the tasks start: 16 MiB.
const SHARED_B_FLOATS: usize = 4 * 1024 * 1024;

/// Steps of A that are packed at a time.
const SPAN: usize = 3072;

/// Steps of all values below which a product stays on its thread.
const SMALL: usize = 64 * 1024;

/// Tasks for each thread, so that one that is disturbed may leave some of its own to others.
const TASKS_PER_THREAD: usize = 4;

/// Floats of A that stay in L1 and L2 although nothing was packed.
const SMALL_A: usize = 64 * 1024;

pub(super) struct Plan {
    threads: Threads,
    pub rows: usize,
    pub columns: usize,
    /// Of all of k.
    pub steps: usize,
    /// Tiles over all rows; they differ by one row at most.
    pub row_tiles: usize,
    /// Panels over all columns.
    pub panels: usize,
    /// Steps that a tile sums in registers.
    pub chunk: usize,
    /// Steps that are packed at a time, a multiple of `chunk`.
    pub span: usize,
    row_blocks: usize,
    column_blocks: usize,
    pub a: Left,
    pub b: Packing,
}

/// How tiles get at their rows of A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Each task packs its own.
    Packed,
    /// Where they lie: packing would cost more than it saves. Not if they have to be rounded.
    InPlace,
}

/// When the right operand is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// It was, before.
    Done,
    /// By all threads, before the tasks start.
    Shared,
    /// By each task, which is the only one that needs it.
    Own,
}

/// A block of C.
#[derive(Debug)]
pub(super) struct Task {
    pub tiles: Range<usize>,
    pub panels: Range<usize>,
}

impl Plan {
    pub fn new(product: &Product, m: usize, n: usize) -> Plan {
        let (a, kernel) = (&product.a, product.kernel);
        let steps = a.columns.div_ceil(kernel.depth);
        let panels = n.div_ceil(PANEL);
        let row_tiles = m.div_ceil(kernel.rows);
        let chunk = (steps.max(1).div_ceil(steps.div_ceil(kernel.chunk).max(1))).next_multiple_of(8);
        let in_place =
            kernel.depth == 1 && ((m * steps <= SMALL_A && panels <= 8) || (a.column_stride == 1 && panels <= 2));
        let adjacent = a.row_stride == 1 && m > 1;

        let threads = if m * n * steps <= SMALL {
            Threads::Caller
        } else {
            product.threads
        };
        let wanted = match threads {
            Threads::Caller => 1,
            Threads::Pool => match rayon::current_num_threads() {
                1 => 1,
                threads => threads * TASKS_PER_THREAD,
            },
        };
        let unpacked = matches!(product.b, Right::View(_));
        let fitting = |floats: usize, width: usize| (floats / width / chunk).max(1) * chunk;
        let mut span = if adjacent { chunk } else { SPAN / chunk * chunk };
        let most_tiles = if adjacent { ADJACENT_TILES } else { TILES };
        let tiles = (A_FLOATS / (span.min(steps.max(1)) * kernel.width)).clamp(4, most_tiles);
        let row_blocks = row_tiles.div_ceil(tiles).max(wanted.min(row_tiles / 4)).max(1);
        let mut column_blocks = wanted.div_ceil(row_blocks).min(panels);
        let b = match (unpacked, row_blocks) {
            (false, _) => Packing::Done,
            (true, 1) => Packing::Own,
            (true, _) => Packing::Shared,
        };
        match b {
            Packing::Done => {}
            Packing::Shared => span = span.min(fitting(SHARED_B_FLOATS, panels * PANEL)),
            Packing::Own => {
                span = span.min(fitting(OWN_B_FLOATS, 8 * PANEL));
                column_blocks = column_blocks.max(panels.div_ceil((OWN_B_FLOATS / (span * PANEL)).max(1)));
            }
        }
        Plan {
            threads,
            rows: m,
            columns: n,
            steps,
            row_tiles,
            panels,
            chunk,
            span: span.min(steps.next_multiple_of(chunk)).max(chunk),
            row_blocks,
            column_blocks,
            a: if in_place { Left::InPlace } else { Left::Packed },
            b,
        }
    }

    /// The rows of a tile.
    pub fn rows(&self, tile: usize) -> Range<usize> {
        part(self.rows, self.row_tiles, tile)
    }

    /// The columns of a panel.
    pub fn columns(&self, panel: usize) -> Range<usize> {
        panel * PANEL..((panel + 1) * PANEL).min(self.columns)
    }

    pub fn for_each_task(&self, work: impl Fn(Task) + Send + Sync) {
        self.for_each(self.row_blocks * self.column_blocks, |task| {
            work(Task {
                tiles: part(self.row_tiles, self.row_blocks, task / self.column_blocks),
                panels: part(self.panels, self.column_blocks, task % self.column_blocks),
            })
        });
    }

    /// Groups of panels, for packing them together.
    pub fn for_each_group(&self, work: impl Fn(Range<usize>) + Send + Sync) {
        /// 1 KiB of each row of B, if that is how it lies.
        const GROUP: usize = 8;
        let groups = self.panels.div_ceil(GROUP);
        self.for_each(groups, |group| work(part(self.panels, groups, group)));
    }

    fn for_each(&self, count: usize, work: impl Fn(usize) + Send + Sync) {
        match self.threads {
            Threads::Pool if count > 1 => (0..count).into_par_iter().with_max_len(1).for_each(work),
            _ => (0..count).for_each(work),
        }
    }
}

/// Part `which` of `0..n` in `parts` parts that differ by one at most.
pub(super) fn part(n: usize, parts: usize, which: usize) -> Range<usize> {
    n * which / parts..n * (which + 1) / parts
}

/// `range` in pieces of `length`, the last one shorter; one empty piece if there is nothing in it, so that C is written
/// all the same.
pub(super) fn pieces(range: Range<usize>, length: usize) -> impl Iterator<Item = Range<usize>> {
    let count = range.len().div_ceil(length).max(1);
    (0..count).map(move |i| {
        let start = range.start + i * length;
        start..(start + length).min(range.end)
    })
}
