//! The loops around the tile.
//!
//! A task owns a block of C. Its rows of A are packed and stay in L2, while one panel of B after the other passes: all its
//! row tiles are computed, chunk of k after chunk, so that a stripe of C stays in L1 or L2 until it is complete. Meanwhile
//! tiles fetch the next panel of B.

use std::ops::Range;

use super::epilogue::Finish;
use super::kernel::{Ahead, PANEL, Start, Tile};
use super::pack::{self, Panels};
use super::plan::{Left, Packing, Plan, Task, pieces};
use super::view::{MatMut, MatRef, Place};
use super::{Product, Right, scratch};

pub(super) fn compute(product: &Product, c: &MatMut) {
    let (m, n) = c.shape();
    if m == 0 || n == 0 {
        return;
    }
    let plan = Plan::new(product, m, n);
    let all = 0..plan.steps;
    let work = Work {
        product,
        plan: &plan,
        c: c.place(),
    };
    match (product.b, plan.b) {
        (Right::Packed(packed), _) => {
            let expected = (product.kernel.depth, plan.steps);
            assert_eq!(
                packed.depth_and_steps(),
                expected,
                "an operand packed for another product"
            );
            let panels = packed.panels();
            plan.for_each_task(|task| work.compute_task(&task, all.clone(), &Columns::Packed(&panels)));
        }
        (Right::View(view), Packing::Own) => {
            plan.for_each_task(|task| work.compute_task(&task, all.clone(), &Columns::Unpacked(view)));
        }
        (Right::View(view), _) => {
            let room = plan.span * plan.panels * PANEL;
            scratch::with_columns(room, |lines| {
                for steps in pieces(all, plan.span) {
                    let panels = Panels::new(lines.as_mut_ptr(), 0, steps.clone());
                    plan.for_each_group(|group| {
                        // SAFETY: the lines have room for all panels; each is packed by one group.
                        unsafe { pack::columns(product.kernel, &view, group, &panels) }
                    });
                    plan.for_each_task(|task| work.compute_task(&task, steps.clone(), &Columns::Packed(&panels)));
                }
            });
        }
    }
}

/// Where a task finds its columns of B.
enum Columns<'a> {
    Packed(&'a Panels),
    Unpacked(MatRef<'a>),
}

/// A product on its way into C.
#[derive(Clone, Copy)]
struct Work<'a> {
    product: &'a Product<'a>,
    plan: &'a Plan,
    c: Place,
}

impl Work<'_> {
    /// Adds the products of `steps` to a block of C, packing what has to be packed.
    fn compute_task(&self, task: &Task, steps: Range<usize>, columns: &Columns) {
        let Work { product, plan, .. } = self;
        let a_room = match plan.a {
            Left::Packed => task.tiles.len() * product.kernel.width * plan.span,
            Left::InPlace => 0,
        };
        scratch::with_rows(a_room, |a_lines| {
            for piece in pieces(steps, plan.span) {
                let rows = Panels::new(a_lines.as_mut_ptr(), task.tiles.start, piece.clone());
                if plan.a == Left::Packed {
                    // SAFETY: the lines have room for all tiles of the task.
                    unsafe { pack::rows(product.kernel, &product.a, plan, task.tiles.clone(), &rows) };
                }
                match columns {
                    Columns::Packed(panels) => self.compute_block(task, &piece, &rows, panels),
                    Columns::Unpacked(view) => {
                        scratch::with_columns(task.panels.len() * PANEL * piece.len(), |b_lines| {
                            let panels = Panels::new(b_lines.as_mut_ptr(), task.panels.start, piece.clone());
                            // SAFETY: the lines have room for the task's panels.
                            unsafe { pack::columns(product.kernel, view, task.panels.clone(), &panels) };
                            self.compute_block(task, &piece, &rows, &panels);
                        })
                    }
                }
            }
        });
    }

    fn compute_block(&self, task: &Task, piece: &Range<usize>, rows: &Panels, columns: &Panels) {
        for panel in task.panels.clone() {
            for chunk in pieces(piece.clone(), self.plan.chunk) {
                // What the tiles after these will read: the next chunk of the panel, or the next panel.
                let next = if chunk.end < piece.end {
                    columns.at(PANEL, panel, chunk.end)
                } else {
                    columns.at(PANEL, (panel + 1).min(task.panels.end - 1), piece.start)
                };
                let share = (chunk.len() * PANEL).div_ceil(task.tiles.len());
                for tile in task.tiles.clone() {
                    let ahead = Ahead {
                        from: next.wrapping_add((tile - task.tiles.start) * share),
                        step: share.div_ceil(chunk.len().max(1)),
                    };
                    let b = columns.at(PANEL, panel, chunk.start);
                    self.compute_tile(tile, panel, &chunk, rows, b, ahead);
                }
            }
        }
    }

    fn compute_tile(&self, tile: usize, panel: usize, chunk: &Range<usize>, a: &Panels, b: *const f32, ahead: Ahead) {
        let Work { product, plan, c } = self;
        let (rows, columns) = (plan.rows(tile), plan.columns(panel));
        let is_first = chunk.start == 0;
        if is_first && product.beta != 0.0 && product.beta != 1.0 {
            self.scale(&rows, &columns);
        }
        let (a, a_row_stride, a_step) = match plan.a {
            Left::Packed => (
                a.at(product.kernel.width, tile, chunk.start).cast_const(),
                1,
                product.kernel.width,
            ),
            Left::InPlace => (
                product.a.at(rows.start, chunk.start * product.kernel.depth),
                product.a.row_stride,
                product.a.column_stride,
            ),
        };
        let is_last = chunk.end == plan.steps;
        let other = match is_last {
            true => product.epilogue.other(rows.start, columns.start),
            false => None,
        };
        let overwrites = is_first && product.beta == 0.0;
        let tile = Tile {
            rows: rows.len(),
            columns: columns.len(),
            steps: chunk.len(),
            repeats: 1,
            a_leap: 0,
            b_leap: 0,
            a,
            a_row_stride,
            a_step,
            b,
            ahead,
            c: c.at(rows.start, columns.start),
            c_row_stride: c.row_stride,
            other,
            alpha: product.alpha,
            start: if overwrites { Start::Overwrite } else { Start::Add },
        };
        // SAFETY: rows, columns and steps lie inside of the operands or their packed copies; tasks do not share tiles.
        unsafe { (product.kernel.tile)(&tile) }
        if is_last && !product.epilogue.is_nothing() {
            let finish = Finish {
                epilogue: &product.epilogue,
                c: *c,
                row: rows.start,
                column: columns.start,
                rows: rows.len(),
                columns: columns.len(),
            };
            // SAFETY: the same tile, complete now.
            unsafe { (product.kernel.finish)(&finish) }
        }
    }

    /// c *= beta
    fn scale(&self, rows: &Range<usize>, columns: &Range<usize>) {
        for i in rows.clone() {
            // SAFETY: a row of a tile that belongs to this task.
            let c = unsafe { std::slice::from_raw_parts_mut(self.c.at(i, columns.start), columns.len()) };
            c.iter_mut().for_each(|c| *c *= self.product.beta);
        }
    }
}
