//! Products whose left rows are windows that slide over images: convolutions without copies of the windows.
//!
//! With channels innermost, what a window sees of one line of an image is one stretch of memory, and windows of adjacent
//! pixels begin a fixed distance apart. So a tile reads its rows where they lie, one line of the window after the other;
//! only the weights are packed. Every value of C is summed in the order of the window, whatever the number of threads.

use std::ops::Range;

use rayon::prelude::*;

use super::kernel::{Ahead, Kernel, PANEL, Start, Tile, best};
use super::packed::PackedB;
use super::plan::{part, pieces};
use super::raster::{Extent, Raster};
use crate::ops::meter;
use crate::ops::storage::Shared;

/// What one window sees: `lines` stretches of `steps` adjacent floats, `line_stride` floats apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub lines: usize,
    pub steps: usize,
    pub line_stride: usize,
}

/// y[pixel, n] = (y +) window(pixel)[k] · b[k, n] for every pixel.
pub struct Sliding<'a> {
    pub extent: Extent,
    pub x: &'a [f32],
    /// Where the window of each pixel begins in `x`.
    pub from: Raster,
    pub window: Window,
    /// [lines·steps, n]
    pub b: &'a PackedB,
    /// Where each pixel's n values begin in the destination.
    pub to: Raster,
}

/// What happens to the values that the destination has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old {
    Replaced,
    AddedTo,
}

/// Floats of windows or results that one task goes over: 1 MiB, half of L2.
const TASK_FLOATS: usize = 256 * 1024;

/// Steps that a tile sums in registers at most, if the window has several lines.
const STEPS: usize = 1536;

/// Tasks for each thread, so that one that is disturbed may leave some of its own to others.
const TASKS_PER_THREAD: usize = 4;

impl Sliding<'_> {
    /// Panics if anything lies outside of the slices.
    pub fn write(&self, y: &mut [f32], old: Old) {
        let (k, n) = self.b.shape();
        meter::operations(2 * self.extent.all_pixels() * k * n);
        self.write_with(y, old, best());
    }

    pub(super) fn write_with(&self, y: &mut [f32], old: Old, kernel: &Kernel) {
        let Sliding {
            extent, window, b, to, ..
        } = self;
        let (k, n) = b.shape();
        assert_eq!(k, window.lines * window.steps, "rows of the right operand");
        let seen = window.lines.max(1).saturating_sub(1) * window.line_stride + window.steps;
        assert!(
            self.x.len() >= self.from.end(extent, seen),
            "windows lie outside of the images"
        );
        assert!(y.len() >= to.end(extent, n), "results lie outside of the destination");
        assert!(to.pixel_stride >= n, "pixels of the destination overlap");
        if extent.all_pixels() == 0 || n == 0 {
            return;
        }
        let extent = match self.from.is_one_line(extent) && to.is_one_line(extent) {
            true => Extent {
                images: 1,
                lines: 1,
                pixels: extent.all_pixels(),
            },
            false => *extent,
        };
        let work = Work {
            sliding: self,
            extent,
            kernel,
            tiles_of_line: extent.pixels.div_ceil(kernel.rows),
            y: Shared::new(y),
            old,
        };
        work.compute();
    }
}

struct Work<'a> {
    sliding: &'a Sliding<'a>,
    extent: Extent,
    kernel: &'a Kernel,
    tiles_of_line: usize,
    y: Shared,
    old: Old,
}

impl Work<'_> {
    fn compute(&self) {
        let tiles = self.extent.all_lines() * self.tiles_of_line;
        let (k, n) = self.sliding.b.shape();
        let panels = n.div_ceil(PANEL);
        let wanted = rayon::current_num_threads() * TASKS_PER_THREAD;
        let pixels = self.extent.pixels.div_ceil(self.tiles_of_line);
        let floats = pixels * n.max(k / self.sliding.window.lines).min(k.max(n));
        let row_blocks = tiles
            .div_ceil((TASK_FLOATS / floats).max(4))
            .max(wanted.min(tiles / 4))
            .max(1);
        let column_blocks = wanted.div_ceil(row_blocks).min(panels);
        (0..row_blocks * column_blocks)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|task| {
                self.compute_task(
                    part(tiles, row_blocks, task / column_blocks),
                    part(panels, column_blocks, task % column_blocks),
                )
            });
    }

    fn compute_task(&self, tiles: Range<usize>, panels: Range<usize>) {
        let Window { lines, steps, .. } = self.sliding.window;
        let columns = self.sliding.b.panels();
        let at_a_time = (STEPS / steps.max(1)).clamp(1, lines.max(1));
        for panel in panels.clone() {
            for of_window in pieces(0..lines, at_a_time) {
                let next = match of_window.end < lines {
                    true => columns.at(PANEL, panel, of_window.end * steps),
                    false => columns.at(PANEL, (panel + 1).min(panels.end - 1), 0),
                };
                let floats = of_window.len() * steps * PANEL;
                let share = floats.div_ceil(tiles.len());
                for tile in tiles.clone() {
                    let ahead = Ahead {
                        from: next.wrapping_add((tile - tiles.start) * share),
                        step: share.div_ceil((of_window.len() * steps).max(1)),
                    };
                    self.compute_tile(tile, panel, &of_window, ahead);
                }
            }
        }
    }

    fn compute_tile(&self, tile: usize, panel: usize, lines: &Range<usize>, ahead: Ahead) {
        let Sliding {
            x, from, window, b, to, ..
        } = self.sliding;
        let line = tile / self.tiles_of_line;
        let pixels = part(self.extent.pixels, self.tiles_of_line, tile % self.tiles_of_line);
        let column = panel * PANEL;
        let first = from.line(&self.extent, line) + pixels.start * from.pixel_stride + lines.start * window.line_stride;
        let start = match (self.old, lines.start) {
            (Old::Replaced, 0) => Start::Overwrite,
            _ => Start::Add,
        };
        let tile = Tile {
            rows: pixels.len(),
            columns: PANEL.min(b.shape().1 - column),
            k: window.steps,
            repeats: lines.len(),
            a_leap: window.line_stride,
            b_leap: window.steps * PANEL,
            a: x.as_ptr().wrapping_add(first),
            a_row_stride: from.pixel_stride,
            a_step: 1,
            b: b.panels().at(PANEL, panel, lines.start * window.steps),
            ahead,
            c: self
                .y
                .at(to.line(&self.extent, line) + pixels.start * to.pixel_stride + column),
            c_row_stride: to.pixel_stride,
            other: None,
            alpha: 1.0,
            start,
        };
        // SAFETY: `write_with` has seen that all windows and results lie inside of their slices, and that pixels of the
        // destination do not overlap; tasks do not share tiles. The kernel is one of this machine.
        unsafe { (self.kernel.tile)(&tile) }
    }
}
