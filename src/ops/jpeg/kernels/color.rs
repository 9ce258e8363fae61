//! Component samples to R, G and B with AVX2 and AVX-512; see `scalar` for what is computed.

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

/// The method itself, which is the same for each width of vectors.
macro_rules! method {
    ($features:literal, $vector:ty, $pixels:literal) => {
        #[target_feature(enable = $features)]
        pub unsafe fn convert_samples(luma: &[u8], padded: usize, [cb, cr]: [&[u8]; 2], rgb: &mut [&mut [u8]; 3]) {
            for x in (0..padded).step_by($pixels) {
                // SAFETY: the caller grants that all rows have `padded` bytes.
                unsafe {
                    let chroma = [even_odd(load(cb, x)), even_odd(load(cr, x))];
                    store(x, even_odd(load(luma, x)), chroma, rgb);
                }
            }
        }

        #[target_feature(enable = $features)]
        pub unsafe fn convert_lines(
            luma: &[u8],
            padded: usize,
            [cb, cr]: [&ChromaLine; 2],
            [round_even, round_odd]: [i16; 2],
            rgb: &mut [&mut [u8]; 3],
        ) {
            let rounding = [splat16(round_even), splat16(round_odd)];
            for x in (0..padded).step_by($pixels) {
                // SAFETY: the caller grants that all rows have `padded` bytes, and the lines half as many values and two.
                unsafe {
                    let chroma = [interpolate(cb, x / 2, rounding), interpolate(cr, x / 2, rounding)];
                    store(x, even_odd(load(luma, x)), chroma, rgb);
                }
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn load(row: &[u8], at: usize) -> $vector {
            // SAFETY: the caller grants one vector from `at` on.
            unsafe { loadu(row.as_ptr().add(at).cast()) }
        }

        /// Pixels of even and of odd columns, 16 bits each.
        #[inline]
        #[target_feature(enable = $features)]
        fn even_odd(bytes: $vector) -> [$vector; 2] {
            [and(bytes, splat16(0xff)), srli16::<8>(bytes)]
        }

        /// The even and the odd pixels over half as many columns of chroma.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn interpolate(line: &ChromaLine, column: usize, rounding: [$vector; 2]) -> [$vector; 2] {
            // SAFETY: the caller grants a vector and two values more.
            let (before, here, behind) = unsafe {
                let values = line.values.as_ptr().add(column);
                let before = loadu(values.cast());
                (before, loadu(values.add(1).cast()), loadu(values.add(2).cast()))
            };
            let thrice = add16(here, slli16::<1>(here));
            let even = add16(add16(thrice, before), rounding[0]);
            let odd = add16(add16(thrice, behind), rounding[1]);
            [srli16::<4>(even), srli16::<4>(odd)]
        }

        /// Converts and stores a vector of pixels; all channels are given as even and odd pixels.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn store(x: usize, luma: [$vector; 2], [cb, cr]: [[$vector; 2]; 2], rgb: &mut [&mut [u8]; 3]) {
            let even = pixels(luma[0], cb[0], cr[0]);
            let odd = pixels(luma[1], cb[1], cr[1]);
            for channel in 0..3 {
                let bytes = or(even[channel], slli16::<8>(odd[channel]));
                // SAFETY: the caller grants one vector from x on.
                unsafe { storeu(rgb[channel].as_mut_ptr().add(x).cast(), bytes) };
            }
        }

        /// R = Y + 1.402 Cr, G = Y - 0.34414 Cb - 0.71414 Cr, B = Y + 1.772 Cb, the factors in units of 2^-16, rounded.
        #[inline]
        #[target_feature(enable = $features)]
        fn pixels(y: $vector, cb: $vector, cr: $vector) -> [$vector; 3] {
            let middle = splat16(128);
            let (cb, cr) = (sub16(cb, middle), sub16(cr, middle));
            let (cb2, cr2) = (slli16::<1>(cb), slli16::<1>(cr));
            // 1.402 = 1 + 26345 / 2^16; 1.772 = 2 - 14942 / 2^16.
            let red = add16(cr, halved_product(cr2, 26345));
            let blue = add16(cb2, halved_product(cb2, -14942));
            // -0.71414 = -1 + 18734 / 2^16.
            let low = green_part(unpacklo16(cb, cr));
            let high = green_part(unpackhi16(cb, cr));
            let green = sub16(packs32(low, high), cr);
            [clipped(y, red), clipped(y, green), clipped(y, blue)]
        }

        /// Half of (twice the product, rounded down, plus one), rounded down, is the product, rounded.
        #[inline]
        #[target_feature(enable = $features)]
        fn halved_product(twice: $vector, factor: i16) -> $vector {
            let product = mulhi16(twice, splat16(factor));
            srai16::<1>(add16(product, splat16(1)))
        }

        /// Of pairs of Cb and Cr.
        #[inline]
        #[target_feature(enable = $features)]
        fn green_part(pairs: $vector) -> $vector {
            let sum = madd16(pairs, splat32(-22554 & 0xffff | 18734 << 16));
            srai32::<16>(add32(sum, splat32(1 << 15)))
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn clipped(luma: $vector, difference: $vector) -> $vector {
            let value = max16(add16(luma, difference), zero());
            min16(value, splat16(255))
        }
    };
}

pub(super) mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi16 as add16, _mm256_add_epi32 as add32, _mm256_and_si256 as and,
        _mm256_loadu_si256 as loadu, _mm256_madd_epi16 as madd16, _mm256_max_epi16 as max16, _mm256_min_epi16 as min16,
        _mm256_mulhi_epi16 as mulhi16, _mm256_or_si256 as or, _mm256_packs_epi32 as packs32,
        _mm256_set1_epi16 as splat16, _mm256_set1_epi32 as splat32, _mm256_setzero_si256 as zero,
        _mm256_slli_epi16 as slli16, _mm256_srai_epi16 as srai16, _mm256_srai_epi32 as srai32,
        _mm256_srli_epi16 as srli16, _mm256_storeu_si256 as storeu, _mm256_sub_epi16 as sub16,
        _mm256_unpackhi_epi16 as unpackhi16, _mm256_unpacklo_epi16 as unpacklo16,
    };

    use super::ChromaLine;

    method!("avx2", __m256i, 32);
}

pub(super) mod avx512 {
    use std::arch::x86_64::{
        __m512i, _mm512_add_epi16 as add16, _mm512_add_epi32 as add32, _mm512_and_si512 as and,
        _mm512_loadu_si512 as loadu, _mm512_madd_epi16 as madd16, _mm512_max_epi16 as max16, _mm512_min_epi16 as min16,
        _mm512_mulhi_epi16 as mulhi16, _mm512_or_si512 as or, _mm512_packs_epi32 as packs32,
        _mm512_set1_epi16 as splat16, _mm512_set1_epi32 as splat32, _mm512_setzero_si512 as zero,
        _mm512_slli_epi16 as slli16, _mm512_srai_epi16 as srai16, _mm512_srai_epi32 as srai32,
        _mm512_srli_epi16 as srli16, _mm512_storeu_si512 as storeu, _mm512_sub_epi16 as sub16,
        _mm512_unpackhi_epi16 as unpackhi16, _mm512_unpacklo_epi16 as unpacklo16,
    };

    use super::ChromaLine;

    method!("avx512f,avx512bw", __m512i, 64);
}
