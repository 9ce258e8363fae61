//! A right operand laid out once as tiles read it, for weights that many products share.

use rayon::prelude::*;

use super::kernel::{Kernel, PANEL, best};
use super::pack::{self, Lanes, Panels};
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

    /// Matrices [k_i, n] below one another: the taps of a convolution. Panels are packed by all threads of the pool.
    pub fn stacked(parts_kn: &[MatRef]) -> Self {
        Self::stacked_with_kernel(parts_kn, best())
    }

    pub(super) fn stacked_with_kernel(parts_kn: &[MatRef], kernel: &Kernel) -> Self {
        let n = parts_kn.first().map_or(0, |part| part.columns);
        assert!(parts_kn.iter().all(|part| part.columns == n), "parts of other widths");
        let k = parts_kn.iter().map(|part| part.rows).sum();
        let count = n.div_ceil(PANEL);
        let mut lines = Lines::with_room_for(count * PANEL * k);
        let panels = Panels::new(lines.as_mut_ptr(), 0, 0..k);
        (0..count).into_par_iter().for_each(|panel| {
            let column = panel * PANEL;
            let mut first = 0;
            for part in parts_kn {
                let lanes = Lanes {
                    from: part.at(0, column),
                    lanes: PANEL.min(n - column),
                    lane_stride: part.column_stride,
                    steps: part.rows,
                    step_stride: part.row_stride,
                };
                // SAFETY: the part's rows and these columns lie inside of it; the lines have room for every panel, and
                // this task alone writes this one. The machine has `kernel`'s instructions.
                unsafe { (kernel.pack_columns)(&lanes, panels.at(PANEL, panel, first)) };
                first += part.rows;
            }
        });
        PackedB { lines, k, n }
    }

    pub(super) fn with_kernel(b_kn: MatRef, kernel: &Kernel) -> Self {
        let (k, n) = b_kn.shape();
        let count = n.div_ceil(PANEL);
        let mut lines = Lines::with_room_for(count * PANEL * k);
        let panels = Panels::new(lines.as_mut_ptr(), 0, 0..k);
        // SAFETY: the lines have room for every panel and are ours; the machine has `kernel`'s instructions.
        unsafe { pack::columns(kernel, &b_kn, 0..count, &panels) };
        PackedB { lines, k, n }
    }

    /// (k, n)
    pub fn shape(&self) -> (usize, usize) {
        (self.k, self.n)
    }

    pub fn bytes(&self) -> usize {
        self.lines.len() * size_of::<f32>()
    }

    /// To be read, not written.
    pub(super) fn panels(&self) -> Panels {
        Panels::new(self.lines.as_ptr().cast_mut(), 0, 0..self.k)
    }
}
