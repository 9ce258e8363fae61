//! The loops around the tile: who computes which part of C, and which panels wait in which cache.
//!
//! A task owns a block of rows and a range of column panels of C. Its rows of A are packed into at most [`A_FLOATS`] and
//! stay in L2, while one panel of B after the other passes: all its row tiles are computed, chunk of k after chunk, so that
//! a stripe of C stays in L1 or L2 until it is complete. B is packed beforehand (by whoever made it, or by all threads
//! together), unless one block of rows is all there is: then each task packs its own columns.

use std::ops::Range;

use rayon::prelude::*;

use super::epilogue::Finish;
use super::kernel::{PANEL, Start, Tile};
use super::pack::Lanes;
use super::packed::pack_columns;
use super::view::{MatMut, MatRef, Place};
use super::{Product, Right, Threads, scratch};

/// Floats of A that one task packs: 1 MiB, half of L2.
const A_FLOATS: usize = 256 * 1024;

/// Floats of B that one task packs for itself.
const OWN_B_FLOATS: usize = 256 * 1024;

/// Floats of B that are packed together before the tasks start: 16 MiB.
const SHARED_B_FLOATS: usize = 4 * 1024 * 1024;

/// Column panels up to which rows of A are read where they lie: packing them would cost more than it saves.
const DIRECT_PANELS: usize = 7;

/// Multiply-adds below which a product stays on its thread.
const SMALL: usize = 64 * 1024;

/// Tasks for each thread, so that one that is disturbed may leave some of its own to others.
const TASKS_PER_THREAD: usize = 4;

pub(super) fn compute(product: &Product, c: &MatMut) {
    let (m, n) = c.shape();
    if m == 0 || n == 0 {
        return;
    }
    let plan = Plan::new(product, m, n);
    let c = c.place();
    match product.b {
        Right::Packed(packed) => {
            let panels = Panels::Ready {
                start: Pointer(packed.as_ptr()),
                first_step: 0,
                steps: plan.k,
            };
            plan.for_each_task(|task| compute_task(product, &plan, task, c, 0..plan.k, &panels));
        }
        Right::View(view) if plan.row_blocks == 1 => {
            let panels = Panels::Unpacked(view);
            plan.for_each_task(|task| compute_task(product, &plan, task, c, 0..plan.k, &panels));
        }
        Right::View(view) => {
            let room = plan.span * plan.panels * PANEL + 16;
            scratch::with_columns(room, |lines| {
                let to = PointerMut(lines.as_mut_ptr());
                for steps in spans(plan.k, plan.span) {
                    plan.for_each(plan.panels, |panel| {
                        let to = to.at(panel * PANEL * steps.len());
                        // SAFETY: the lines have room for all panels; panels of 32 lanes are written exactly, each by
                        // one task; the machine has the kernel's instructions.
                        unsafe { pack_columns(product.kernel, &view, panel, steps.start, steps.len(), to) }
                    });
                    let panels = Panels::Ready {
                        start: Pointer(to.0),
                        first_step: steps.start,
                        steps: steps.len(),
                    };
                    plan.for_each_task(|task| compute_task(product, &plan, task, c, steps.clone(), &panels));
                }
            });
        }
    }
}

/// How a product is divided. Nothing in here changes a result, except `chunk`, which depends on k alone.
struct Plan {
    threads: Threads,
    rows: usize,
    columns: usize,
    k: usize,
    tile_rows: usize,
    panels: usize,
    /// Steps that are summed in registers.
    chunk: usize,
    /// Steps that are packed at a time, a multiple of `chunk`.
    span: usize,
    row_blocks: usize,
    column_blocks: usize,
    direct: bool,
}

/// A block of C: rows and panels of columns.
struct Task {
    rows: Range<usize>,
    panels: Range<usize>,
}

impl Plan {
    fn new(product: &Product, m: usize, n: usize) -> Plan {
        let k = product.a.columns;
        let tile_rows = product.kernel.rows;
        let panels = n.div_ceil(PANEL);
        let row_tiles = m.div_ceil(tile_rows);
        let chunk = k
            .max(1)
            .div_ceil(k.div_ceil(product.kernel.chunk).max(1))
            .next_multiple_of(8);
        let direct = panels <= DIRECT_PANELS;

        let small = m * n * k <= SMALL;
        let threads = if small { Threads::Caller } else { product.threads };
        let wanted = match threads {
            Threads::Caller => 1,
            Threads::Pool => match rayon::current_num_threads() {
                1 => 1,
                threads => threads * TASKS_PER_THREAD,
            },
        };
        let mut span = chunk * (3072 / chunk).max(1);
        if matches!(product.b, Right::View(_)) {
            span = span.min((SHARED_B_FLOATS / (panels * PANEL) / chunk).max(1) * chunk);
        }
        span = span.min(k.next_multiple_of(chunk));
        let tiles_in_cache = (A_FLOATS / (span.max(1) * tile_rows)).clamp(4, 64);
        let row_blocks = row_tiles.div_ceil(tiles_in_cache).max(wanted.min(row_tiles / 4)).max(1);
        let mut column_blocks = wanted.div_ceil(row_blocks).min(panels);
        if row_blocks == 1 && matches!(product.b, Right::View(_)) {
            span = span.min((OWN_B_FLOATS / (8 * PANEL) / chunk).max(1) * chunk);
            let panels_in_cache = (OWN_B_FLOATS / (span.max(1) * PANEL)).max(1);
            column_blocks = column_blocks.max(panels.div_ceil(panels_in_cache));
        }
        Plan {
            threads,
            rows: m,
            columns: n,
            k,
            tile_rows,
            panels,
            chunk,
            span,
            row_blocks,
            column_blocks,
            direct,
        }
    }

    fn for_each_task(&self, work: impl Fn(Task) + Send + Sync) {
        let row_tiles = self.rows.div_ceil(self.tile_rows);
        self.for_each(self.row_blocks * self.column_blocks, |task| {
            let rows = part(row_tiles, self.row_blocks, task / self.column_blocks);
            work(Task {
                rows: rows.start * self.tile_rows..(rows.end * self.tile_rows).min(self.rows),
                panels: part(self.panels, self.column_blocks, task % self.column_blocks),
            })
        });
    }

    fn for_each(&self, count: usize, work: impl Fn(usize) + Send + Sync) {
        match self.threads {
            Threads::Pool if count > 1 => (0..count).into_par_iter().with_max_len(1).for_each(work),
            _ => (0..count).for_each(work),
        }
    }
}

/// Part `which` of `0..n` in `parts` parts that differ by one at most.
fn part(n: usize, parts: usize, which: usize) -> Range<usize> {
    n * which / parts..n * (which + 1) / parts
}

/// `0..k` in pieces of `span`; one empty piece if k is 0, so that C is written all the same.
fn spans(k: usize, span: usize) -> impl Iterator<Item = Range<usize>> {
    let count = k.div_ceil(span.max(1)).max(1);
    (0..count).map(move |i| i * span..((i + 1) * span).min(k))
}

/// Where a task finds its panels of B.
enum Panels<'a> {
    /// Packed: each panel has `steps` steps from `first_step` on.
    Ready {
        start: Pointer,
        first_step: usize,
        steps: usize,
    },
    /// To be packed by the task.
    Unpacked(MatRef<'a>),
}

#[derive(Clone, Copy)]
struct Pointer(*const f32);

// SAFETY: only read, and only while the packed panels behind it live and nobody writes them.
unsafe impl Send for Pointer {}
// SAFETY: as above.
unsafe impl Sync for Pointer {}

#[derive(Clone, Copy)]
struct PointerMut(*mut f32);

// SAFETY: tasks write disjoint panels through it.
unsafe impl Send for PointerMut {}
// SAFETY: as above.
unsafe impl Sync for PointerMut {}

impl PointerMut {
    fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

/// Computes steps `steps` of a block of C, packing what has to be packed.
fn compute_task(product: &Product, plan: &Plan, task: Task, c: Place, steps: Range<usize>, panels: &Panels) {
    let tiles = task.rows.len().div_ceil(plan.tile_rows);
    let a_room = if plan.direct {
        0
    } else {
        tiles * plan.tile_rows * plan.span + 16
    };
    scratch::with_rows(a_room, |a_lines| {
        for piece in spans(steps.len(), plan.span) {
            let piece = steps.start + piece.start..steps.start + piece.end;
            let a = if plan.direct {
                Left::Where(product.a)
            } else {
                // SAFETY: the lines have room for all tiles of the piece.
                unsafe { pack_rows(product, plan, &task.rows, &piece, a_lines.as_mut_ptr()) };
                Left::Packed(a_lines.as_ptr())
            };
            let block = Block {
                product,
                plan,
                task: &task,
                c,
                a,
            };
            match panels {
                Panels::Ready {
                    start,
                    first_step,
                    steps,
                } => {
                    let b = |panel: usize| {
                        let start = start.0.wrapping_add(panel * PANEL * steps);
                        start.wrapping_add((piece.start - first_step) * PANEL)
                    };
                    block.compute(&piece, b);
                }
                Panels::Unpacked(view) => {
                    let room = task.panels.len() * PANEL * piece.len() + 16;
                    scratch::with_columns(room, |b_lines| {
                        let place = |panel: usize| (panel - task.panels.start) * PANEL * piece.len();
                        for panel in task.panels.clone() {
                            let to = b_lines.as_mut_ptr().wrapping_add(place(panel));
                            // SAFETY: the lines have room for the task's panels; the machine has the instructions.
                            unsafe { pack_columns(product.kernel, view, panel, piece.start, piece.len(), to) }
                        }
                        let start = b_lines.as_ptr();
                        block.compute(&piece, |panel| start.wrapping_add(place(panel)));
                    })
                }
            }
        }
    });
}

/// Packs steps `piece` of `rows` of A, tile after tile.
///
/// # Safety
/// `to` has room for all of them and 16 floats.
unsafe fn pack_rows(product: &Product, plan: &Plan, rows: &Range<usize>, piece: &Range<usize>, to: *mut f32) {
    for (tile, row) in rows.clone().step_by(plan.tile_rows).enumerate() {
        let lanes = Lanes {
            from: product.a.at(row, piece.start),
            lanes: plan.tile_rows.min(rows.end - row),
            lane_stride: product.a.row_stride,
            steps: piece.len(),
            step_stride: product.a.column_stride,
        };
        // SAFETY: rows and steps lie inside of A; what runs over a panel's end, the next one overwrites.
        unsafe { (product.kernel.pack_rows)(&lanes, to.add(tile * plan.tile_rows * piece.len())) }
    }
}

/// Where the rows of A are read.
#[derive(Clone, Copy)]
enum Left<'a> {
    Packed(*const f32),
    Where(MatRef<'a>),
}

/// A block of C with its rows of A at hand.
struct Block<'a> {
    product: &'a Product<'a>,
    plan: &'a Plan,
    task: &'a Task,
    c: Place,
    a: Left<'a>,
}

impl Block<'_> {
    /// Adds the product over the steps of `piece`, and finishes C after the last one. `b` places a panel's first step.
    fn compute(&self, piece: &Range<usize>, b: impl Fn(usize) -> *const f32) {
        for panel in self.task.panels.clone() {
            for chunk in spans(piece.len(), self.plan.chunk) {
                let b = b(panel).wrapping_add(chunk.start * PANEL);
                for (tile, row) in self.task.rows.clone().step_by(self.plan.tile_rows).enumerate() {
                    self.tile(piece, &chunk, tile, row, panel * PANEL, b);
                }
            }
        }
    }

    fn tile(&self, piece: &Range<usize>, chunk: &Range<usize>, tile: usize, row: usize, column: usize, b: *const f32) {
        let Block { product, plan, .. } = self;
        let rows = plan.tile_rows.min(self.task.rows.end - row);
        let columns = PANEL.min(plan.columns - column);
        let first = piece.start + chunk.start == 0;
        if first && product.beta != 0.0 && product.beta != 1.0 {
            self.scale(row..row + rows, column..column + columns);
        }
        let (a, a_row_stride, a_step) = match self.a {
            Left::Packed(start) => {
                let panel = start.wrapping_add(tile * plan.tile_rows * piece.len());
                (panel.wrapping_add(chunk.start * plan.tile_rows), 1, plan.tile_rows)
            }
            Left::Where(a) => (a.at(row, piece.start + chunk.start), a.row_stride, a.column_stride),
        };
        let tile = Tile {
            rows,
            columns,
            k: chunk.len(),
            a,
            a_row_stride,
            a_step,
            b,
            c: self.c.at(row, column),
            c_row_stride: self.c.row_stride,
            alpha: product.alpha,
            start: if first && product.beta == 0.0 {
                Start::Overwrite
            } else {
                Start::Add
            },
        };
        // SAFETY: rows, columns and steps lie inside of the operands or their packed copies; tasks do not share tiles.
        unsafe { (product.kernel.tile)(&tile) }
        if piece.start + chunk.end == plan.k && !product.epilogue.is_nothing() {
            let finish = Finish {
                epilogue: &product.epilogue,
                c: self.c,
                row,
                column,
                rows,
                columns,
            };
            // SAFETY: the same tile, complete now.
            unsafe { (product.kernel.finish)(&finish) }
        }
    }

    /// c *= beta
    fn scale(&self, rows: Range<usize>, columns: Range<usize>) {
        for i in rows {
            // SAFETY: a row of a tile that belongs to this task.
            let c = unsafe { std::slice::from_raw_parts_mut(self.c.at(i, columns.start), columns.len()) };
            c.iter_mut().for_each(|c| *c *= self.product.beta);
        }
    }
}
