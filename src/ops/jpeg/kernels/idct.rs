//! Dequantization and the inverse cosine transform with AVX2 (two blocks at a time) and AVX-512 (four).
//!
//! Source: Loeffler, Ligtenberg, Moschytz, "Practical fast 1-D DCT algorithms with 11 multiplications", ICASSP 1989, in the
//! fixed point of libjpeg (see `scalar`). Products are taken in pairs, which `vpmaddwd` does exactly.

use super::super::scan::Block;
use super::Steps;

/// Fractional bits of the constants, and further ones between the two directions.
const CONSTANT_BITS: u32 = 13;
const PASS_BITS: u32 = 2;

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

/// The method itself, which is the same for each width of vectors: a 128-bit part holds a row of a block.
macro_rules! method {
    ($features:literal, $vector:ty, $shift:ty, $blocks:literal) => {
        const WIDEN: $shift = (16 - CONSTANT_BITS) as $shift;

        /// `samples` has room for 8 rows of the blocks side by side.
        #[target_feature(enable = $features)]
        pub unsafe fn transform(blocks: &[Block; $blocks], steps: &Steps, samples: &mut [u8], stride: usize) {
            const HALFWAY: $shift = (CONSTANT_BITS - PASS_BITS) as $shift;
            const END: $shift = (CONSTANT_BITS + PASS_BITS + 3) as $shift;
            // SAFETY: there are eight rows.
            let row = |r: usize| unsafe { mullo16(load_row(blocks, r), load_steps(steps, r)) };
            let rows = [row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)];
            let mut halfway = one_direction::<HALFWAY>(rows);
            if is_large(rows[0]) {
                // SAFETY: eight vectors are as many rows of all blocks.
                unsafe { without_saturation(blocks, steps, halfway.as_mut_ptr().cast()) };
            }
            let rows = to_rows(one_direction::<END>(transpose(halfway)));
            for (pair, rows) in rows.into_iter().enumerate() {
                // SAFETY: the caller grants the room.
                unsafe { store_rows(rows, samples.as_mut_ptr().add(2 * pair * stride), stride) };
            }
        }

        /// The pair of factors for the even and the odd place.
        #[inline]
        #[target_feature(enable = $features)]
        fn factors(even: i32, odd: i32) -> $vector {
            splat32(even & 0xffff | odd << 16)
        }

        /// a x even + b x odd, as 32-bit sums of the low and the high half of the lanes.
        #[inline]
        #[target_feature(enable = $features)]
        fn products(a: $vector, b: $vector, factors: $vector) -> [$vector; 2] {
            let low = madd16(unpacklo16(a, b), factors);
            let high = madd16(unpackhi16(a, b), factors);
            [low, high]
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn plus(a: [$vector; 2], b: [$vector; 2]) -> [$vector; 2] {
            [add32(a[0], b[0]), add32(a[1], b[1])]
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn minus(a: [$vector; 2], b: [$vector; 2]) -> [$vector; 2] {
            [sub32(a[0], b[0]), sub32(a[1], b[1])]
        }

        /// Eight one-dimensional transforms, one per 16-bit lane, in each half; results are rounded and shifted by `SHIFT`.
        #[inline]
        #[target_feature(enable = $features)]
        fn one_direction<const SHIFT: $shift>(x: [$vector; 8]) -> [$vector; 8] {
            use factor::*;
            // The even part.
            let even2 = products(x[2], x[6], factors(F0541, F0541 - F1847));
            let even3 = products(x[2], x[6], factors(F0541 + F0765, F0541));
            let widened = |v: $vector| {
                let zero = zero();
                let low = srai32::<WIDEN>(unpacklo16(zero, v));
                let high = srai32::<WIDEN>(unpackhi16(zero, v));
                [low, high]
            };
            let (even0, even1) = (widened(add16(x[0], x[4])), widened(sub16(x[0], x[4])));
            let sums = [
                plus(even0, even3),
                plus(even1, even2),
                minus(even1, even2),
                minus(even0, even3),
            ];
            // The odd part.
            let (z3, z4) = (add16(x[7], x[3]), add16(x[5], x[1]));
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
        #[target_feature(enable = $features)]
        fn rounded<const SHIFT: $shift>([low, high]: [$vector; 2]) -> $vector {
            let half = splat32(1 << (SHIFT - 1));
            let low = srai32::<SHIFT>(add32(low, half));
            let high = srai32::<SHIFT>(add32(high, half));
            packs32(low, high)
        }

        /// Rows to columns of 16-bit lanes, in each half.
        #[inline]
        #[target_feature(enable = $features)]
        fn transpose(x: [$vector; 8]) -> [$vector; 8] {
            let words = |a: usize, b: usize| [unpacklo16(x[a], x[b]), unpackhi16(x[a], x[b])];
            let ([a0, a1], [b0, b1], [c0, c1], [d0, d1]) = (words(0, 1), words(2, 3), words(4, 5), words(6, 7));
            let doubles = |a: $vector, b: $vector| [unpacklo32(a, b), unpackhi32(a, b)];
            let ([e0, e1], [e2, e3]) = (doubles(a0, b0), doubles(a1, b1));
            let ([f0, f1], [f2, f3]) = (doubles(c0, d0), doubles(c1, d1));
            let quads = |a: $vector, b: $vector| [unpacklo64(a, b), unpackhi64(a, b)];
            let ([y0, y1], [y2, y3], [y4, y5], [y6, y7]) = (quads(e0, f0), quads(e1, f1), quads(e2, f2), quads(e3, f3));
            [y0, y1, y2, y3, y4, y5, y6, y7]
        }

        /// Columns of 16-bit lanes to rows of saturated bytes, two rows to a half.
        #[inline]
        #[target_feature(enable = $features)]
        fn to_rows(x: [$vector; 8]) -> [$vector; 4] {
            let bytes = |a: usize, b: usize| packs16(x[a], x[b]);
            let (p04, p15, p26, p37) = (bytes(0, 4), bytes(1, 5), bytes(2, 6), bytes(3, 7));
            let (c01, c45) = (unpacklo8(p04, p15), unpackhi8(p04, p15));
            let (c23, c67) = (unpacklo8(p26, p37), unpackhi8(p26, p37));
            let (low0, low1) = (unpacklo16(c01, c23), unpackhi16(c01, c23));
            let (high0, high1) = (unpacklo16(c45, c67), unpackhi16(c45, c67));
            [
                unpacklo32(low0, high0),
                unpackhi32(low0, high0),
                unpacklo32(low1, high1),
                unpackhi32(low1, high1),
            ]
        }
    };
}

/// Blocks that have only their first row take a shortcut in libjpeg-turbo, which wraps instead of saturating; `halfway` has
/// row after row of all blocks, 8 x 8 values for each block.
#[cold]
unsafe fn without_saturation(blocks: &[Block], steps: &Steps, halfway: *mut i16) {
    for (at, block) in blocks.iter().enumerate() {
        if block[8..64].iter().any(|coefficient| *coefficient != 0) {
            continue;
        }
        for (x, (coefficient, step)) in block.iter().zip(&steps.0).take(8).enumerate() {
            for row in 0..8 {
                // SAFETY: row < 8, x < 8.
                unsafe {
                    *halfway.add((row * blocks.len() + at) * 8 + x) = coefficient.wrapping_mul(*step) << PASS_BITS
                };
            }
        }
    }
}

pub(super) mod avx2 {
    use std::arch::x86_64::*;
    use std::arch::x86_64::{
        _mm256_add_epi16 as add16, _mm256_add_epi32 as add32, _mm256_madd_epi16 as madd16,
        _mm256_mullo_epi16 as mullo16, _mm256_packs_epi16 as packs16, _mm256_packs_epi32 as packs32,
        _mm256_set1_epi32 as splat32, _mm256_setzero_si256 as zero, _mm256_srai_epi32 as srai32,
        _mm256_sub_epi16 as sub16, _mm256_sub_epi32 as sub32, _mm256_unpackhi_epi8 as unpackhi8,
        _mm256_unpackhi_epi16 as unpackhi16, _mm256_unpackhi_epi32 as unpackhi32, _mm256_unpackhi_epi64 as unpackhi64,
        _mm256_unpacklo_epi8 as unpacklo8, _mm256_unpacklo_epi16 as unpacklo16, _mm256_unpacklo_epi32 as unpacklo32,
        _mm256_unpacklo_epi64 as unpacklo64,
    };

    use super::*;

    method!("avx2", __m256i, i32, 2);

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load_row(blocks: &[Block; 2], r: usize) -> __m256i {
        // SAFETY: eight coefficients from 8r on lie within the blocks, since the caller grants r < 8.
        let load = |block: &Block| unsafe { _mm_loadu_si128(block.as_ptr().add(8 * r).cast()) };
        _mm256_set_m128i(load(&blocks[1]), load(&blocks[0]))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load_steps(steps: &Steps, r: usize) -> __m256i {
        // SAFETY: the caller grants r < 8.
        _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(steps.0.as_ptr().add(8 * r).cast()) })
    }

    /// Whether shifting left by `PASS_BITS` would lose something.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn is_large(row: __m256i) -> bool {
        let kept = _mm256_srai_epi16::<{ PASS_BITS as i32 }>(_mm256_slli_epi16::<{ PASS_BITS as i32 }>(row));
        _mm256_movemask_epi8(_mm256_cmpeq_epi16(kept, row)) != -1
    }

    /// Two rows of two blocks.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn store_rows(rows: __m256i, to: *mut u8, stride: usize) {
        let two = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_xor_si256(rows, _mm256_set1_epi8(-128)));
        // SAFETY: the caller grants 16 bytes in each row.
        unsafe {
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(two));
            _mm_storeu_si128(to.add(stride).cast(), _mm256_extracti128_si256::<1>(two));
        }
    }
}

pub(super) mod avx512 {
    use std::arch::x86_64::*;
    use std::arch::x86_64::{
        _mm512_add_epi16 as add16, _mm512_add_epi32 as add32, _mm512_madd_epi16 as madd16,
        _mm512_mullo_epi16 as mullo16, _mm512_packs_epi16 as packs16, _mm512_packs_epi32 as packs32,
        _mm512_set1_epi32 as splat32, _mm512_setzero_si512 as zero, _mm512_srai_epi32 as srai32,
        _mm512_sub_epi16 as sub16, _mm512_sub_epi32 as sub32, _mm512_unpackhi_epi8 as unpackhi8,
        _mm512_unpackhi_epi16 as unpackhi16, _mm512_unpackhi_epi32 as unpackhi32, _mm512_unpackhi_epi64 as unpackhi64,
        _mm512_unpacklo_epi8 as unpacklo8, _mm512_unpacklo_epi16 as unpacklo16, _mm512_unpacklo_epi32 as unpacklo32,
        _mm512_unpacklo_epi64 as unpacklo64,
    };

    use super::*;

    method!("avx512f,avx512bw", __m512i, u32, 4);

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn load_row(blocks: &[Block; 4], r: usize) -> __m512i {
        // SAFETY: eight coefficients from 8r on lie within the blocks, since the caller grants r < 8.
        let load = |block: &Block| unsafe { _mm_loadu_si128(block.as_ptr().add(8 * r).cast()) };
        let row = _mm512_castsi128_si512(load(&blocks[0]));
        let row = _mm512_inserti32x4::<1>(row, load(&blocks[1]));
        let row = _mm512_inserti32x4::<2>(row, load(&blocks[2]));
        _mm512_inserti32x4::<3>(row, load(&blocks[3]))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn load_steps(steps: &Steps, r: usize) -> __m512i {
        // SAFETY: the caller grants r < 8.
        _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(steps.0.as_ptr().add(8 * r).cast()) })
    }

    /// Whether shifting left by `PASS_BITS` would lose something.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn is_large(row: __m512i) -> bool {
        let kept = _mm512_srai_epi16::<PASS_BITS>(_mm512_slli_epi16::<PASS_BITS>(row));
        _mm512_cmpneq_epi16_mask(kept, row) != 0
    }

    /// Two rows of four blocks.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn store_rows(rows: __m512i, to: *mut u8, stride: usize) {
        let apart = _mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0);
        let two = _mm512_permutexvar_epi64(apart, _mm512_xor_si512(rows, _mm512_set1_epi8(-128)));
        // SAFETY: the caller grants 32 bytes in each row.
        unsafe {
            _mm256_storeu_si256(to.cast(), _mm512_castsi512_si256(two));
            _mm256_storeu_si256(to.add(stride).cast(), _mm512_extracti64x4_epi64::<1>(two));
        }
    }
}
