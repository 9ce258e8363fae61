//! Sums over pixels of products of what lies at a pixel with what lies around it: gradients of a convolution's weights.
//!
//! Many pixels are cut into slices with sums of their own, which are added in order in the end; within a slice, blocks of
//! pixels are gone over in order. A task owns rows and columns of one slice, and packs what it needs of both operands into its
//! own memory. Slices and blocks depend on the shape alone, so no sum depends on the number of threads.

use std::ops::Range;

use rayon::prelude::*;

use super::Products;
use super::kernel::{Ahead, Kernel, PANEL, Start, Tile, best};
use super::pack::Lanes;
use super::plan::{part, pieces};
use super::raster::{Extent, Raster};
use super::scratch;
use crate::ops::meter;
use crate::ops::storage::{Shared, unwritten};

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
    pub products: Products,
}

/// Pixels of a block: ten tiles of rows take 480 KiB, half of L2, and a panel of columns 96 KiB.
const BLOCK: usize = 768;

/// Tiles of rows in a task: what is packed of x serves all of them.
const TILES: usize = 10;

/// Pixels of a slice at least, slices at most, and floats of all slices' sums.
const SLICE: usize = 2048;
const SLICES: usize = 16;
const SLICED_FLOATS: usize = 1024 * 1024;

/// Tasks for each thread, so that one that is disturbed may leave some of its own to others.
const TASKS_PER_THREAD: usize = 4;

impl Correlation<'_> {
    /// Adds to c [rows, taps·columns]. Panics if anything lies outside of the slices.
    pub fn add_to(&self, c: &mut [f32]) {
        self.add_with(c, best(self.products));
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
        meter::operations(2 * self.extent.all_pixels() * c.len());
        if c.is_empty() || self.extent.all_pixels() == 0 {
            return;
        }
        let slices = (self.extent.all_pixels() / SLICE)
            .min(SLICED_FLOATS / c.len())
            .min(self.extent.all_lines())
            .clamp(1, SLICES);
        let mut sums = match slices {
            1 => Vec::new(),
            _ => unwritten(slices * c.len()),
        };
        let work = Work {
            correlation: self,
            kernel,
            tiles: self.rows.div_ceil(kernel.rows),
            line_steps: self.extent.pixels.div_ceil(kernel.depth),
            slices,
            size: c.len(),
            c: Shared::new(if slices == 1 { c } else { &mut sums }),
        };
        work.compute();
        if slices > 1 {
            add_up(c, &sums);
        }
    }

    /// Panels of x over all taps.
    fn panels(&self) -> usize {
        self.columns.div_ceil(PANEL) * self.taps.len()
    }
}

/// Adds every slice's sums to c.
fn add_up(c: &mut [f32], sums: &[f32]) {
    const AT_A_TIME: usize = 4096;
    let size = c.len();
    c.par_chunks_mut(AT_A_TIME).enumerate().for_each(|(at, c)| {
        for sums in sums.chunks_exact(size) {
            for (c, sum) in c.iter_mut().zip(&sums[at * AT_A_TIME..]) {
                *c += sum;
            }
        }
    });
}

struct Work<'a> {
    correlation: &'a Correlation<'a>,
    kernel: &'a Kernel,
    /// Tiles over all rows.
    tiles: usize,
    /// Steps of a line of pixels.
    line_steps: usize,
    slices: usize,
    /// Floats of one slice's sums.
    size: usize,
    /// The sums of all slices.
    c: Shared,
}

/// Pixels that are packed at a time, and what is done with them.
struct Block {
    lines: Range<usize>,
    steps: usize,
    start: Start,
    /// Where the slice's sums begin.
    c: usize,
}

impl Work<'_> {
    fn compute(&self) {
        let panels = self.correlation.panels();
        let wanted = rayon::current_num_threads() * TASKS_PER_THREAD;
        let row_groups = self.tiles.div_ceil(TILES);
        let column_groups = wanted.div_ceil(self.slices * row_groups).min(panels);
        (0..self.slices * row_groups * column_groups)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|task| {
                let (slice, group) = (task / (row_groups * column_groups), task % (row_groups * column_groups));
                self.compute_task(
                    slice,
                    part(self.tiles, row_groups, group / column_groups),
                    part(panels, column_groups, group % column_groups),
                )
            });
    }

    fn compute_task(&self, slice: usize, tiles: Range<usize>, panels: Range<usize>) {
        let Correlation { extent, .. } = self.correlation;
        let of_slice = part(extent.all_lines(), self.slices, slice);
        let at_a_time = (BLOCK / extent.pixels).max(1);
        let blocks = of_slice.len().div_ceil(at_a_time);
        let most = of_slice.len().div_ceil(blocks) * self.line_steps;
        let width = self.kernel.width;
        scratch::with_rows(tiles.len() * width * most, |a_lines| {
            scratch::with_columns(PANEL * most, |b_lines| {
                let (a, b) = (a_lines.as_mut_ptr(), b_lines.as_mut_ptr());
                for block in 0..blocks {
                    let lines = part(of_slice.len(), blocks, block);
                    let block = Block {
                        lines: of_slice.start + lines.start..of_slice.start + lines.end,
                        steps: lines.len() * self.line_steps,
                        start: match self.slices > 1 && block == 0 {
                            true => Start::Overwrite,
                            false => Start::Add,
                        },
                        c: slice * self.size,
                    };
                    self.pack_rows(&tiles, &block, a);
                    for panel in panels.clone() {
                        self.pack_columns(panel, &block, b);
                        for (at, tile) in tiles.clone().enumerate() {
                            let a = a.wrapping_add(at * width * block.steps);
                            self.compute_tile(tile, panel, &block, a, b);
                        }
                    }
                }
            })
        })
    }

    /// The tap of a panel, and its columns.
    fn columns(&self, panel: usize) -> (usize, Range<usize>) {
        let Correlation { columns, taps, .. } = self.correlation;
        let first = panel / taps.len() * PANEL;
        (panel % taps.len(), first..(first + PANEL).min(*columns))
    }

    /// Packs the rows of all tiles a few pixels at a time: what a pixel has of them is one stretch of memory.
    fn pack_rows(&self, tiles: &Range<usize>, block: &Block, to: *mut f32) {
        const FEW: usize = 16;
        let Correlation {
            extent,
            g,
            g_raster,
            rows,
            ..
        } = self.correlation;
        let width = self.kernel.width;
        for (at, line) in block.lines.clone().enumerate() {
            for pixels in pieces(0..extent.pixels, FEW) {
                let first = g_raster.line(extent, line) + pixels.start * g_raster.pixel_stride;
                for (panel, tile) in tiles.clone().enumerate() {
                    let rows = part(*rows, self.tiles, tile);
                    let lanes = Lanes {
                        from: g.as_ptr().wrapping_add(first + rows.start),
                        lanes: rows.len(),
                        lane_stride: 1,
                        values: pixels.len(),
                        k_stride: g_raster.pixel_stride,
                    };
                    let step = panel * block.steps + at * self.line_steps + pixels.start / self.kernel.depth;
                    // SAFETY: `add_with` has seen that all pixels lie inside of g; the task's lines have room for the block.
                    unsafe { (self.kernel.pack_rows)(&lanes, to.wrapping_add(step * width)) }
                }
            }
        }
    }

    fn pack_columns(&self, panel: usize, block: &Block, to: *mut f32) {
        let Correlation {
            extent,
            x,
            x_raster,
            taps,
            ..
        } = self.correlation;
        let (tap, columns) = self.columns(panel);
        for (at, line) in block.lines.clone().enumerate() {
            let first = x_raster.line(extent, line) + taps[tap] + columns.start;
            let lanes = Lanes {
                from: x.as_ptr().wrapping_add(first),
                lanes: columns.len(),
                lane_stride: 1,
                values: extent.pixels,
                k_stride: x_raster.pixel_stride,
            };
            let to = to.wrapping_add(at * self.line_steps * PANEL);
            // SAFETY: `add_with` has seen that all pixels and taps lie inside of x; the lines have room for the block.
            unsafe { (self.kernel.pack_columns)(&lanes, to) }
        }
    }

    fn compute_tile(&self, tile: usize, panel: usize, block: &Block, a: *const f32, b: *const f32) {
        let Correlation {
            rows, columns, taps, ..
        } = self.correlation;
        let rows = part(*rows, self.tiles, tile);
        let stride = taps.len() * columns;
        let (tap, of_tap) = self.columns(panel);
        let tile = Tile {
            rows: rows.len(),
            columns: of_tap.len(),
            steps: block.steps,
            repeats: 1,
            a_leap: 0,
            b_leap: 0,
            a,
            a_row_stride: 1,
            a_step: self.kernel.width,
            b,
            ahead: Ahead { from: b, step: 0 },
            c: self.c.at(block.c + rows.start * stride + tap * columns + of_tap.start),
            c_row_stride: stride,
            other: None,
            alpha: 1.0,
            start: block.start,
        };
        // SAFETY: both operands are packed for all steps; this task alone writes these rows and columns of this slice's
        // sums, which lie inside of c.
        unsafe { (self.kernel.tile)(&tile) }
    }
}
