//! Packing with vectors of sixteen lanes.

use std::arch::x86_64::*;

use super::pack::{self, Lanes};

/// Packs a stretch of a panel of `WIDTH` lanes, a multiple of sixteen.
///
/// # Safety
/// AVX-512F is present; the memory is as [`Lanes`] says.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn pack<const WIDTH: usize>(lanes: &Lanes, to: *mut f32) {
    const { assert!(WIDTH.is_multiple_of(16)) };
    // SAFETY: the caller's promise.
    unsafe {
        match (lanes.lane_stride, lanes.k_stride) {
            (1, _) => copy::<WIDTH>(lanes, to),
            (_, 1) => transpose::<WIDTH>(lanes, to),
            _ => pack::copy::<WIDTH>(lanes, to),
        }
    }
}

/// Lanes that are adjacent in memory.
///
/// # Safety
/// As [`pack`].
#[target_feature(enable = "avx512f")]
unsafe fn copy<const WIDTH: usize>(lanes: &Lanes, to: *mut f32) {
    for first in (0..lanes.lanes).step_by(16) {
        let mask: __mmask16 = !0 >> (16 - (lanes.lanes - first).min(16));
        for step in 0..lanes.values {
            // SAFETY: the mask lets existing lanes through alone.
            unsafe {
                let x = _mm512_maskz_loadu_ps(mask, lanes.from.add(step * lanes.k_stride + first));
                _mm512_storeu_ps(to.add(step * WIDTH + first), x);
            }
        }
    }
}

/// Lanes whose steps are adjacent in memory: blocks of sixteen lanes by four steps are turned in registers.
///
/// A vector takes four steps of lanes q, q+4, q+8 and q+12; two rounds of unpacking within the quarters of four vectors
/// (q = 0..4) then give four steps of all sixteen lanes in order.
///
/// # Safety
/// As [`pack`].
#[target_feature(enable = "avx512f")]
unsafe fn transpose<const WIDTH: usize>(lanes: &Lanes, to: *mut f32) {
    for first in (0..lanes.lanes).step_by(16) {
        let count = (lanes.lanes - first).min(16);
        // Lanes that do not exist repeat the first one; what they become is never used.
        let rows: [*const f32; 16] = std::array::from_fn(|lane| {
            let lane = first + if lane < count { lane } else { 0 };
            lanes.from.wrapping_add(lane * lanes.lane_stride)
        });
        let quads = lanes.values / 4 * 4;
        // SAFETY: every row is valid for `steps` values, and so are sixteen lanes of every step of the destination.
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
            for step in quads..lanes.values {
                for (lane, row) in rows.iter().enumerate() {
                    *to.add(step * WIDTH + first + lane) = *row.add(step);
                }
            }
        }
    }
}
