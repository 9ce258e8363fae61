//! Dequantization and the inverse cosine transform with AVX2, two blocks at a time.
//!
//! Source: Loeffler, Ligtenberg, Moschytz, "Practical fast 1-D DCT algorithms with 11 multiplications", ICASSP 1989, in the
//! fixed point of libjpeg (see `scalar`). Products are taken in pairs, which `vpmaddwd` does exactly.

use std::arch::x86_64::*;

use super::super::scan::Block;
use super::Steps;

const CONSTANT_BITS: i32 = 13;
const PASS_BITS: i32 = 2;

/// Factors of the method in units of 2^-13.
mod factor {
    pub const F0298: i32 = 2446;
    pub const F0390: i32 = 3196;
    pub const F0541: i32 = 4433;
    pub const F0765: i32 = 6270;
    pub const F0899: i32 = 7373;
    pub const F1175: i32 = 9633;
    pub const F1501: i32 = 12299;
    pub const F1847: i32 = 15137;
    pub const F1961: i32 = 16069;
    pub const F2053: i32 = 16819;
    pub const F2562: i32 = 20995;
    pub const F3072: i32 = 25172;
}

/// See `Kernels::transform_pair`; `samples` has 7 x `stride` + 16 bytes at least.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn transform_pair(blocks: &[Block; 2], steps: &Steps, samples: &mut [u8], stride: usize) {
    let row = |r: usize| {
        // SAFETY: eight coefficients or steps from 8r on, r < 8, lie within the arrays.
        let (both, steps) = unsafe {
            let load = |from: *const i16| _mm_loadu_si128(from.add(8 * r).cast());
            let both = _mm256_set_m128i(load(blocks[1].as_ptr()), load(blocks[0].as_ptr()));
            (both, _mm256_broadcastsi128_si256(load(steps.0.as_ptr())))
        };
        _mm256_mullo_epi16(both, steps)
    };
    let rows = [row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)];
    let mut halfway = one_direction::<{ CONSTANT_BITS - PASS_BITS }>(rows);
    let kept = _mm256_srai_epi16::<PASS_BITS>(_mm256_slli_epi16::<PASS_BITS>(rows[0]));
    if _mm256_movemask_epi8(_mm256_cmpeq_epi16(kept, rows[0])) != -1 {
        without_saturation(blocks, rows[0], &mut halfway);
    }
    let columns = one_direction::<{ CONSTANT_BITS + PASS_BITS + 3 }>(transpose(halfway));
    for (pair, rows) in to_rows(columns).into_iter().enumerate() {
        let two = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_xor_si256(rows, _mm256_set1_epi8(-128)));
        // SAFETY: rows 2 pair and 2 pair + 1 have 16 samples each; the caller grants their room.
        unsafe {
            let to = samples.as_mut_ptr().add(2 * pair * stride);
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(two));
            _mm_storeu_si128(to.add(stride).cast(), _mm256_extracti128_si256::<1>(two));
        }
    }
}

/// Blocks that have only their first row take a shortcut in libjpeg-turbo, which wraps instead of saturating.
#[cold]
#[target_feature(enable = "avx2")]
fn without_saturation(blocks: &[Block; 2], first_row: __m256i, halfway: &mut [__m256i; 8]) {
    let takes_it = |block: &Block| -(block[8..64].iter().all(|coefficient| *coefficient == 0) as i64);
    let (low, high) = (takes_it(&blocks[0]), takes_it(&blocks[1]));
    let mask = _mm256_set_epi64x(high, high, low, low);
    for row in halfway {
        *row = _mm256_blendv_epi8(*row, _mm256_slli_epi16::<PASS_BITS>(first_row), mask);
    }
}

/// The pair of factors for the even and the odd place.
#[inline]
#[target_feature(enable = "avx2")]
fn factors(even: i32, odd: i32) -> __m256i {
    _mm256_set1_epi32(even & 0xffff | odd << 16)
}

/// a x even + b x odd, as 32-bit sums of the low and the high half of the lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn products(a: __m256i, b: __m256i, factors: __m256i) -> [__m256i; 2] {
    let low = _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), factors);
    let high = _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), factors);
    [low, high]
}

#[inline]
#[target_feature(enable = "avx2")]
fn plus(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
    [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])]
}

#[inline]
#[target_feature(enable = "avx2")]
fn minus(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
    [_mm256_sub_epi32(a[0], b[0]), _mm256_sub_epi32(a[1], b[1])]
}

/// Eight one-dimensional transforms, one per 16-bit lane, in each half; results are rounded and shifted by `SHIFT`.
#[inline]
#[target_feature(enable = "avx2")]
fn one_direction<const SHIFT: i32>(x: [__m256i; 8]) -> [__m256i; 8] {
    use factor::*;
    // The even part.
    let even2 = products(x[2], x[6], factors(F0541, F0541 - F1847));
    let even3 = products(x[2], x[6], factors(F0541 + F0765, F0541));
    let widened = |v: __m256i| {
        let zero = _mm256_setzero_si256();
        let low = _mm256_srai_epi32::<{ 16 - CONSTANT_BITS }>(_mm256_unpacklo_epi16(zero, v));
        let high = _mm256_srai_epi32::<{ 16 - CONSTANT_BITS }>(_mm256_unpackhi_epi16(zero, v));
        [low, high]
    };
    let (even0, even1) = (
        widened(_mm256_add_epi16(x[0], x[4])),
        widened(_mm256_sub_epi16(x[0], x[4])),
    );
    let sums = [
        plus(even0, even3),
        plus(even1, even2),
        minus(even1, even2),
        minus(even0, even3),
    ];
    // The odd part.
    let (z3, z4) = (_mm256_add_epi16(x[7], x[3]), _mm256_add_epi16(x[5], x[1]));
    let odd3 = products(z3, z4, factors(F1175 - F1961, F1175));
    let odd4 = products(z3, z4, factors(F1175, F1175 - F0390));
    let tail = [
        plus(products(x[1], x[7], factors(F1501 - F0899, -F0899)), odd4),
        plus(products(x[3], x[5], factors(F3072 - F2562, -F2562)), odd3),
        plus(products(x[5], x[3], factors(F2053 - F2562, -F2562)), odd4),
        plus(products(x[7], x[1], factors(F0298 - F0899, -F0899)), odd3),
    ];
    [
        rounded::<SHIFT>(plus(sums[0], tail[0])),
        rounded::<SHIFT>(plus(sums[1], tail[1])),
        rounded::<SHIFT>(plus(sums[2], tail[2])),
        rounded::<SHIFT>(plus(sums[3], tail[3])),
        rounded::<SHIFT>(minus(sums[3], tail[3])),
        rounded::<SHIFT>(minus(sums[2], tail[2])),
        rounded::<SHIFT>(minus(sums[1], tail[1])),
        rounded::<SHIFT>(minus(sums[0], tail[0])),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
fn rounded<const SHIFT: i32>([low, high]: [__m256i; 2]) -> __m256i {
    let half = _mm256_set1_epi32(1 << (SHIFT - 1));
    let low = _mm256_srai_epi32::<SHIFT>(_mm256_add_epi32(low, half));
    let high = _mm256_srai_epi32::<SHIFT>(_mm256_add_epi32(high, half));
    _mm256_packs_epi32(low, high)
}

/// Rows to columns of 16-bit lanes, in each half.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(x: [__m256i; 8]) -> [__m256i; 8] {
    let words = |a: usize, b: usize| [_mm256_unpacklo_epi16(x[a], x[b]), _mm256_unpackhi_epi16(x[a], x[b])];
    let ([a0, a1], [b0, b1], [c0, c1], [d0, d1]) = (words(0, 1), words(2, 3), words(4, 5), words(6, 7));
    let doubles = |a: __m256i, b: __m256i| [_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)];
    let ([e0, e1], [e2, e3]) = (doubles(a0, b0), doubles(a1, b1));
    let ([f0, f1], [f2, f3]) = (doubles(c0, d0), doubles(c1, d1));
    let quads = |a: __m256i, b: __m256i| [_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b)];
    let ([y0, y1], [y2, y3], [y4, y5], [y6, y7]) = (quads(e0, f0), quads(e1, f1), quads(e2, f2), quads(e3, f3));
    [y0, y1, y2, y3, y4, y5, y6, y7]
}

/// Columns of 16-bit lanes to rows of saturated bytes, two rows to a half.
#[inline]
#[target_feature(enable = "avx2")]
fn to_rows(x: [__m256i; 8]) -> [__m256i; 4] {
    let bytes = |a: usize, b: usize| _mm256_packs_epi16(x[a], x[b]);
    let (p04, p15, p26, p37) = (bytes(0, 4), bytes(1, 5), bytes(2, 6), bytes(3, 7));
    let (c01, c45) = (_mm256_unpacklo_epi8(p04, p15), _mm256_unpackhi_epi8(p04, p15));
    let (c23, c67) = (_mm256_unpacklo_epi8(p26, p37), _mm256_unpackhi_epi8(p26, p37));
    let (low0, low1) = (_mm256_unpacklo_epi16(c01, c23), _mm256_unpackhi_epi16(c01, c23));
    let (high0, high1) = (_mm256_unpacklo_epi16(c45, c67), _mm256_unpackhi_epi16(c45, c67));
    [
        _mm256_unpacklo_epi32(low0, high0),
        _mm256_unpackhi_epi32(low0, high0),
        _mm256_unpacklo_epi32(low1, high1),
        _mm256_unpackhi_epi32(low1, high1),
    ]
}
