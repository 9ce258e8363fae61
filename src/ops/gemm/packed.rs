//! A right operand laid out once as tiles read it, for weights that many products share.

use super::kernel::{Kernel, PANEL, best};
use super::pack::Lanes;
use super::scratch::Lines;
use super::view::MatRef;

/// B [k, n] in panels of 32 columns, each with its k steps one after the other; the last one is filled up.
///
/// It takes `4 · k · (n rounded up to 32)` bytes. A frozen weight [o, i] has two: its transpose [i, o] for the forward
/// pass and itself for the backward pass.
pub struct PackedB {
    lines: Lines,
    k: usize,
    n: usize,
}

impl PackedB {
    pub fn new(b_kn: MatRef) -> Self {
        Self::with_kernel(b_kn, best())
    }

    pub(super) fn with_kernel(b_kn: MatRef, kernel: &Kernel) -> Self {
        let (k, n) = b_kn.shape();
        let mut lines = Lines::with_room_for(n.div_ceil(PANEL) * PANEL * k + 16);
        for panel in 0..n.div_ceil(PANEL) {
            let to = lines.as_mut_ptr().wrapping_add(panel * PANEL * k);
            // SAFETY: the lines have room for every panel and the slack; the machine has `kernel`'s instructions.
            unsafe { pack_columns(kernel, &b_kn, panel, 0, k, to) };
        }
        PackedB { lines, k, n }
    }

    /// (k, n)
    pub fn shape(&self) -> (usize, usize) {
        (self.k, self.n)
    }

    pub fn bytes(&self) -> usize {
        self.lines.len() * size_of::<f32>()
    }

    pub(super) fn as_ptr(&self) -> *const f32 {
        self.lines.as_ptr()
    }
}

/// Packs steps `step..step + steps` of one panel of columns of B.
///
/// # Safety
/// The machine has `kernel`'s instructions, and `to` room for the steps and 16 floats.
pub(super) unsafe fn pack_columns(
    kernel: &Kernel,
    b_kn: &MatRef,
    panel: usize,
    step: usize,
    steps: usize,
    to: *mut f32,
) {
    let column = panel * PANEL;
    let lanes = Lanes {
        from: b_kn.at(step, column),
        lanes: PANEL.min(b_kn.columns - column),
        lane_stride: b_kn.column_stride,
        steps,
        step_stride: b_kn.row_stride,
    };
    // SAFETY: lanes and steps lie inside the matrix; the rest is the caller's promise.
    unsafe { (kernel.pack_columns)(&lanes, to) }
}
