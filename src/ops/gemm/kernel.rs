//! What a machine must bring to the product: a register tile, packing of panels, and the epilogue's loops, each
//! compiled for its instruction set and chosen once a product at run time.
//!
//! A step is what a tile multiplies of each lane at once, and takes a float's room in a panel: one value of k, or a pair of
//! adjacent ones in bf16, the former in the lower half.

use std::ops::Range;

use super::Products;
use super::epilogue::Finish;
use super::pack::Lanes;

/// Columns of a packed panel of B, for every kernel.
pub(super) const PANEL: usize = 32;

/// One tile of C and what it is made of: c (+)= alpha · a · b over `repeats` times `steps` steps.
///
/// Valid are, of each repetition r: `a[r * a_leap + i * a_row_stride + p * a_step]` for i < rows and p < steps;
/// `b[r * b_leap + p * 32 + j]` for j < 32 and p < steps; and `c[i * c_row_stride + j]` for i < rows and j < columns, which
/// this call alone may touch.
pub(super) struct Tile {
    pub rows: usize,
    pub columns: usize,
    pub steps: usize,
    /// How often these steps are taken: the lines of a window that slides over an image.
    pub repeats: usize,
    /// Floats from one repetition to the next.
    pub a_leap: usize,
    pub b_leap: usize,
    pub a: *const f32,
    pub a_row_stride: usize,
    pub a_step: usize,
    pub b: *const f32,
    pub ahead: Ahead,
    pub c: *mut f32,
    pub c_row_stride: usize,
    /// The tile of another matrix that will be needed next, and the distance of its rows.
    pub other: Option<(*const f32, usize)>,
    pub alpha: f32,
    pub start: Start,
}

/// What to fetch into L2 during a tile: it is read by later ones.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub from: *const f32,
    /// Floats for each step.
    pub step: usize,
}

/// What a tile does with the values that C has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Start {
    /// They are not read.
    Overwrite,
    Add,
}

/// One implementation of the product's inner parts.
pub(super) struct Kernel {
    pub name: &'static str,
    /// Values of k in a step.
    pub depth: usize,
    /// Rows of a tile.
    pub rows: usize,
    /// Lanes of a packed panel of A, of which the first ones are used, a tile's rows.
    pub width: usize,
    /// Steps that one tile adds up before C is touched.
    pub chunk: usize,
    /// Computes a tile of up to `rows` by 32.
    ///
    /// # Safety
    /// The machine has the kernel's instructions; the memory is as [`Tile`] says.
    pub tile: unsafe fn(&Tile),
    /// Packs a panel of `rows` lanes.
    ///
    /// # Safety
    /// The machine has the kernel's instructions; the memory is as [`Lanes`] says.
    pub pack_rows: unsafe fn(&Lanes, *mut f32),
    /// Packs a panel of 32 lanes.
    ///
    /// # Safety
    /// As `pack_rows`.
    pub pack_columns: unsafe fn(&Lanes, *mut f32),
    /// Applies an epilogue to a finished tile.
    ///
    /// # Safety
    /// The machine has the kernel's instructions; the memory is as [`Finish`] says.
    pub finish: unsafe fn(&Finish),
}

impl Kernel {
    /// The values of k in these steps; there are `k` in all.
    pub fn values(&self, steps: &Range<usize>, k: usize) -> Range<usize> {
        (self.depth * steps.start).min(k)..(self.depth * steps.end).min(k)
    }
}

/// The best kernel of this machine.
pub(super) fn best(products: Products) -> &'static Kernel {
    #[cfg(target_arch = "x86_64")]
    {
        use super::{kernel_avx2, kernel_avx512};
        match products {
            Products::F32 if kernel_avx512::is_available() => return &kernel_avx512::F32,
            Products::F32 if kernel_avx2::is_available() => return &kernel_avx2::KERNEL,
            Products::Bf16 if kernel_avx512::has_bf16() => return &kernel_avx512::BF16,
            _ => {}
        }
    }
    match products {
        Products::F32 => &super::kernel_portable::F32,
        Products::Bf16 => &super::kernel_portable::BF16,
    }
}

/// Every kernel that this machine can run.
#[cfg(test)]
pub(super) fn available() -> Vec<&'static Kernel> {
    let mut all = vec![&super::kernel_portable::F32, &super::kernel_portable::BF16];
    #[cfg(target_arch = "x86_64")]
    {
        use super::{kernel_avx2, kernel_avx512};
        if kernel_avx2::is_available() {
            all.push(&kernel_avx2::KERNEL);
        }
        if kernel_avx512::is_available() {
            all.push(&kernel_avx512::F32);
        }
        if kernel_avx512::has_bf16() {
            all.push(&kernel_avx512::BF16);
        }
    }
    all
}
