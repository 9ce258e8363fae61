//! Products whose left rows are windows that slide over images: convolutions without copies of the windows.
//!
//! With channels innermost, what a window sees of one line of an image is one stretch of memory, and windows of adjacent
//! pixels begin a fixed distance apart. So a tile reads its rows where they lie, one line of the window after the other;
//! only the weights are packed. In bf16 images are rounded before, as a whole ([`Images`]). Every value of C is summed in the order of the window, whatever the number of threads.

use std::ops::Range;

use rayon::prelude::*;

use super::Products;
use super::kernel::{Ahead, Kernel, PANEL, Start, Tile, best};
use super::packed::PackedB;
use super::pairs::Images;
use super::plan::{part, pieces};
use super::raster::{Extent, Raster};
use crate::ops::meter;
use crate::ops::storage::Shared;

/// What one window sees: `lines` stretches of adjacent values, `line_stride` values apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub lines: usize,
    pub values: usize,
    pub line_stride: usize,
}

/// y[pixel, n] = (y +) window(pixel)[k] · b[k, n] for every pixel.
pub struct Sliding<'a> {
    pub extent: Extent,
    pub x: &'a Images<'a>,
    /// Where the window of each pixel begins in `x`, in values.
    pub from: Raster,
    pub window: Window,
    /// [lines·values, n], packed for the format that `x` has.
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
        let kernel = match self.x {
            Images::Values(_) => best(Products::F32),
            Images::Pairs(_) => best(Products::Bf16),
        };
        let (k, n) = self.b.shape();
        meter::operations(2 * self.extent.all_pixels() * k * n);
        self.write_with(y, old, kernel);
    }

    pub(super) fn write_with(&self, y: &mut [f32], old: Old, kernel: &Kernel) {
        let Sliding { extent, b, to, .. } = self;
        let (x, depth, n) = (self.x.floats(), self.x.depth(), b.shape().1);
        let (from, window) = (self.from.in_steps(depth), self.window.in_steps(depth));
        let steps = window.lines * window.values;
        assert_eq!(b.depth_and_steps(), (depth, steps), "rows of the right operand");
        let seen = window.lines.max(1).saturating_sub(1) * window.line_stride + window.values;
        assert!(x.len() >= from.end(extent, seen), "windows lie outside of the images");
        assert!(y.len() >= to.end(extent, n), "results lie outside of the destination");
        assert!(to.pixel_stride >= n, "pixels of the destination overlap");
        if extent.all_pixels() == 0 || n == 0 {
            return;
        }
        let extent = match from.is_one_line(extent) && to.is_one_line(extent) {
            true => Extent {
                images: 1,
                lines: 1,
                pixels: extent.all_pixels(),
            },
            false => *extent,
        };
        let work = Work {
            x,
            from,
            lines: window.lines,
            steps: window.values,
            line_stride: window.line_stride,
            b,
            to,
            extent,
            kernel,
            tiles_of_line: extent.pixels.div_ceil(kernel.rows),
            y: Shared::new(y),
            old,
        };
        work.compute();
    }
}

/// Distances in `x` are in floats of the kernel's steps here.
struct Work<'a> {
    x: &'a [f32],
    from: Raster,
    /// Of a window, and the steps of each.
    lines: usize,
    steps: usize,
    line_stride: usize,
    b: &'a PackedB,
    to: &'a Raster,
    extent: Extent,
    kernel: &'a Kernel,
    tiles_of_line: usize,
    y: Shared,
    old: Old,
}

impl Work<'_> {
    fn compute(&self) {
        let tiles = self.extent.all_lines() * self.tiles_of_line;
        let (steps, n) = (self.lines * self.steps, self.b.shape().1);
        let panels = n.div_ceil(PANEL);
        let wanted = rayon::current_num_threads() * TASKS_PER_THREAD;
        let pixels = self.extent.pixels.div_ceil(self.tiles_of_line);
        let floats = pixels * n.max(self.steps).min(steps.max(n));
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
        let Work { lines, steps, .. } = *self;
        let columns = self.b.panels();
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
        let Work { from, to, b, .. } = self;
        let line = tile / self.tiles_of_line;
        let pixels = part(self.extent.pixels, self.tiles_of_line, tile % self.tiles_of_line);
        let column = panel * PANEL;
        let first = from.line(&self.extent, line) + pixels.start * from.pixel_stride + lines.start * self.line_stride;
        let start = match (self.old, lines.start) {
            (Old::Replaced, 0) => Start::Overwrite,
            _ => Start::Add,
        };
        let tile = Tile {
            rows: pixels.len(),
            columns: PANEL.min(b.shape().1 - column),
            steps: self.steps,
            repeats: lines.len(),
            a_leap: self.line_stride,
            b_leap: self.steps * PANEL,
            a: self.x.as_ptr().wrapping_add(first),
            a_row_stride: from.pixel_stride,
            a_step: 1,
            b: b.panels().at(PANEL, panel, lines.start * self.steps),
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
