//! Resizing with AVX2: gathers fetch four neighbouring samples of eight outputs, `vpmaddwd` multiplies them in pairs.
//! A weight is low + 2^11 high with low in 0..2^11; taps 0 and 2 of a quad form a pair, and taps 1 and 3.

use std::arch::x86_64::*;

use super::super::ROW_SLACK;
use super::super::axis::{Axis, WEIGHT_BITS};
use super::{HALF, quad_rows};

const PIECES: usize = 4;
const LOW_BITS: u32 = 11;
const OUTPUTS: usize = 8;
const COLUMNS: usize = 32;

/// Low pieces of the even pair and of the odd pair, then the high ones.
pub(super) fn pieces(weights: [i32; 4]) -> [i32; PIECES] {
    let pair = |a: i32, b: i32| (a as u16 as u32 | (b as u16 as u32) << 16) as i32;
    let low = weights.map(|weight| weight & ((1 << LOW_BITS) - 1));
    let high = weights.map(|weight| weight >> LOW_BITS);
    [
        pair(low[0], low[2]),
        pair(low[1], low[3]),
        pair(high[0], high[2]),
        pair(high[1], high[3]),
    ]
}

pub(super) fn horizontal(axis: &Axis, from: &[u8], to: &mut [u8]) {
    let outputs = axis.outputs().len();
    assert!(to.len() >= outputs.next_multiple_of(OUTPUTS), "slack of the result");
    assert!(from.len() >= axis.inputs().len() + ROW_SLACK, "slack of the row");
    assert_eq!(
        axis.words.len(),
        axis.quads() * PIECES * axis.first.len(),
        "packed weights"
    );
    // SAFETY: `Kernels::Avx2` exists only where AVX2 is; the lengths are checked above.
    unsafe { horizontal_unchecked(axis, from, to) }
}

#[target_feature(enable = "avx2")]
unsafe fn horizontal_unchecked(axis: &Axis, from: &[u8], to: &mut [u8]) {
    let padded = axis.first.len();
    for first_output in (0..axis.outputs().len()).step_by(OUTPUTS) {
        let mut sums = [_mm256_set1_epi32(HALF), _mm256_setzero_si256()];
        // SAFETY: `first` is padded to a multiple of 16.
        let offsets = unsafe { _mm256_loadu_si256(axis.first.as_ptr().add(first_output).cast()) };
        // Quads that begin behind the slack have no weight; they read anything.
        let last = _mm256_set1_epi32((from.len() - 4) as i32);
        for quad in 0..axis.quads() {
            let offsets = _mm256_add_epi32(offsets, _mm256_set1_epi32(quad as i32 * 4));
            let offsets = _mm256_min_epu32(offsets, last);
            // SAFETY: four bytes from the offset on lie in the row, since offset <= length - 4.
            let samples = unsafe { _mm256_i32gather_epi32::<1>(from.as_ptr().cast(), offsets) };
            let word = |piece: usize| {
                let at = (quad * PIECES + piece) * padded + first_output;
                // SAFETY: `words` holds quads x PIECES x padded values, and at + 8 <= that.
                unsafe { _mm256_loadu_si256(axis.words.as_ptr().add(at).cast()) }
            };
            add_quad(&mut sums, even_odd(samples), [word(0), word(1), word(2), word(3)]);
        }
        let units = units(sums);
        let words = _mm256_packs_epi32(units, units);
        let bytes = _mm256_packus_epi16(words, words);
        let halves = [_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes)];
        let eight = _mm_unpacklo_epi32(halves[0], halves[1]);
        // SAFETY: the result has room for the padded outputs.
        unsafe { _mm_storel_epi64(to.as_mut_ptr().add(first_output).cast(), eight) };
    }
}

/// Bytes 0 and 2, and bytes 1 and 3, of each 32-bit lane as 16-bit pairs.
#[inline]
#[target_feature(enable = "avx2")]
fn even_odd(samples: __m256i) -> [__m256i; 2] {
    [
        _mm256_and_si256(samples, _mm256_set1_epi16(0xff)),
        _mm256_srli_epi16::<8>(samples),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
fn add_quad(sums: &mut [__m256i; 2], [even, odd]: [__m256i; 2], weights: [__m256i; PIECES]) {
    let low = _mm256_add_epi32(_mm256_madd_epi16(even, weights[0]), _mm256_madd_epi16(odd, weights[1]));
    let high = _mm256_add_epi32(_mm256_madd_epi16(even, weights[2]), _mm256_madd_epi16(odd, weights[3]));
    *sums = [_mm256_add_epi32(sums[0], low), _mm256_add_epi32(sums[1], high)];
}

#[inline]
#[target_feature(enable = "avx2")]
fn units(sums: [__m256i; 2]) -> __m256i {
    let sum = _mm256_add_epi32(sums[0], _mm256_slli_epi32::<{ LOW_BITS as i32 }>(sums[1]));
    _mm256_srai_epi32::<{ WEIGHT_BITS as i32 }>(sum)
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
    // SAFETY: `Kernels::Avx2` exists only where AVX2 is.
    unsafe { vertical_unchecked(axis, at, row, width, to) }
}

#[target_feature(enable = "avx2")]
unsafe fn vertical_unchecked<'a>(axis: &Axis, at: usize, row: impl Fn(usize) -> &'a [u8], width: usize, to: &mut [u8]) {
    let padded = axis.first.len();
    for x in (0..width).step_by(COLUMNS) {
        let mut sums = [[_mm256_set1_epi32(HALF), _mm256_setzero_si256()]; 4];
        for quad in 0..axis.quads() {
            let rows = quad_rows(axis, at, quad, &row);
            let (r0, r1, r2, r3) = (load(rows[0], x), load(rows[1], x), load(rows[2], x), load(rows[3], x));
            let weights =
                [0, 1, 2, 3].map(|piece| _mm256_set1_epi32(axis.words[(quad * PIECES + piece) * padded + at]));
            let (low01, high01) = (_mm256_unpacklo_epi8(r0, r1), _mm256_unpackhi_epi8(r0, r1));
            let (low23, high23) = (_mm256_unpacklo_epi8(r2, r3), _mm256_unpackhi_epi8(r2, r3));
            let samples = [
                _mm256_unpacklo_epi16(low01, low23),
                _mm256_unpackhi_epi16(low01, low23),
                _mm256_unpacklo_epi16(high01, high23),
                _mm256_unpackhi_epi16(high01, high23),
            ];
            for (sums, samples) in sums.iter_mut().zip(samples) {
                add_quad(sums, even_odd(samples), weights);
            }
        }
        // Packing saturates to 0..=255 and undoes the order in which unpacking left the samples.
        let low = _mm256_packs_epi32(units(sums[0]), units(sums[1]));
        let high = _mm256_packs_epi32(units(sums[2]), units(sums[3]));
        let bytes = _mm256_packus_epi16(low, high);
        // SAFETY: the result has `ROW_SLACK` bytes behind `width`.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().add(x).cast(), bytes) };
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(row: &[u8], x: usize) -> __m256i {
    assert!(row.len() >= x + COLUMNS, "slack of a row");
    // SAFETY: just checked.
    unsafe { _mm256_loadu_si256(row.as_ptr().add(x).cast()) }
}
