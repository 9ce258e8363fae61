//! Component samples to R, G and B with AVX2; see `scalar` for what is computed.

use std::arch::x86_64::*;

use super::ChromaLine;

/// Both rows have 16 samples of slack behind `count`, and so does `to`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn blend_rows(nearer: &[u8], farther: &[u8], count: usize, to: &mut [i16]) {
    for x in (0..count).step_by(16) {
        // SAFETY: 16 samples from x < count on lie in the rows and their slack, which the caller grants.
        unsafe {
            let load = |row: &[u8]| _mm256_cvtepu8_epi16(_mm_loadu_si128(row.as_ptr().add(x).cast()));
            let (near, far) = (load(nearer), load(farther));
            let blended = _mm256_add_epi16(_mm256_add_epi16(near, far), _mm256_slli_epi16::<1>(near));
            _mm256_storeu_si256(to.as_mut_ptr().add(x).cast(), blended);
        }
    }
}

// No closures below: one that is handed to a function without the features would be called for every vector.

#[target_feature(enable = "avx2")]
pub(super) unsafe fn convert_samples(luma: &[u8], padded: usize, [cb, cr]: [&[u8]; 2], rgb: &mut [&mut [u8]; 3]) {
    for x in (0..padded).step_by(32) {
        // SAFETY: the caller grants that all rows have `padded` bytes.
        unsafe {
            let chroma = [even_odd(load(cb, x)), even_odd(load(cr, x))];
            store(x, even_odd(load(luma, x)), chroma, rgb);
        }
    }
}

#[target_feature(enable = "avx2")]
pub(super) unsafe fn convert_lines(
    luma: &[u8],
    padded: usize,
    [cb, cr]: [&ChromaLine; 2],
    [round_even, round_odd]: [i16; 2],
    rgb: &mut [&mut [u8]; 3],
) {
    let rounding = [_mm256_set1_epi16(round_even), _mm256_set1_epi16(round_odd)];
    for x in (0..padded).step_by(32) {
        // SAFETY: the caller grants that all rows have `padded` bytes, and the lines half as many values and two.
        unsafe {
            let chroma = [interpolate(cb, x / 2, rounding), interpolate(cr, x / 2, rounding)];
            store(x, even_odd(load(luma, x)), chroma, rgb);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(row: &[u8], at: usize) -> __m256i {
    // SAFETY: the caller grants 32 bytes from `at` on.
    unsafe { _mm256_loadu_si256(row.as_ptr().add(at).cast()) }
}

/// Pixels of even and of odd columns, 16 bits each.
#[inline]
#[target_feature(enable = "avx2")]
fn even_odd(bytes: __m256i) -> [__m256i; 2] {
    [
        _mm256_and_si256(bytes, _mm256_set1_epi16(0xff)),
        _mm256_srli_epi16::<8>(bytes),
    ]
}

/// The even and the odd pixels over 16 columns of chroma.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn interpolate(line: &ChromaLine, column: usize, rounding: [__m256i; 2]) -> [__m256i; 2] {
    // SAFETY: the caller grants that the line has column + 18 values.
    let (before, here, behind) = unsafe {
        let values = line.values.as_ptr().add(column);
        let before = _mm256_loadu_si256(values.cast());
        (
            before,
            _mm256_loadu_si256(values.add(1).cast()),
            _mm256_loadu_si256(values.add(2).cast()),
        )
    };
    let thrice = _mm256_add_epi16(here, _mm256_slli_epi16::<1>(here));
    let even = _mm256_add_epi16(_mm256_add_epi16(thrice, before), rounding[0]);
    let odd = _mm256_add_epi16(_mm256_add_epi16(thrice, behind), rounding[1]);
    [_mm256_srli_epi16::<4>(even), _mm256_srli_epi16::<4>(odd)]
}

/// Converts and stores 32 pixels; all channels are given as even and odd pixels.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store(x: usize, luma: [__m256i; 2], [cb, cr]: [[__m256i; 2]; 2], rgb: &mut [&mut [u8]; 3]) {
    let even = pixels(luma[0], cb[0], cr[0]);
    let odd = pixels(luma[1], cb[1], cr[1]);
    for channel in 0..3 {
        let bytes = _mm256_or_si256(even[channel], _mm256_slli_epi16::<8>(odd[channel]));
        // SAFETY: the caller grants 32 bytes from x on.
        unsafe { _mm256_storeu_si256(rgb[channel].as_mut_ptr().add(x).cast(), bytes) };
    }
}

/// R = Y + 1.402 Cr, G = Y - 0.34414 Cb - 0.71414 Cr, B = Y + 1.772 Cb, the factors in units of 2^-16, rounded.
#[inline]
#[target_feature(enable = "avx2")]
fn pixels(y: __m256i, cb: __m256i, cr: __m256i) -> [__m256i; 3] {
    let middle = _mm256_set1_epi16(128);
    let (cb, cr) = (_mm256_sub_epi16(cb, middle), _mm256_sub_epi16(cr, middle));
    let (cb2, cr2) = (_mm256_slli_epi16::<1>(cb), _mm256_slli_epi16::<1>(cr));
    // 1.402 = 1 + 26345 / 2^16; 1.772 = 2 - 14942 / 2^16.
    let red = _mm256_add_epi16(cr, halved_product(cr2, 26345));
    let blue = _mm256_add_epi16(cb2, halved_product(cb2, -14942));
    // -0.71414 = -1 + 18734 / 2^16.
    let low = green_part(_mm256_unpacklo_epi16(cb, cr));
    let high = green_part(_mm256_unpackhi_epi16(cb, cr));
    let green = _mm256_sub_epi16(_mm256_packs_epi32(low, high), cr);
    [clipped(y, red), clipped(y, green), clipped(y, blue)]
}

/// Half of (twice the product, rounded down, plus one), rounded down, is the product, rounded.
#[inline]
#[target_feature(enable = "avx2")]
fn halved_product(twice: __m256i, factor: i16) -> __m256i {
    let product = _mm256_mulhi_epi16(twice, _mm256_set1_epi16(factor));
    _mm256_srai_epi16::<1>(_mm256_add_epi16(product, _mm256_set1_epi16(1)))
}

/// Of pairs of Cb and Cr.
#[inline]
#[target_feature(enable = "avx2")]
fn green_part(pairs: __m256i) -> __m256i {
    let sum = _mm256_madd_epi16(pairs, _mm256_set1_epi32(-22554 & 0xffff | 18734 << 16));
    _mm256_srai_epi32::<16>(_mm256_add_epi32(sum, _mm256_set1_epi32(1 << 15)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn clipped(luma: __m256i, difference: __m256i) -> __m256i {
    let value = _mm256_max_epi16(_mm256_add_epi16(luma, difference), _mm256_setzero_si256());
    _mm256_min_epi16(value, _mm256_set1_epi16(255))
}
