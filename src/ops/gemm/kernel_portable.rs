//! The register tile in plain Rust, for machines whose vectors the compiler knows (NEON, SSE2): 4 rows by 16 columns.
//!
//! In bf16 it is much slower than in f32: it says what the product of rounded operands is, for machines and tests that
//! have no instruction for it.

use super::epilogue::Finish;
use super::kernel::{Kernel, PANEL, Start, Tile};
use super::pack;

pub(super) static F32: Kernel = Kernel {
    name: "portable",
    depth: 1,
    rows: ROWS,
    width: ROWS,
    chunk: 384,
    tile: tile::<Single>,
    pack_rows: pack::copy::<ROWS>,
    pack_columns: pack::copy::<PANEL>,
    finish,
};

pub(super) static BF16: Kernel = Kernel {
    name: "portable bf16",
    depth: 2,
    rows: ROWS,
    width: ROWS,
    chunk: 384,
    tile: tile::<Pair>,
    pack_rows: pack::round::<ROWS>,
    pack_columns: pack::round::<PANEL>,
    finish,
};

const ROWS: usize = 4;
const WIDTH: usize = 16;

/// What a float of a panel holds.
trait Step {
    /// sum + a · b
    fn multiply_add(a: f32, b: f32, sum: f32) -> f32;
}

/// One value.
struct Single;

impl Step for Single {
    #[inline(always)]
    fn multiply_add(a: f32, b: f32, sum: f32) -> f32 {
        multiply_add(a, b, sum)
    }
}

/// Two values in bf16, which are the upper halves of floats.
struct Pair;

impl Step for Pair {
    #[inline(always)]
    fn multiply_add(a: f32, b: f32, sum: f32) -> f32 {
        let upper = |pair: f32| f32::from_bits(pair.to_bits() & 0xffff_0000);
        let lower = |pair: f32| f32::from_bits(pair.to_bits() << 16);
        // VDPBF16PS, too, adds the upper half's product first. Products are exact.
        multiply_add(lower(a), lower(b), multiply_add(upper(a), upper(b), sum))
    }
}

/// A fused multiply-add is fast only where it is an instruction.
#[inline(always)]
fn multiply_add(a: f32, b: f32, sum: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        a.mul_add(b, sum)
    } else {
        a * b + sum
    }
}

unsafe fn tile<S: Step>(t: &Tile) {
    type Sized = unsafe fn(&Tile, usize);
    let sizes: [Sized; ROWS] = [sized::<1, S>, sized::<2, S>, sized::<3, S>, sized::<4, S>];
    for first in (0..t.columns).step_by(WIDTH) {
        // SAFETY: the caller vouches for the memory; the entry is the one for this tile's height.
        unsafe { sizes[t.rows - 1](t, first) }
    }
}

/// Columns `first..first + 16` of the tile.
///
/// # Safety
/// The memory is as [`Tile`] says, and `rows` is R.
unsafe fn sized<const R: usize, S: Step>(t: &Tile, first: usize) {
    let mut sums = [[0f32; WIDTH]; R];
    for repetition in 0..t.repeats {
        let (a, b) = (
            t.a.wrapping_add(repetition * t.a_leap),
            t.b.wrapping_add(repetition * t.b_leap),
        );
        for p in 0..t.steps {
            // SAFETY: p < steps, so 32 values of B and R of A are valid.
            unsafe {
                let columns = b.add(p * PANEL + first).cast::<[f32; WIDTH]>().read_unaligned();
                for (i, sums) in sums.iter_mut().enumerate() {
                    let x = *a.add(i * t.a_row_stride + p * t.a_step);
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = S::multiply_add(x, column, *sum);
                    }
                }
            }
        }
    }
    let columns = (t.columns - first).min(WIDTH);
    for (i, sums) in sums.iter().enumerate() {
        for (j, sum) in sums.iter().enumerate().take(columns) {
            // SAFETY: i < rows and first + j < columns.
            unsafe {
                let c = t.c.add(i * t.c_row_stride + first + j);
                *c = match t.start {
                    Start::Overwrite => t.alpha * sum,
                    Start::Add => multiply_add(t.alpha, *sum, *c),
                };
            }
        }
    }
}

unsafe fn finish(tile: &Finish) {
    // SAFETY: the caller's promise.
    unsafe { tile.apply() }
}
