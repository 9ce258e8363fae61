//! Pillow's filter SMOOTH, which sharpness is measured from: a weighted mean of 3 x 3 pixels; the border stays as it is.

use std::ops::Range;

use super::clip::byte;
use crate::ops::simd::vectorized;

const OUTER: f32 = 1.0 / 13.0;
const MIDDLE: f32 = 5.0 / 13.0;
/// Columns that go down the picture together.
const COLUMNS: usize = 64;

/// Writes the smoothed `from`, both `[3, height, width]`.
pub(super) fn smooth(from_chw: &[u8], to_chw: &mut [u8], (width, height): (usize, usize)) {
    let plane = width * height;
    to_chw.copy_from_slice(from_chw);
    if width < 3 || height < 3 {
        return;
    }
    for (from, to) in from_chw.chunks_exact(plane).zip(to_chw.chunks_exact_mut(plane)) {
        for start in (1..width - 1).step_by(COLUMNS) {
            let columns = start..(start + COLUMNS).min(width - 1);
            vectorized(
                #[inline(always)]
                || smooth_columns(from, to, width, columns.clone()),
            );
        }
    }
}

/// The sums have Pillow's order, from below, since each addition rounds: 0.5, then three pixels of a row at a time.
#[inline(always)]
fn smooth_columns(from: &[u8], to: &mut [u8], width: usize, columns: Range<usize>) {
    let count = columns.len();
    // Of the row that is written: sums of the row above, and of its own.
    let (mut above, mut own) = ([0.0; COLUMNS], [0.0; COLUMNS]);
    // Of its own row, as the one above the next.
    let mut next_above = [0.0; COLUMNS];
    for (below, row) in from.chunks_exact(width).enumerate() {
        let mut values = [0; COLUMNS + 2];
        values[..count + 2].copy_from_slice(&row[columns.start - 1..columns.end + 1]);
        let outer = sums(&values, OUTER);
        if below >= 2 {
            let mut smoothed = [0; COLUMNS];
            for x in 0..COLUMNS {
                smoothed[x] = byte(0.5 + outer[x] + own[x] + above[x]);
            }
            to[(below - 1) * width..][columns.clone()].copy_from_slice(&smoothed[..count]);
        }
        (above, next_above) = (next_above, outer);
        own = sums(&values, MIDDLE);
    }
}

#[inline(always)]
fn sums(values: &[u8; COLUMNS + 2], middle: f32) -> [f32; COLUMNS] {
    let mut sums = [0.0; COLUMNS];
    for x in 0..COLUMNS {
        sums[x] = values[x] as f32 * OUTER + values[x + 1] as f32 * middle + values[x + 2] as f32 * OUTER;
    }
    sums
}
