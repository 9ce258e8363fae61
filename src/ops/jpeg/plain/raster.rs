//! Which blocks are decoded, and how many samples each of them becomes.

use super::super::frame::{Frame, Sampling};
use super::super::{Rect, Scale};

/// Interpolated chroma depends on this many pixels more, in each direction.
const REACH: usize = 2;

/// What blocks become: samples of this many pixels.
pub(super) struct Raster {
    pub width: usize,
    pub height: usize,
    scale: Scale,
    /// Of the samples: chroma that the file has at half the size is as large as reduced luma if its own blocks are reduced less.
    pub sampling: Sampling,
}

impl Raster {
    pub fn new(frame: &Frame<'_>, scale: Scale) -> Raster {
        Raster {
            width: scale.reduced(frame.width),
            height: scale.reduced(frame.height),
            scale,
            sampling: match (frame.sampling, scale) {
                (Sampling::HalfWidthAndHeight, Scale::Half | Scale::Quarter | Scale::Eighth) => Sampling::Full,
                (sampling, _) => sampling,
            },
        }
    }

    /// Samples of a component's block in each direction, where `of_file` is its sampling there.
    pub fn block(&self, of_file: Sampling, component: usize) -> usize {
        let luma = 8 / self.scale.divisor();
        match component > 0 && self.sampling != of_file {
            true => 2 * luma,
            false => luma,
        }
    }
}

/// The MCUs that are decoded: half-open ranges of columns and rows.
pub(super) struct Window {
    pub columns: (usize, usize),
    pub rows: (usize, usize),
    /// MCUs across the picture.
    pub across: usize,
}

impl Window {
    pub fn around(rect: Rect, frame: &Frame<'_>, raster: &Raster) -> Window {
        let (across, down) = frame.sampling.luma_blocks();
        let side = raster.block(frame.sampling, 0);
        let range = |start: usize, end: usize, mcu: usize, size: usize| {
            (start.saturating_sub(REACH) / mcu, (end + REACH).min(size).div_ceil(mcu))
        };
        Window {
            columns: range(rect.x, rect.right(), across * side, raster.width),
            rows: range(rect.y, rect.bottom(), down * side, raster.height),
            across: frame.width.div_ceil(across * 8),
        }
    }
}

/// Blocks of a component in an MCU, across and down.
pub(super) fn blocks_of(sampling: Sampling, component: usize) -> (usize, usize) {
    match component {
        0 => sampling.luma_blocks(),
        _ => (1, 1),
    }
}
