//! Resizing with AVX-512: `vpermb` brings four neighbouring samples of sixteen outputs into place, `vpdpbusd` multiplies
//! u8 samples by i8 pieces of the weights. A weight is l0 + 2^8 l1 + 2^16 l2 with each l in -128..128.

use std::arch::x86_64::*;

use super::super::ROW_SLACK;
use super::super::axis::{Axis, LANES, WEIGHT_BITS};
use super::{HALF, quad_rows};

const PIECES: usize = 3;
const VECTOR: usize = 64;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vnni")
}

/// Byte `tap` of word `l` is piece `l` of weight `tap`.
pub(super) fn pieces(weights: [i32; 4]) -> [i32; PIECES] {
    let mut words = [[0u8; 4]; PIECES];
    for (tap, mut weight) in weights.into_iter().enumerate() {
        for word in &mut words {
            word[tap] = weight as u8;
            weight = (weight - (weight as i8) as i32) >> 8;
        }
    }
    words.map(i32::from_le_bytes)
}

pub(super) fn horizontal(axis: &Axis, from: &[u8], to: &mut [u8]) {
    let outputs = axis.outputs().len();
    assert!(to.len() >= outputs.next_multiple_of(LANES), "slack of the result");
    assert!(from.len() >= axis.inputs().len() + ROW_SLACK, "slack of the row");
    assert_eq!(
        axis.words.len(),
        axis.quads() * PIECES * axis.first.len(),
        "packed weights"
    );
    // SAFETY: `Kernels::Avx512` exists only where `is_available`; the lengths are checked above.
    unsafe { horizontal_unchecked(axis, from, to) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
unsafe fn horizontal_unchecked(axis: &Axis, from: &[u8], to: &mut [u8]) {
    let padded = axis.first.len();
    let reach = axis.quads() * 4;
    // Repeats the low byte of each 32-bit lane, and counts the four bytes.
    let spread = _mm512_set4_epi32(0x0c0c_0c0c, 0x0808_0808, 0x0404_0404, 0);
    let count = _mm512_set1_epi32(0x0302_0100);
    for group in 0..padded / LANES {
        let firsts = &axis.first[group * LANES..][..LANES];
        let base = firsts[0] as usize;
        let span = firsts[LANES - 1] as usize - base + reach;
        // SAFETY: 16 u32 of a slice of that length.
        let offsets = unsafe { _mm512_loadu_si512(firsts.as_ptr().cast()) };
        let offsets = _mm512_sub_epi32(offsets, _mm512_set1_epi32(base as i32));
        let mut sums = [_mm512_set1_epi32(HALF), _mm512_setzero_si512(), _mm512_setzero_si512()];
        let mut add = |quad: usize, samples: __m512i| {
            for (piece, sum) in sums.iter_mut().enumerate() {
                let at = (quad * PIECES + piece) * padded + group * LANES;
                // SAFETY: `words` holds quads x PIECES x padded values, and at + 16 <= that.
                let weights = unsafe { _mm512_loadu_si512(axis.words.as_ptr().add(at).cast()) };
                *sum = _mm512_dpbusd_epi32(*sum, samples, weights);
            }
        };
        if span <= 2 * VECTOR && base + 2 * VECTOR <= from.len() {
            let mut index = _mm512_add_epi8(_mm512_shuffle_epi8(offsets, spread), count);
            // SAFETY: 128 bytes from `base` on lie in the row, as just checked.
            let low = unsafe { _mm512_loadu_si512(from.as_ptr().add(base).cast()) };
            if span <= VECTOR {
                for quad in 0..axis.quads() {
                    add(quad, _mm512_permutexvar_epi8(index, low));
                    index = _mm512_add_epi8(index, _mm512_set1_epi8(4));
                }
            } else {
                // SAFETY: as above.
                let high = unsafe { _mm512_loadu_si512(from.as_ptr().add(base + VECTOR).cast()) };
                for quad in 0..axis.quads() {
                    add(quad, _mm512_permutex2var_epi8(low, index, high));
                    index = _mm512_add_epi8(index, _mm512_set1_epi8(4));
                }
            }
        } else {
            // Quads that begin behind the slack have no weight; they read anything.
            let last = _mm512_set1_epi32((from.len() - base - 4) as i32);
            for quad in 0..axis.quads() {
                let offsets = _mm512_add_epi32(offsets, _mm512_set1_epi32(quad as i32 * 4));
                let offsets = _mm512_min_epu32(offsets, last);
                // SAFETY: four bytes from base + offset on lie in the row, since offset <= length - base - 4.
                let samples = unsafe { _mm512_i32gather_epi32::<1>(offsets, from.as_ptr().add(base).cast()) };
                add(quad, samples);
            }
        }
        let samples = _mm512_cvtusepi32_epi8(rounded(sums));
        // SAFETY: the result has room for the padded outputs.
        unsafe { _mm_storeu_si128(to.as_mut_ptr().add(group * LANES).cast(), samples) };
    }
}

/// Whole units of the sums, not below 0.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
fn rounded(sums: [__m512i; PIECES]) -> __m512i {
    let high = _mm512_add_epi32(_mm512_slli_epi32::<8>(sums[1]), _mm512_slli_epi32::<16>(sums[2]));
    let units = _mm512_srai_epi32::<WEIGHT_BITS>(_mm512_add_epi32(sums[0], high));
    _mm512_max_epi32(units, _mm512_setzero_si512())
}

pub(super) fn vertical<'a>(axis: &Axis, at: usize, row: impl Fn(usize) -> &'a [u8], width: usize, to: &mut [u8]) {
    assert!(
        at < axis.outputs().len() && to.len() >= width + ROW_SLACK,
        "slack of the result"
    );
    assert_eq!(
        axis.words.len(),
        axis.quads() * PIECES * axis.first.len(),
        "packed weights"
    );
    // SAFETY: `Kernels::Avx512` exists only where `is_available`.
    unsafe { vertical_unchecked(axis, at, row, width, to) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
unsafe fn vertical_unchecked<'a>(axis: &Axis, at: usize, row: impl Fn(usize) -> &'a [u8], width: usize, to: &mut [u8]) {
    let padded = axis.first.len();
    for x in (0..width).step_by(VECTOR) {
        let mut sums = [[_mm512_set1_epi32(HALF), _mm512_setzero_si512(), _mm512_setzero_si512()]; 4];
        for quad in 0..axis.quads() {
            let rows = quad_rows(axis, at, quad, &row);
            let (r0, r1, r2, r3) = (load(rows[0], x), load(rows[1], x), load(rows[2], x), load(rows[3], x));
            let (low01, high01) = (_mm512_unpacklo_epi8(r0, r1), _mm512_unpackhi_epi8(r0, r1));
            let (low23, high23) = (_mm512_unpacklo_epi8(r2, r3), _mm512_unpackhi_epi8(r2, r3));
            let samples = [
                _mm512_unpacklo_epi16(low01, low23),
                _mm512_unpackhi_epi16(low01, low23),
                _mm512_unpacklo_epi16(high01, high23),
                _mm512_unpackhi_epi16(high01, high23),
            ];
            for piece in 0..PIECES {
                let weights = _mm512_set1_epi32(axis.words[(quad * PIECES + piece) * padded + at]);
                for (sums, samples) in sums.iter_mut().zip(samples) {
                    sums[piece] = _mm512_dpbusd_epi32(sums[piece], samples, weights);
                }
            }
        }
        // Packing undoes the order in which unpacking left the samples.
        let low = _mm512_packs_epi32(rounded(sums[0]), rounded(sums[1]));
        let high = _mm512_packs_epi32(rounded(sums[2]), rounded(sums[3]));
        let bytes = _mm512_packus_epi16(low, high);
        // SAFETY: the result has `ROW_SLACK` = 64 bytes behind `width`.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().add(x).cast(), bytes) };
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
fn load(row: &[u8], x: usize) -> __m512i {
    assert!(row.len() >= x + VECTOR, "slack of a row");
    // SAFETY: just checked.
    unsafe { _mm512_loadu_si512(row.as_ptr().add(x).cast()) }
}
