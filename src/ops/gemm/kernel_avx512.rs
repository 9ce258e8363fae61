//! The register tile in AVX-512: up to 14 rows by 32 columns of C.
//!
//! 14 x 2 accumulators, two vectors of B and one broadcast of A fill 31 of the 32 registers. A step of k costs 28 fused
//! multiply-adds (14 cycles on two ports) against 16 loads, so the tile is bound by arithmetic as long as its panels
//! arrive: A's 4 and B's 9 bytes a cycle come out of L2, B's fetched some steps ahead.

use std::arch::x86_64::*;

use super::epilogue::Finish;
use super::kernel::{Kernel, PANEL, Start, Tile};
use super::pack::{self, Lanes};

pub(super) static KERNEL: Kernel = Kernel {
    name: "avx512",
    rows: ROWS,
    chunk: 768,
    tile,
    pack_rows,
    pack_columns,
    finish,
};

const ROWS: usize = 14;

/// How many steps of k ahead of its use a row of the B panel is fetched.
const AHEAD: usize = 12;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma")
}

unsafe fn tile(t: &Tile) {
    type Sized = unsafe fn(&Tile);
    macro_rules! heights {
        ($vectors:literal) => {
            [
                sized::<1, $vectors>,
                sized::<2, $vectors>,
                sized::<3, $vectors>,
                sized::<4, $vectors>,
                sized::<5, $vectors>,
                sized::<6, $vectors>,
                sized::<7, $vectors>,
                sized::<8, $vectors>,
                sized::<9, $vectors>,
                sized::<10, $vectors>,
                sized::<11, $vectors>,
                sized::<12, $vectors>,
                sized::<13, $vectors>,
                sized::<14, $vectors>,
            ]
        };
    }
    static SIZES: [[Sized; ROWS]; 2] = [heights!(1), heights!(2)];
    debug_assert!(t.columns > 0 && t.columns <= PANEL);
    // SAFETY: the caller vouches for instructions and memory; the entry is the one for this tile's size.
    unsafe { SIZES[(t.columns > 16) as usize][t.rows - 1](t) }
}

/// # Safety
/// AVX-512F is present, the memory is as [`Tile`] says, `rows` is R, and `columns` need V vectors.
#[target_feature(enable = "avx512f")]
unsafe fn sized<const R: usize, const V: usize>(t: &Tile) {
    let last = t.columns - 16 * (V - 1);
    let masks: [__mmask16; V] = std::array::from_fn(|v| if v + 1 < V { !0 } else { !0 >> (16 - last) });
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    let (mut a, mut b) = (t.a, t.b);
    // SAFETY: by the contract above, k steps of R values of A and 16·V values of B are valid, and so are the lanes of C
    // that the masks let through; a prefetch may name any address.
    unsafe {
        for i in 0..R {
            let c = t.c.add(i * t.c_row_stride);
            for v in 0..V {
                _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(16 * v).cast());
            }
        }
        for _ in 0..t.k {
            for v in 0..V {
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD * PANEL + 16 * v).cast());
            }
            let columns: [__m512; V] = std::array::from_fn(|v| _mm512_loadu_ps(b.add(16 * v)));
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*a.add(i * t.a_row_stride));
                for v in 0..V {
                    sums[v] = _mm512_fmadd_ps(x, columns[v], sums[v]);
                }
            }
            a = a.wrapping_add(t.a_step);
            b = b.wrapping_add(PANEL);
        }
        let alpha = _mm512_set1_ps(t.alpha);
        for (i, sums) in sums.iter().enumerate() {
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

#[target_feature(enable = "avx512f")]
unsafe fn pack_rows(lanes: &Lanes, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        if lanes.step_stride == 1 && lanes.lane_stride != 1 {
            transpose::<ROWS>(lanes, to)
        } else {
            pack::copy::<ROWS>(lanes, to)
        }
    }
}

#[target_feature(enable = "avx512f")]
unsafe fn pack_columns(lanes: &Lanes, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        if lanes.step_stride == 1 && lanes.lane_stride != 1 {
            transpose::<PANEL>(lanes, to)
        } else {
            pack::copy::<PANEL>(lanes, to)
        }
    }
}

/// Lanes whose steps are adjacent in memory: blocks of sixteen lanes by four steps are turned in registers.
///
/// A vector takes four steps of lanes q, q+4, q+8 and q+12 (for q = 0..4 after a permutation of the rows); two rounds of
/// unpacking within its quarters then give four steps of all sixteen lanes in order.
///
/// # Safety
/// AVX-512F is present; the memory is as [`Lanes`] says.
#[target_feature(enable = "avx512f")]
unsafe fn transpose<const WIDTH: usize>(lanes: &Lanes, to: *mut f32) {
    for first in (0..lanes.lanes).step_by(16) {
        let count = (lanes.lanes - first).min(16);
        // Lanes that do not exist are read from the first one; what they become is never used.
        let rows: [*const f32; 16] = std::array::from_fn(|lane| {
            let lane = first + if lane < count { lane } else { 0 };
            lanes.from.wrapping_add(lane * lanes.lane_stride)
        });
        let quads = lanes.steps / 4 * 4;
        // SAFETY: every row is valid for `steps` values. Stores go up in order and reach at most `16 - WIDTH` lanes
        // beyond a step's own, which the next step or the slack behind a panel takes.
        unsafe {
            for step in (0..quads).step_by(4) {
                let z: [__m512; 4] = std::array::from_fn(|q| {
                    let quarter = |lane: usize| _mm_loadu_ps(rows[lane].add(step));
                    let z = _mm512_castps128_ps512(quarter(q));
                    let z = _mm512_insertf32x4::<1>(z, quarter(q + 4));
                    let z = _mm512_insertf32x4::<2>(z, quarter(q + 8));
                    _mm512_insertf32x4::<3>(z, quarter(q + 12))
                });
                let low01 = _mm512_castps_pd(_mm512_unpacklo_ps(z[0], z[1]));
                let low23 = _mm512_castps_pd(_mm512_unpacklo_ps(z[2], z[3]));
                let high01 = _mm512_castps_pd(_mm512_unpackhi_ps(z[0], z[1]));
                let high23 = _mm512_castps_pd(_mm512_unpackhi_ps(z[2], z[3]));
                let to = to.add(step * WIDTH + first);
                _mm512_storeu_pd(to.cast(), _mm512_unpacklo_pd(low01, low23));
                _mm512_storeu_pd(to.add(WIDTH).cast(), _mm512_unpackhi_pd(low01, low23));
                _mm512_storeu_pd(to.add(2 * WIDTH).cast(), _mm512_unpacklo_pd(high01, high23));
                _mm512_storeu_pd(to.add(3 * WIDTH).cast(), _mm512_unpackhi_pd(high01, high23));
            }
            for step in quads..lanes.steps {
                for (lane, row) in rows.iter().enumerate().take(WIDTH - first) {
                    *to.add(step * WIDTH + first + lane) = *row.add(step);
                }
            }
        }
    }
}
