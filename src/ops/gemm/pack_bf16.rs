//! Packing in AVX-512 with rounding to bf16: a float of a panel is a pair of adjacent values of k, the former below.
//!
//! VCVTNE2PS2BF16 and VCVTNEPS2BF16 round to nearest, ties to even; NaN stays NaN, and denormal numbers become 0.

use std::arch::x86_64::*;

use super::pack::{self, Lanes};

/// Packs a stretch of a panel of `WIDTH` lanes, a multiple of sixteen.
///
/// # Safety
/// AVX-512F, BW, VL and BF16 are present; the memory is as [`Lanes`] says.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn pack<const WIDTH: usize>(lanes: &Lanes, to: *mut f32) {
    const { assert!(WIDTH.is_multiple_of(16)) };
    // SAFETY: the caller's promise.
    unsafe {
        match (lanes.lane_stride, lanes.k_stride) {
            (1, _) => interleave::<WIDTH>(lanes, to),
            (_, 1) => transpose::<WIDTH>(lanes, to),
            _ => pack::round::<WIDTH>(lanes, to),
        }
    }
}

/// Lanes that are adjacent in memory: two values of k of sixteen lanes are rounded at once, and then paired.
///
/// # Safety
/// As [`pack`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn interleave<const WIDTH: usize>(lanes: &Lanes, to: *mut f32) {
    /// Where each half of a pair comes from: 0..16 are the former values, 16..32 the latter.
    const PAIRS: [u16; 32] = {
        let mut from = [0; 32];
        let mut i = 0;
        while i < 32 {
            from[i] = (i % 2 * 16 + i / 2) as u16;
            i += 1;
        }
        from
    };
    for first in (0..lanes.lanes).step_by(16) {
        let mask: __mmask16 = !0 >> (16 - (lanes.lanes - first).min(16));
        // SAFETY: the mask lets existing lanes through alone; there is room for every step.
        unsafe {
            let places = _mm512_loadu_si512(PAIRS.as_ptr().cast());
            let row = |k: usize| _mm512_maskz_loadu_ps(mask, lanes.from.add(k * lanes.k_stride + first));
            for step in 0..lanes.values.div_ceil(2) {
                let former = row(2 * step);
                let latter = match 2 * step + 1 < lanes.values {
                    true => row(2 * step + 1),
                    false => _mm512_setzero_ps(),
                };
                let halves: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(latter, former));
                let pairs = _mm512_permutexvar_epi16(places, halves);
                _mm512_storeu_si512(to.add(step * WIDTH + first).cast(), pairs);
            }
        }
    }
}

/// Lanes whose values are adjacent in memory: pairs lie as they should, and blocks of sixteen lanes by four pairs are turned in
/// registers, as `pack_avx512` does it with single values.
///
/// # Safety
/// As [`pack`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn transpose<const WIDTH: usize>(lanes: &Lanes, to: *mut f32) {
    for first in (0..lanes.lanes).step_by(16) {
        let count = (lanes.lanes - first).min(16);
        // Lanes that do not exist repeat the first one; what they become is never used.
        let rows: [*const f32; 16] = std::array::from_fn(|lane| {
            let lane = first + if lane < count { lane } else { 0 };
            lanes.from.wrapping_add(lane * lanes.lane_stride)
        });
        for k in (0..lanes.values).step_by(8) {
            let left = (lanes.values - k).min(8);
            let mask: __mmask8 = !0 >> (8 - left);
            // SAFETY: the mask lets existing values through alone; there is room for sixteen lanes of every step.
            unsafe {
                let z: [__m512; 4] = std::array::from_fn(|q| {
                    let quarter = |lane: usize| {
                        let values = _mm256_maskz_loadu_ps(mask, rows[lane].add(k));
                        std::mem::transmute::<__m128bh, __m128>(_mm256_cvtneps_pbh(values))
                    };
                    let z = _mm512_castps128_ps512(quarter(q));
                    let z = _mm512_insertf32x4::<1>(z, quarter(q + 4));
                    let z = _mm512_insertf32x4::<2>(z, quarter(q + 8));
                    _mm512_insertf32x4::<3>(z, quarter(q + 12))
                });
                let low01 = _mm512_castps_pd(_mm512_unpacklo_ps(z[0], z[1]));
                let low23 = _mm512_castps_pd(_mm512_unpacklo_ps(z[2], z[3]));
                let high01 = _mm512_castps_pd(_mm512_unpackhi_ps(z[0], z[1]));
                let high23 = _mm512_castps_pd(_mm512_unpackhi_ps(z[2], z[3]));
                let to = to.add(k / 2 * WIDTH + first);
                let steps = [
                    _mm512_unpacklo_pd(low01, low23),
                    _mm512_unpackhi_pd(low01, low23),
                    _mm512_unpacklo_pd(high01, high23),
                    _mm512_unpackhi_pd(high01, high23),
                ];
                for (step, pairs) in steps.iter().enumerate().take(left.div_ceil(2)) {
                    _mm512_storeu_pd(to.add(step * WIDTH).cast(), *pairs);
                }
            }
        }
    }
}
