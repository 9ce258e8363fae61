//! A right operand laid out once as tiles read it, for weights that many products share.

use rayon::prelude::*;

use super::Products;
use super::kernel::{Kernel, PANEL, best};
use super::pack::{Lanes, Panels};
use super::scratch::Lines;
use super::view::MatRef;

/// B [k, n] in panels of 32 columns, each with its steps one after the other; the last one is filled up.
///
/// It takes `4 · k · (n rounded up to 32)` bytes, half of that in bf16. A frozen weight [o, i] has two: its transpose [i, o] for
/// the forward pass and itself for the backward pass.
pub struct PackedB {
    lines: Lines,
    k: usize,
    n: usize,
    depth: usize,
    steps: usize,
}

impl PackedB {
    pub fn new(b_kn: MatRef, products: Products) -> Self {
        Self::with_kernel(&[b_kn], best(products))
    }

    /// Matrices [k_i, n] below one another: the taps of a convolution.
    pub fn stacked(parts_kn: &[MatRef], products: Products) -> Self {
        Self::with_kernel(parts_kn, best(products))
    }

    /// Panels are packed by all threads of the pool.
    pub(super) fn with_kernel(parts_kn: &[MatRef], kernel: &Kernel) -> Self {
        let n = parts_kn.first().map_or(0, |part| part.columns);
        assert!(parts_kn.iter().all(|part| part.columns == n), "parts of other widths");
        let k = parts_kn.iter().map(|part| part.rows).sum();
        let steps = parts_kn.iter().map(|part| part.rows.div_ceil(kernel.depth)).sum();
        let count = n.div_ceil(PANEL);
        let mut lines = Lines::with_room_for(count * PANEL * steps);
        let panels = Panels::new(lines.as_mut_ptr(), 0, 0..steps);
        (0..count).into_par_iter().for_each(|panel| {
            let column = panel * PANEL;
            let mut first = 0;
            for part in parts_kn {
                let lanes = Lanes {
                    from: part.at(0, column),
                    lanes: PANEL.min(n - column),
                    lane_stride: part.column_stride,
                    values: part.rows,
                    k_stride: part.row_stride,
                };
                // SAFETY: the part's rows and these columns lie inside of it; the lines have room for every panel, and
                // this task alone writes this one. The machine has `kernel`'s instructions.
                unsafe { (kernel.pack_columns)(&lanes, panels.at(PANEL, panel, first)) };
                first += part.rows.div_ceil(kernel.depth);
            }
        });
        PackedB {
            lines,
            k,
            n,
            depth: kernel.depth,
            steps,
        }
    }

    /// (k, n)
    pub fn shape(&self) -> (usize, usize) {
        (self.k, self.n)
    }

    pub fn bytes(&self) -> usize {
        self.lines.len() * size_of::<f32>()
    }

    /// Values of k in a step, and steps in all.
    pub(super) fn depth_and_steps(&self) -> (usize, usize) {
        (self.depth, self.steps)
    }

    /// To be read, not written.
    pub(super) fn panels(&self) -> Panels {
        Panels::new(self.lines.as_ptr().cast_mut(), 0, 0..self.steps)
    }
}
