//! A right operand laid out once as tiles read it, for weights that many products share.

use super::kernel::{Kernel, PANEL, best};
use super::pack::{self, Panels};
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
