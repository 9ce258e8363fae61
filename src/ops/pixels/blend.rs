//! Blending two pictures, or a picture and its gray: Pillow's `Image.blend`, and what ImageEnhance makes of it.

use super::clip::byte;
use super::planes::{each_pixel, sum};
use crate::ops::simd::vectorized;

/// The value between `from` (factor 0) and `to` (factor 1), or beyond them; cut to whole numbers.
#[inline(always)]
pub(super) fn between(from: u8, to: u8, factor: f32) -> u8 {
    byte(from as f32 + factor * (to as i32 - from as i32) as f32)
}

/// `values` become the blend of `from` with them.
pub(super) fn blend(from: &[u8], values: &mut [u8], factor: f32) {
    assert_eq!(from.len(), values.len());
    vectorized(
        #[inline(always)]
        || {
            for (value, from) in values.iter_mut().zip(from) {
                *value = between(*from, *value, factor);
            }
        },
    );
}

/// Blends every pixel of `[3, pixels]` with its gray.
pub(super) fn saturate(values_chw: &mut [u8], factor: f32) {
    each_pixel(
        values_chw,
        #[inline(always)]
        |pixel| {
            let gray = gray(pixel);
            pixel.map(
                #[inline(always)]
                |value| between(gray, value, factor),
            )
        },
    );
}

/// The mean of all pixels' grays, rounded.
pub(super) fn mean_gray(values_chw: &[u8]) -> u8 {
    let pixels = values_chw.len() / 3;
    (sum(values_chw, gray) as f64 / pixels as f64 + 0.5) as u8
}

/// ITU-R 601-2 luma in Pillow's fixed point.
#[inline(always)]
fn gray([red, green, blue]: [u8; 3]) -> u8 {
    ((red as u32 * 19595 + green as u32 * 38470 + blue as u32 * 7471 + 0x8000) >> 16) as u8
}
