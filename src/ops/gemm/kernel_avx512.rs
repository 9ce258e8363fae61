//! The register tile in AVX-512: up to 14 rows by 32 columns of C.
//!
//! 14 x 2 accumulators, two vectors of B and one broadcast of A fill 31 of the 32 registers. A step of k costs 28 fused
//! multiply-adds (14 cycles on two ports) against 16 loads, so the tile is bound by arithmetic as long as its panels
//! arrive: A's 4 and B's 9 bytes a cycle come out of L2, B's fetched some steps ahead.

use std::arch::asm;
use std::arch::x86_64::*;

use super::epilogue::Finish;
use super::kernel::{Kernel, PANEL, Start, Tile};
use super::pack_avx512;

pub(super) static KERNEL: Kernel = Kernel {
    name: "avx512",
    rows: ROWS,
    width: WIDTH,
    chunk: 768,
    tile,
    pack_rows: pack_avx512::pack::<WIDTH>,
    pack_columns: pack_avx512::pack::<PANEL>,
    finish,
};

const ROWS: usize = 14;

/// Lanes of a packed panel of A: one line, so that packing stores whole ones.
const WIDTH: usize = 16;

/// How many steps of k ahead of its use a row of the B panel is fetched.
const AHEAD: usize = 12;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma")
}

unsafe fn tile(t: &Tile) {
    type Sized = unsafe fn(&Tile);
    macro_rules! heights {
        ($vectors:literal, $a:ty) => {
            [
                sized::<1, $vectors, $a>,
                sized::<2, $vectors, $a>,
                sized::<3, $vectors, $a>,
                sized::<4, $vectors, $a>,
                sized::<5, $vectors, $a>,
                sized::<6, $vectors, $a>,
                sized::<7, $vectors, $a>,
                sized::<8, $vectors, $a>,
                sized::<9, $vectors, $a>,
                sized::<10, $vectors, $a>,
                sized::<11, $vectors, $a>,
                sized::<12, $vectors, $a>,
                sized::<13, $vectors, $a>,
                sized::<14, $vectors, $a>,
            ]
        };
    }
    static PACKED: [[Sized; ROWS]; 2] = [heights!(1, PackedRows), heights!(2, PackedRows)];
    static STRIDED: [[Sized; ROWS]; 2] = [heights!(1, StridedRows), heights!(2, StridedRows)];
    debug_assert!(t.columns > 0 && t.columns <= PANEL);
    let is_packed = t.a_row_stride == 1 && t.a_step == WIDTH;
    let sizes = if is_packed { &PACKED } else { &STRIDED };
    // SAFETY: the caller vouches for instructions and memory; the entry is the one for this tile's size.
    unsafe { sizes[(t.columns > 16) as usize][t.rows - 1](t) }
}

/// Where the values of A are for a step of k: what is constant here need not be computed in the loop.
trait Rows: Copy {
    fn of(t: &Tile) -> Self;
    fn row(self, i: usize) -> *const f32;
    fn step(&mut self);
    /// Where the same rows are `distance` floats further on.
    fn further(self, distance: usize) -> Self;
}

/// A packed panel.
#[derive(Clone, Copy)]
struct PackedRows(*const f32);

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
struct StridedRows {
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

/// # Safety
/// AVX-512F is present, the memory is as [`Tile`] says, `rows` is R, `columns` need V vectors, and A lies as its type
/// says.
#[target_feature(enable = "avx512f")]
unsafe fn sized<const R: usize, const V: usize, A: Rows>(t: &Tile) {
    let last = t.columns - 16 * (V - 1);
    let masks: [__mmask16; V] = std::array::from_fn(|v| if v + 1 < V { !0 } else { !0 >> (16 - last) });
    let mut sums = [[_mm512_setzero_ps(); V]; ROWS];
    let (mut first_a, mut first_b, mut next) = (A::of(t), t.b, t.ahead.from);
    // SAFETY: by the contract above, all steps of R values of A and 16·V values of B are valid, and so are the lanes of C
    // that the masks let through; a prefetch may name any address.
    unsafe {
        // Rows of C and of the epilogue's matrix are fetched one after the other over the whole of the loop: all at once,
        // they would take up the buffers that loads of A and B need.
        let rows_a_step = (R << 16) / t.k.max(1);
        let (other, other_stride) = t.other.unwrap_or((t.c, t.c_row_stride));
        for _ in 0..t.repeats {
            let (mut a, mut b) = (first_a, first_b);
            for step in 0..t.k {
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
                                sums[$i][v] = _mm512_fmadd_ps(x, columns[v], sums[$i][v]);
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
