//! How a tile reaches its rows of A: in a packed panel, or where they lie.

use std::arch::asm;

use super::WIDTH;
use crate::ops::gemm::kernel::Tile;

/// Where the values of A are for a step: what is constant here need not be computed in the loop.
pub(super) trait Rows: Copy {
    fn of(t: &Tile) -> Self;
    fn row(self, i: usize) -> *const f32;
    fn step(&mut self);
    /// Where the same rows are `distance` floats further on.
    fn further(self, distance: usize) -> Self;
}

/// A packed panel.
#[derive(Clone, Copy)]
pub(super) struct PackedRows(*const f32);

impl Rows for PackedRows {
    #[inline(always)]
    fn of(t: &Tile) -> Self {
        PackedRows(t.a)
    }

    #[inline(always)]
    fn row(self, i: usize) -> *const f32 {
        self.0.wrapping_add(i)
    }

    #[inline(always)]
    fn step(&mut self) {
        self.0 = self.0.wrapping_add(WIDTH);
    }

    #[inline(always)]
    fn further(self, distance: usize) -> Self {
        PackedRows(self.0.wrapping_add(distance))
    }
}

/// Rows of a matrix, reached from four of them by the distances that an address can hold: 0, 1, 2, 4 and 8 strides.
#[derive(Clone, Copy)]
pub(super) struct StridedRows {
    /// Rows 0, 3, 5 and 10.
    starts: [*const f32; 4],
    stride: usize,
    step: usize,
}

impl Rows for StridedRows {
    #[inline(always)]
    fn of(t: &Tile) -> Self {
        StridedRows {
            starts: [0, 3, 5, 10].map(|row| t.a.wrapping_add(row * t.a_row_stride)),
            stride: t.a_row_stride,
            step: t.a_step,
        }
    }

    #[inline(always)]
    fn row(self, i: usize) -> *const f32 {
        let (start, strides) = match i {
            0 | 1 | 2 | 4 | 8 => (0, i),
            3 | 11 => (1, i - 3),
            5 | 6 | 7 | 9 | 13 => (2, i - 5),
            _ => (3, i - 10),
        };
        self.starts[start].wrapping_add(strides * self.stride)
    }

    #[inline(always)]
    fn step(&mut self) {
        let bytes = size_of::<f32>() * self.step;
        for start in &mut self.starts {
            // SAFETY: an addition. It stands here as an instruction because the compiler would keep the four addresses in
            // one vector, and take them out again for every load: half as fast.
            unsafe { asm!("add {0}, {1}", inout(reg) *start, in(reg) bytes, options(pure, readonly, nostack)) };
        }
    }

    #[inline(always)]
    fn further(self, distance: usize) -> Self {
        StridedRows {
            starts: self.starts.map(|start| start.wrapping_add(distance)),
            ..self
        }
    }
}
