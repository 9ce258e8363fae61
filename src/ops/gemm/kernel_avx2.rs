//! The register tile in AVX2 with FMA: up to 6 rows by 16 columns, twice for a panel of 32.
//!
//! 6 x 2 accumulators, two vectors of B and two broadcasts of A fill the 16 registers.

use std::arch::x86_64::*;

use super::epilogue::Finish;
use super::kernel::{Kernel, PANEL, Start, Tile};
use super::pack::{self, Lanes};

pub(super) static KERNEL: Kernel = Kernel {
    name: "avx2",
    depth: 1,
    rows: ROWS,
    width: ROWS,
    chunk: 384,
    tile,
    pack_rows,
    pack_columns,
    finish,
};

const ROWS: usize = 6;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

unsafe fn tile(t: &Tile) {
    type Sized = unsafe fn(&Tile, usize);
    static SIZES: [Sized; ROWS] = [sized::<1>, sized::<2>, sized::<3>, sized::<4>, sized::<5>, sized::<6>];
    for first in (0..t.columns).step_by(16) {
        // SAFETY: the caller vouches for instructions and memory; the entry is the one for this tile's height.
        unsafe { SIZES[t.rows - 1](t, first) }
    }
}

/// Columns `first..first + 16` of the tile.
///
/// # Safety
/// AVX2 and FMA are present, the memory is as [`Tile`] says, and `rows` is R.
#[target_feature(enable = "avx2,fma")]
unsafe fn sized<const R: usize>(t: &Tile, first: usize) {
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    for repetition in 0..t.repeats {
        let mut a = t.a.wrapping_add(repetition * t.a_leap);
        let mut b = t.b.wrapping_add(repetition * t.b_leap + first);
        // SAFETY: by the contract above, all steps of R values of A and 16 of B are valid.
        unsafe {
            for _ in 0..t.steps {
                let columns = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))];
                for (i, sums) in sums.iter_mut().enumerate() {
                    let x = _mm256_broadcast_ss(&*a.add(i * t.a_row_stride));
                    sums[0] = _mm256_fmadd_ps(x, columns[0], sums[0]);
                    sums[1] = _mm256_fmadd_ps(x, columns[1], sums[1]);
                }
                a = a.wrapping_add(t.a_step);
                b = b.wrapping_add(PANEL);
            }
        }
    }
    let alpha = _mm256_set1_ps(t.alpha);
    let columns = (t.columns - first).min(16);
    for (i, sums) in sums.iter().enumerate() {
        // SAFETY: row i of C has `first + columns` values; a partial row goes through a buffer of a whole one.
        unsafe {
            let c = t.c.add(i * t.c_row_stride + first);
            let mut row = [0f32; 16];
            let whole = columns == 16;
            let to = if whole { c } else { row.as_mut_ptr() };
            if t.start == Start::Add && !whole {
                std::ptr::copy_nonoverlapping(c, to, columns);
            }
            for (half, sum) in sums.iter().enumerate() {
                let to = to.add(8 * half);
                let value = match t.start {
                    Start::Overwrite => _mm256_mul_ps(alpha, *sum),
                    Start::Add => _mm256_fmadd_ps(alpha, *sum, _mm256_loadu_ps(to)),
                };
                _mm256_storeu_ps(to, value);
            }
            if !whole {
                std::ptr::copy_nonoverlapping(to, c, columns);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn finish(tile: &Finish) {
    // SAFETY: the caller's promise.
    unsafe { tile.apply() }
}

#[target_feature(enable = "avx2")]
unsafe fn pack_rows(lanes: &Lanes, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { pack::copy::<ROWS>(lanes, to) }
}

#[target_feature(enable = "avx2")]
unsafe fn pack_columns(lanes: &Lanes, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { pack::copy::<PANEL>(lanes, to) }
}
