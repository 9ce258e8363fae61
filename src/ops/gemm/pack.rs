//! Panels: a few lanes (rows of A or columns of B) side by side for every step of k, so that a tile reads memory in
//! order.

use std::ops::Range;

use super::kernel::{Kernel, PANEL};
use super::pairs::pair;
use super::plan::Plan;
use super::view::MatRef;

/// Panels one after the other, each with all of its steps.
#[derive(Clone, Debug)]
pub(super) struct Panels {
    start: *mut f32,
    /// The number of the first panel.
    first: usize,
    steps: Range<usize>,
}

// SAFETY: an address; threads write disjoint panels through it, and read only what is written.
unsafe impl Send for Panels {}
// SAFETY: as above.
unsafe impl Sync for Panels {}

impl Panels {
    pub fn new(start: *mut f32, first: usize, steps: Range<usize>) -> Self {
        Panels { start, first, steps }
    }

    /// Where a step of a panel of `width` lanes begins.
    pub fn at(&self, width: usize, panel: usize, step: usize) -> *mut f32 {
        let steps = (panel - self.first) * self.steps.len() + (step - self.steps.start);
        self.start.wrapping_add(steps * width)
    }
}

/// What a stretch of one panel is made of: value k of a lane is `from[lane * lane_stride + k * k_stride]`.
///
/// Valid are those with lane < `lanes` and k < `values`, and WIDTH floats of the destination for each step of the kernel, the
/// last of which may be filled up with zeros. The lanes that are missing to a full panel get any values.
pub(super) struct Lanes {
    pub from: *const f32,
    pub lanes: usize,
    pub lane_stride: usize,
    /// Of k.
    pub values: usize,
    pub k_stride: usize,
}

/// Packs the rows of A of some tiles.
///
/// # Safety
/// The panels have room for the kernel's width of lanes of each tile, and nobody else touches them. The machine has the
/// kernel's instructions.
pub(super) unsafe fn rows(kernel: &Kernel, a_mk: &MatRef, plan: &Plan, tiles: Range<usize>, to: &Panels) {
    for steps in stretches(a_mk.row_stride, &to.steps) {
        for tile in tiles.clone() {
            let rows = plan.rows(tile);
            let lanes = Lanes {
                from: a_mk.at(rows.start, kernel.depth * steps.start),
                lanes: rows.len(),
                lane_stride: a_mk.row_stride,
                values: kernel.values(&steps, a_mk.columns).len(),
                k_stride: a_mk.column_stride,
            };
            // SAFETY: rows and steps lie inside of A; the rest is the caller's promise.
            unsafe { (kernel.pack_rows)(&lanes, to.at(kernel.width, tile, steps.start)) }
        }
    }
}

/// Packs panels of columns of B.
///
/// # Safety
/// The panels have room for 32 lanes each, and nobody else touches them. The machine has the kernel's instructions.
pub(super) unsafe fn columns(kernel: &Kernel, b_kn: &MatRef, panels: Range<usize>, to: &Panels) {
    for steps in stretches(b_kn.column_stride, &to.steps) {
        for panel in panels.clone() {
            let column = panel * PANEL;
            let lanes = Lanes {
                from: b_kn.at(kernel.depth * steps.start, column),
                lanes: PANEL.min(b_kn.columns - column),
                lane_stride: b_kn.column_stride,
                values: kernel.values(&steps, b_kn.rows).len(),
                k_stride: b_kn.row_stride,
            };
            // SAFETY: columns and steps lie inside of B; the rest is the caller's promise.
            unsafe { (kernel.pack_columns)(&lanes, to.at(PANEL, panel, steps.start)) }
        }
    }
}

/// Where lanes are adjacent, a step of all panels is one long stretch of memory: they are packed a few steps at a time.
/// Otherwise a lane is a long stretch itself.
fn stretches(lane_stride: usize, steps: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    const FEW: usize = 16;
    let length = if lane_stride == 1 { FEW } else { steps.len().max(1) };
    let steps = steps.clone();
    (steps.clone())
        .step_by(length)
        .map(move |start| start..(start + length).min(steps.end))
}

/// Packs a stretch of a panel of `WIDTH` lanes, value by value.
///
/// # Safety
/// The memory is as [`Lanes`] says.
#[inline(always)]
pub(super) unsafe fn copy<const WIDTH: usize>(lanes: &Lanes, to: *mut f32) {
    // SAFETY: indices stay below `lanes` and `values`.
    unsafe {
        if lanes.lane_stride == 1 && lanes.lanes == WIDTH {
            for step in 0..lanes.values {
                let from = lanes.from.add(step * lanes.k_stride).cast::<[f32; WIDTH]>();
                to.add(step * WIDTH)
                    .cast::<[f32; WIDTH]>()
                    .write_unaligned(from.read_unaligned());
            }
            return;
        }
        // A block of steps of all lanes stays in L1 whichever way memory runs.
        const BLOCK: usize = 64;
        for first in (0..lanes.values).step_by(BLOCK) {
            let steps = BLOCK.min(lanes.values - first);
            for lane in 0..lanes.lanes {
                let from = lanes.from.add(lane * lanes.lane_stride + first * lanes.k_stride);
                let to = to.add(first * WIDTH + lane);
                for step in 0..steps {
                    *to.add(step * WIDTH) = *from.add(step * lanes.k_stride);
                }
            }
        }
    }
}

/// The same for steps of pairs in bf16, each value rounded to nearest.
///
/// # Safety
/// As [`copy`].
pub(super) unsafe fn round<const WIDTH: usize>(lanes: &Lanes, to: *mut f32) {
    for lane in 0..lanes.lanes {
        for step in 0..lanes.values.div_ceil(2) {
            let value = |k: usize| match k < lanes.values {
                // SAFETY: lane < `lanes` and k < `values`.
                true => unsafe { *lanes.from.add(lane * lanes.lane_stride + k * lanes.k_stride) },
                false => 0.0,
            };
            // SAFETY: there is room for every step.
            unsafe { *to.add(step * WIDTH + lane) = pair(value(2 * step), value(2 * step + 1)) }
        }
    }
}
