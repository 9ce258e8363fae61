//! The register tile in AVX-512, of f32 and of pairs of bf16: up to 14 rows by 32 columns of C.
//!
//! 14 x 2 accumulators, two vectors of B and one broadcast of A fill 31 of the 32 registers. A step costs 28 fused
//! multiply-adds (14 cycles on two ports) against 16 loads, so the tile is bound by arithmetic as long as its panels
//! arrive: A's 4 and B's 9 bytes a cycle come out of L2, B's fetched some steps ahead. VDPBF16PS does a step of two
//! values of k in the same time.
//!
//! VDPBF16PS multiplies exactly and rounds each of its two sums to nearest; it takes denormal numbers for 0, and makes none.

mod rows;

use std::arch::x86_64::*;

use super::epilogue::Finish;
use super::kernel::{Kernel, PANEL, Start, Tile};
use super::{pack_avx512, pack_bf16};
use rows::{PackedRows, Rows, StridedRows};

pub(super) static F32: Kernel = Kernel {
    name: "avx512",
    depth: 1,
    rows: ROWS,
    width: WIDTH,
    chunk: CHUNK,
    tile: tile_f32,
    pack_rows: pack_avx512::pack::<WIDTH>,
    pack_columns: pack_avx512::pack::<PANEL>,
    finish,
};

pub(super) static BF16: Kernel = Kernel {
    name: "avx512_bf16",
    depth: 2,
    rows: ROWS,
    width: WIDTH,
    chunk: CHUNK,
    tile: tile_bf16,
    pack_rows: pack_bf16::pack::<WIDTH>,
    pack_columns: pack_bf16::pack::<PANEL>,
    finish,
};

const ROWS: usize = 14;

/// Lanes of a packed panel of A: one line, so that packing stores whole ones.
const WIDTH: usize = 16;

const CHUNK: usize = 768;

/// How many steps ahead of its use a row of the B panel is fetched.
const AHEAD: usize = 12;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma")
}

/// And is bf16 rounded and multiplied? AVX512BW and VL are what packing needs besides.
pub(super) fn has_bf16() -> bool {
    is_available()
        && is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
}

type Sized = unsafe fn(&Tile);

/// Tiles of every size: by how A lies, by vectors, by rows.
type Sizes = [[[Sized; ROWS]; 2]; 2];

macro_rules! sizes {
    ($sized:ident) => {
        [
            [sizes!($sized, 1, PackedRows), sizes!($sized, 2, PackedRows)],
            [sizes!($sized, 1, StridedRows), sizes!($sized, 2, StridedRows)],
        ]
    };
    ($sized:ident, $vectors:literal, $a:ty) => {
        [
            $sized::<1, $vectors, $a>,
            $sized::<2, $vectors, $a>,
            $sized::<3, $vectors, $a>,
            $sized::<4, $vectors, $a>,
            $sized::<5, $vectors, $a>,
            $sized::<6, $vectors, $a>,
            $sized::<7, $vectors, $a>,
            $sized::<8, $vectors, $a>,
            $sized::<9, $vectors, $a>,
            $sized::<10, $vectors, $a>,
            $sized::<11, $vectors, $a>,
            $sized::<12, $vectors, $a>,
            $sized::<13, $vectors, $a>,
            $sized::<14, $vectors, $a>,
        ]
    };
}

unsafe fn tile_f32(t: &Tile) {
    static SIZES: Sizes = sizes!(sized_f32);
    // SAFETY: the caller vouches for instructions and memory.
    unsafe { choose(&SIZES, t) }
}

unsafe fn tile_bf16(t: &Tile) {
    static SIZES: Sizes = sizes!(sized_bf16);
    // SAFETY: as above.
    unsafe { choose(&SIZES, t) }
}

/// # Safety
/// The machine has the instructions of `sizes`; the memory is as [`Tile`] says.
unsafe fn choose(sizes: &Sizes, t: &Tile) {
    debug_assert!(t.columns > 0 && t.columns <= PANEL);
    let is_strided = t.a_row_stride != 1 || t.a_step != WIDTH;
    // SAFETY: the entry is the one for this tile's size; the rest is the caller's promise.
    unsafe { sizes[is_strided as usize][(t.columns > 16) as usize][t.rows - 1](t) }
}

/// What the floats of panels hold.
trait Step {
    /// sum + a · b, lane by lane.
    ///
    /// # Safety
    /// The machine has the instructions for it.
    unsafe fn multiply_add(a: __m512, b: __m512, sum: __m512) -> __m512;
}

/// One value.
struct Single;

impl Step for Single {
    #[inline(always)]
    unsafe fn multiply_add(a: __m512, b: __m512, sum: __m512) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_fmadd_ps(a, b, sum) }
    }
}

/// Two values in bf16.
struct Pair;

impl Step for Pair {
    #[inline(always)]
    unsafe fn multiply_add(a: __m512, b: __m512, sum: __m512) -> __m512 {
        // SAFETY: the caller's promise; both types are 64 bytes of any value.
        unsafe {
            let [a, b] = [a, b].map(|pairs| std::mem::transmute::<__m512, __m512bh>(pairs));
            _mm512_dpbf16_ps(sum, a, b)
        }
    }
}

/// # Safety
/// As [`sized`], with AVX-512F.
#[target_feature(enable = "avx512f")]
unsafe fn sized_f32<const R: usize, const V: usize, A: Rows>(t: &Tile) {
    // SAFETY: the caller's promise.
    unsafe { sized::<R, V, A, Single>(t) }
}

/// # Safety
/// As [`sized`], with AVX-512F and AVX512_BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn sized_bf16<const R: usize, const V: usize, A: Rows>(t: &Tile) {
    // SAFETY: the caller's promise.
    unsafe { sized::<R, V, A, Pair>(t) }
}

/// # Safety
/// AVX-512F and the step's instructions are present, the memory is as [`Tile`] says, `rows` is R, `columns` need V vectors,
/// and A lies as its type says. Whoever calls it is compiled for these instructions.
#[inline(always)]
unsafe fn sized<const R: usize, const V: usize, A: Rows, S: Step>(t: &Tile) {
    let last = t.columns - 16 * (V - 1);
    let masks: [__mmask16; V] = std::array::from_fn(|v| if v + 1 < V { !0 } else { !0 >> (16 - last) });
    let (mut first_a, mut first_b, mut next) = (A::of(t), t.b, t.ahead.from);
    // SAFETY: by the contract above, all steps of R values of A and 16·V values of B are valid, and so are the lanes of C
    // that the masks let through; a prefetch may name any address.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); V]; ROWS];
        // Rows of C and of the epilogue's matrix are fetched one after the other over the whole of the loop: all at once,
        // they would take up the buffers that loads of A and B need.
        let rows_a_step = (R << 16) / t.steps.max(1);
        let (other, other_stride) = t.other.unwrap_or((t.c, t.c_row_stride));
        for _ in 0..t.repeats {
            let (mut a, mut b) = (first_a, first_b);
            for step in 0..t.steps {
                let row = (step * rows_a_step) >> 16;
                let c = t.c.wrapping_add(row * t.c_row_stride);
                let other = other.wrapping_add(row * other_stride);
                for v in 0..V {
                    _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD * PANEL + 16 * v).cast());
                    _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(16 * v).cast());
                    _mm_prefetch::<_MM_HINT_T0>(other.wrapping_add(16 * v).cast());
                }
                _mm_prefetch::<_MM_HINT_T1>(next.cast());
                next = next.wrapping_add(t.ahead.step);
                let columns: [__m512; V] = std::array::from_fn(|v| _mm512_loadu_ps(b.add(16 * v)));
                macro_rules! rows {
                    ($($i:literal)*) => {
                        $(if $i < R {
                            let x = _mm512_set1_ps(*a.row($i));
                            for v in 0..V {
                                sums[$i][v] = S::multiply_add(x, columns[v], sums[$i][v]);
                            }
                        })*
                    };
                }
                rows!(0 1 2 3 4 5 6 7 8 9 10 11 12 13);
                a.step();
                b = b.wrapping_add(PANEL);
            }
            first_a = first_a.further(t.a_leap);
            first_b = first_b.wrapping_add(t.b_leap);
        }
        let alpha = _mm512_set1_ps(t.alpha);
        for (i, sums) in sums.iter().enumerate().take(R) {
            for v in 0..V {
                let c = t.c.add(i * t.c_row_stride + 16 * v);
                let value = match t.start {
                    Start::Overwrite => _mm512_mul_ps(alpha, sums[v]),
                    Start::Add => _mm512_fmadd_ps(alpha, sums[v], _mm512_maskz_loadu_ps(masks[v], c)),
                };
                _mm512_mask_storeu_ps(c, masks[v], value);
            }
        }
    }
}

#[target_feature(enable = "avx512f,fma")]
unsafe fn finish(tile: &Finish) {
    // SAFETY: the caller's promise.
    unsafe { tile.apply() }
}
