//! Sums over pixels of products of what lies at a pixel with what lies around it: gradients of a convolution's weights.
//!
//! Every task owns some rows of one panel of columns and goes over all pixels in order, a block at a time; it packs what it
//! needs of both operands into its own memory. So no sum depends on the number of threads.

use std::ops::Range;

use rayon::prelude::*;

use super::kernel::{Ahead, Kernel, PANEL, Start, Tile, best};
use super::pack::Lanes;
use super::plan::{part, pieces};
use super::raster::{Extent, Raster};
use super::scratch;
use crate::ops::meter;
use crate::ops::storage::Shared;

/// c[row, tap·columns + column] += Σ over pixels of g[pixel, row] · x[pixel + tap, column].
pub struct Correlation<'a> {
    pub extent: Extent,
    pub g: &'a [f32],
    /// Where each pixel's `rows` values lie in `g`.
    pub g_raster: Raster,
    pub rows: usize,
    pub x: &'a [f32],
    /// Where each pixel's values begin in `x`, for a tap at distance 0.
    pub x_raster: Raster,
    pub columns: usize,
    /// Distances in `x`, in floats.
    pub taps: &'a [usize],
}

/// Pixels of a block: its panel of x takes 256 KiB.
const BLOCK: usize = 2048;

/// Tiles of rows in a task: what is packed of x serves all of them.
const TILES: usize = 10;

/// Tasks for each thread that are worth packing the same more than once.
const TASKS_PER_THREAD: usize = 4;

impl Correlation<'_> {
    /// Adds to c [rows, taps·columns]. Panics if anything lies outside of the slices.
    pub fn add_to(&self, c: &mut [f32]) {
        meter::operations(2 * self.extent.all_pixels() * c.len());
        self.add_with(c, best());
    }

    pub(super) fn add_with(&self, c: &mut [f32], kernel: &Kernel) {
        let furthest = self.taps.iter().max().copied().unwrap_or(0);
        assert!(
            self.g.len() >= self.g_raster.end(&self.extent, self.rows),
            "g is too small"
        );
        assert!(
            self.x.len() >= self.x_raster.end(&self.extent, furthest + self.columns),
            "x is too small"
        );
        assert_eq!(c.len(), self.rows * self.columns * self.taps.len(), "values of c");
        if c.is_empty() || self.extent.all_pixels() == 0 {
            return;
        }
        let tiles = self.rows.div_ceil(kernel.rows);
        let panels = self.columns.div_ceil(PANEL);
        let wanted = rayon::current_num_threads() * TASKS_PER_THREAD;
        let groups = tiles.div_ceil(TILES).max(wanted.div_ceil(panels).min(tiles / 4)).max(1);
        let work = Work {
            correlation: self,
            kernel,
            tiles,
            c: Shared::new(c),
        };
        (0..groups * panels)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|task| work.compute_task(part(tiles, groups, task / panels), task % panels));
    }
}

struct Work<'a> {
    correlation: &'a Correlation<'a>,
    kernel: &'a Kernel,
    tiles: usize,
    c: Shared,
}

impl Work<'_> {
    fn compute_task(&self, tiles: Range<usize>, panel: usize) {
        let Correlation { extent, taps, .. } = self.correlation;
        let (all, lines) = (extent.all_lines(), (BLOCK / extent.pixels).max(1));
        let steps = lines.min(all) * extent.pixels;
        let width = self.kernel.width;
        scratch::with_rows(tiles.len() * width * steps, |a_lines| {
            scratch::with_columns(PANEL * steps, |b_lines| {
                let (a, b) = (a_lines.as_mut_ptr(), b_lines.as_mut_ptr());
                for block in pieces(0..all, lines) {
                    let steps = block.len() * extent.pixels;
                    for (at, tile) in tiles.clone().enumerate() {
                        self.pack_rows(tile, &block, a.wrapping_add(at * width * steps));
                    }
                    for (at, tap) in taps.iter().enumerate() {
                        self.pack_columns(panel, *tap, &block, b);
                        for (packed, tile) in tiles.clone().enumerate() {
                            let a = a.wrapping_add(packed * width * steps);
                            self.compute_tile(tile, panel, at, steps, a, b);
                        }
                    }
                }
            })
        })
    }

    fn pack_rows(&self, tile: usize, block: &Range<usize>, to: *mut f32) {
        let Correlation {
            extent,
            g,
            g_raster,
            rows,
            ..
        } = self.correlation;
        let rows = part(*rows, self.tiles, tile);
        for (at, line) in block.clone().enumerate() {
            let lanes = Lanes {
                from: g.as_ptr().wrapping_add(g_raster.line(extent, line) + rows.start),
                lanes: rows.len(),
                lane_stride: 1,
                steps: extent.pixels,
                step_stride: g_raster.pixel_stride,
            };
            let to = to.wrapping_add(at * extent.pixels * self.kernel.width);
            // SAFETY: `add_with` has seen that all pixels lie inside of g; the task's lines have room for the block.
            unsafe { (self.kernel.pack_rows)(&lanes, to) }
        }
    }

    fn pack_columns(&self, panel: usize, tap: usize, block: &Range<usize>, to: *mut f32) {
        let Correlation {
            extent,
            x,
            x_raster,
            columns,
            ..
        } = self.correlation;
        let column = panel * PANEL;
        for (at, line) in block.clone().enumerate() {
            let lanes = Lanes {
                from: x.as_ptr().wrapping_add(x_raster.line(extent, line) + tap + column),
                lanes: PANEL.min(columns - column),
                lane_stride: 1,
                steps: extent.pixels,
                step_stride: x_raster.pixel_stride,
            };
            let to = to.wrapping_add(at * extent.pixels * PANEL);
            // SAFETY: `add_with` has seen that all pixels and taps lie inside of x; the lines have room for the block.
            unsafe { (self.kernel.pack_columns)(&lanes, to) }
        }
    }

    fn compute_tile(&self, tile: usize, panel: usize, tap: usize, steps: usize, a: *const f32, b: *const f32) {
        let Correlation {
            rows, columns, taps, ..
        } = self.correlation;
        let rows = part(*rows, self.tiles, tile);
        let (column, stride) = (panel * PANEL, taps.len() * columns);
        let tile = Tile {
            rows: rows.len(),
            columns: PANEL.min(columns - column),
            k: steps,
            repeats: 1,
            a_leap: 0,
            b_leap: 0,
            a,
            a_row_stride: 1,
            a_step: self.kernel.width,
            b,
            ahead: Ahead { from: b, step: 0 },
            c: self.c.at(rows.start * stride + tap * columns + column),
            c_row_stride: stride,
            other: None,
            alpha: 1.0,
            start: Start::Add,
        };
        // SAFETY: both operands are packed for `steps` steps; this task alone writes these rows and columns of c, which
        // lie inside of it.
        unsafe { (self.kernel.tile)(&tile) }
    }
}
