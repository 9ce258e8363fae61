//! Pairs of bf16 in the room of one f32: the upper halves of two values, rounded to nearest, the former below.

use rayon::prelude::*;

use super::Products;
use super::raster::Raster;
use super::sliding::Window;
use crate::ops::simd::vectorized;
use crate::ops::storage::unwritten;

/// Images in the format that windows over them are multiplied in.
pub enum Images<'a> {
    Values(&'a [f32]),
    /// Of adjacent values: half as many floats.
    Pairs(Vec<f32>),
}

impl<'a> Images<'a> {
    /// `values`, whose pixels have `channels` values; rounded if `products` says so.
    ///
    /// Panics if pairs would lie across pixels: see [`Products::of_pixels`].
    pub fn new(values: &'a [f32], channels: usize, products: Products) -> Self {
        const AT_A_TIME: usize = 8 * 1024;
        assert_eq!(products, products.of_pixels(channels), "pairs of {channels} channels");
        if products == Products::F32 {
            return Images::Values(values);
        }
        let mut pairs = unwritten(values.len() / 2);
        let pieces = pairs.par_chunks_mut(AT_A_TIME).zip(values.par_chunks(2 * AT_A_TIME));
        pieces.for_each(|(pairs, values)| {
            vectorized(
                #[inline(always)]
                || {
                    let (values, _) = values.as_chunks::<2>();
                    for (to, [former, latter]) in pairs.iter_mut().zip(values) {
                        *to = pair(*former, *latter);
                    }
                },
            )
        });
        Images::Pairs(pairs)
    }

    pub(super) fn floats(&self) -> &[f32] {
        match self {
            Images::Values(values) => values,
            Images::Pairs(pairs) => pairs,
        }
    }

    /// Values in a float.
    pub(super) fn depth(&self) -> usize {
        match self {
            Images::Values(_) => 1,
            Images::Pairs(_) => 2,
        }
    }
}

impl Products {
    /// Of products that read pixels in place: those of an odd number of channels, images themselves, are multiplied in f32,
    /// since pairs lie side by side.
    pub fn of_pixels(self, channels: usize) -> Products {
        match channels.is_multiple_of(2) {
            true => self,
            false => Products::F32,
        }
    }
}

impl Raster {
    /// In floats of `depth` values.
    pub(super) fn in_steps(&self, depth: usize) -> Raster {
        Raster {
            start: whole(self.start, depth),
            image_stride: whole(self.image_stride, depth),
            line_stride: whole(self.line_stride, depth),
            pixel_stride: whole(self.pixel_stride, depth),
        }
    }
}

impl Window {
    /// In floats of `depth` values.
    pub(super) fn in_steps(&self, depth: usize) -> Window {
        Window {
            lines: self.lines,
            values: whole(self.values, depth),
            line_stride: whole(self.line_stride, depth),
        }
    }
}

fn whole(values: usize, depth: usize) -> usize {
    assert!(values.is_multiple_of(depth), "{values} values are no pairs");
    values / depth
}

#[inline(always)]
pub(super) fn pair(former: f32, latter: f32) -> f32 {
    f32::from_bits(rounded(former) | rounded(latter) << 16)
}

/// The bits of a value in bf16: to nearest, ties to even; NaN stays NaN.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    match x.is_nan() {
        true => bits >> 16 | 0x40,
        false => (bits + 0x7fff + (bits >> 16 & 1)) >> 16,
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn rounding_is_that_of_the_half_crate() {
        let every = (0..=u16::MAX).flat_map(|upper| {
            let lower = [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
            lower.map(|lower: u32| f32::from_bits((upper as u32) << 16 | lower))
        });
        for x in every {
            let (ours, theirs) = (bf16::from_bits(rounded(x) as u16), bf16::from_f32(x));
            assert!(
                ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan() && x.is_nan()),
                "{x:e}"
            );
        }
    }

    #[test]
    fn pairs_are_made_of_adjacent_values() {
        let values = [1.0, -2.0, 3.0, f32::INFINITY];
        let images = Images::new(&values, 4, Products::Bf16);
        let upper = |x: f32| x.to_bits() >> 16;
        let bits: Vec<u32> = images.floats().iter().map(|pair| pair.to_bits()).collect();
        assert_eq!(
            bits,
            [upper(1.0) | upper(-2.0) << 16, upper(3.0) | upper(f32::INFINITY) << 16]
        );
        assert_eq!(Products::Bf16.of_pixels(3), Products::F32);
    }
}
