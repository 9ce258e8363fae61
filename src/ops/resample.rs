//! Resizing of u8 images, equal to Pillow's bit for bit.
//!
//! Two passes over u8, each a weighted sum in 22-bit fixed point, rounded and clipped to u8. When a picture shrinks, the
//! filter widens with the factor (antialiasing). Only the samples that are asked for are computed.
//! The method is Pillow's `Image.resize` (its Resample.c is the specification: weights, rounding, bounds). The passes are
//! ordered as by Pillow 13; older versions always begin horizontally, which changes a few values in a hundred by 1.
//! What to crop and how to normalize is decided in `data`.

mod axis;
mod kernels;

use std::ops::Range;

pub use axis::{Axis, Filter};

/// Bytes behind the last sample of every row that is read: the kernels load whole vectors.
pub const ROW_SLACK: usize = 64;

/// Three planes of u8 of the same shape: a rectangle out of a larger picture.
///
/// Row `y` of plane `c` starts at `planes[c][(y - y0) * stride]` and holds the picture's columns from `x0`.
pub struct Planes {
    pub planes: [Vec<u8>; 3],
    /// Bytes from row to row; at least width + `ROW_SLACK`.
    pub stride: usize,
    pub columns: Range<usize>,
    pub rows: Range<usize>,
}

impl Default for Planes {
    fn default() -> Self {
        Planes {
            planes: [Vec::new(), Vec::new(), Vec::new()],
            stride: ROW_SLACK,
            columns: 0..0,
            rows: 0..0,
        }
    }
}

impl Planes {
    /// Takes on this shape; what the samples are is then undefined. Memory only ever grows.
    pub fn reshape(&mut self, columns: Range<usize>, rows: Range<usize>) {
        self.stride = (columns.len() + ROW_SLACK).next_multiple_of(64);
        let bytes = self.stride * rows.len();
        for plane in &mut self.planes {
            if plane.len() < bytes {
                plane.resize(bytes, 0);
            }
        }
        self.columns = columns;
        self.rows = rows;
    }

    /// A copy that takes no more memory than its shape needs.
    pub fn to_owned_exactly(&self) -> Planes {
        let bytes = self.stride * self.rows.len();
        Planes {
            planes: self.planes.each_ref().map(|plane| plane[..bytes].to_vec()),
            stride: self.stride,
            columns: self.columns.clone(),
            rows: self.rows.clone(),
        }
    }

    /// From column `columns.start` on, with the slack behind the last one.
    pub fn row(&self, channel: usize, y: usize) -> &[u8] {
        &self.planes[channel][(y - self.rows.start) * self.stride..][..self.stride]
    }

    pub fn row_mut(&mut self, channel: usize, y: usize) -> &mut [u8] {
        &mut self.planes[channel][(y - self.rows.start) * self.stride..][..self.stride]
    }

    /// Row `y` of all planes.
    pub fn rows_mut(&mut self, y: usize) -> [&mut [u8]; 3] {
        let range = (y - self.rows.start) * self.stride..(y + 1 - self.rows.start) * self.stride;
        self.planes.each_mut().map(|plane| &mut plane[range.clone()])
    }
}

/// Resizes pictures; keeps its working memory.
#[derive(Default)]
pub struct Resampler {
    /// The horizontal pass' result, where it comes first.
    narrowed: Planes,
    line: Vec<u8>,
    /// The vertical pass' result, where that comes first.
    wide_line: Vec<u8>,
}

impl Resampler {
    /// Calls `emit(channel, row, samples)` for each channel and each row of `vertical.outputs()`, in this order of nesting;
    /// `samples` are those of `horizontal.outputs()`.
    ///
    /// Input (0, 0) of the axes is the pixel `origin` = (x, y) of the source, which must contain `horizontal.inputs()` x
    /// `vertical.inputs()`.
    pub fn run(
        &mut self,
        source: &Planes,
        origin: (usize, usize),
        horizontal: &Axis,
        vertical: &Axis,
        emit: impl FnMut(usize, usize, &[u8]),
    ) {
        let at = |inputs: Range<usize>, origin: usize| inputs.start + origin..inputs.end + origin;
        let (columns, rows) = (at(horizontal.inputs(), origin.0), at(vertical.inputs(), origin.1));
        assert!(
            source.columns.start <= columns.start && columns.end <= source.columns.end,
            "columns of the source"
        );
        assert!(
            source.rows.start <= rows.start && rows.end <= source.rows.end,
            "rows of the source"
        );
        match begins_vertically(horizontal.size(), vertical.size()) {
            true => self.vertical_first(source, origin, horizontal, vertical, emit),
            false => self.horizontal_first(source, origin, horizontal, vertical, emit),
        }
    }

    fn horizontal_first(
        &mut self,
        source: &Planes,
        origin: (usize, usize),
        horizontal: &Axis,
        vertical: &Axis,
        mut emit: impl FnMut(usize, usize, &[u8]),
    ) {
        let width = horizontal.outputs().len();
        self.narrowed.reshape(0..width, 0..vertical.inputs().len());
        self.line.resize(width + ROW_SLACK, 0);
        let first = horizontal.inputs().start + origin.0 - source.columns.start;
        for channel in 0..3 {
            for (input, y) in vertical.inputs().enumerate() {
                let from = &source.row(channel, y + origin.1)[first..];
                let to = self.narrowed.row_mut(channel, input);
                match horizontal.is_identity() {
                    true => to[..width].copy_from_slice(&from[..width]),
                    false => horizontal.kernels.horizontal(horizontal, from, to),
                }
            }
            for (at, y) in vertical.outputs().enumerate() {
                if vertical.is_identity() {
                    emit(channel, y, &self.narrowed.row(channel, at)[..width]);
                    continue;
                }
                let rows = |input: usize| self.narrowed.row(channel, input);
                vertical.kernels.vertical(vertical, at, rows, width, &mut self.line);
                emit(channel, y, &self.line[..width]);
            }
        }
    }

    fn vertical_first(
        &mut self,
        source: &Planes,
        origin: (usize, usize),
        horizontal: &Axis,
        vertical: &Axis,
        mut emit: impl FnMut(usize, usize, &[u8]),
    ) {
        let (wide, width) = (horizontal.inputs().len(), horizontal.outputs().len());
        let first = horizontal.inputs().start + origin.0 - source.columns.start;
        self.wide_line.resize(wide + ROW_SLACK, 0);
        self.line.resize(width + ROW_SLACK, 0);
        for channel in 0..3 {
            let rows = |input: usize| &source.row(channel, input + vertical.inputs().start + origin.1)[first..];
            for (at, y) in vertical.outputs().enumerate() {
                vertical.kernels.vertical(vertical, at, rows, wide, &mut self.wide_line);
                if horizontal.is_identity() {
                    emit(channel, y, &self.wide_line[..width]);
                    continue;
                }
                horizontal
                    .kernels
                    .horizontal(horizontal, &self.wide_line, &mut self.line);
                emit(channel, y, &self.line[..width]);
            }
        }
    }
}

/// Pillow 13 begins with the direction that loses far more samples, if that is the vertical one. Of each: inputs, outputs.
pub(super) fn begins_vertically(horizontal: (usize, usize), vertical: (usize, usize)) -> bool {
    let lost = |(inputs, outputs): (usize, usize)| inputs as isize - outputs as isize;
    lost(vertical) > 0 && lost(vertical) > 2 * lost(horizontal)
}

#[cfg(test)]
mod tests;
