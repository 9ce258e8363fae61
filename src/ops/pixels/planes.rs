//! Loops over the pixels of three planes, in blocks of fixed length, which vectorise whatever the loop does.

use crate::ops::simd::vectorized;

const BLOCK: usize = 64;

/// Each pixel of `[3, pixels]` becomes what `change` makes of it. Mark the closure `#[inline(always)]`.
pub(super) fn each_pixel(values_chw: &mut [u8], change: impl Fn([u8; 3]) -> [u8; 3]) {
    let plane = values_chw.len() / 3;
    vectorized(
        #[inline(always)]
        || {
            for start in (0..plane).step_by(BLOCK) {
                let count = BLOCK.min(plane - start);
                let mut block = [[0; BLOCK]; 3];
                for (channel, values) in block.iter_mut().enumerate() {
                    values[..count].copy_from_slice(&values_chw[channel * plane + start..][..count]);
                }
                let mut changed = [[0; BLOCK]; 3];
                for at in 0..BLOCK {
                    let pixel = change([block[0][at], block[1][at], block[2][at]]);
                    for (values, value) in changed.iter_mut().zip(pixel) {
                        values[at] = value;
                    }
                }
                for (channel, values) in changed.iter().enumerate() {
                    values_chw[channel * plane + start..][..count].copy_from_slice(&values[..count]);
                }
            }
        },
    );
}

/// The sum of what `of` says of each pixel.
pub(super) fn sum(values_chw: &[u8], of: impl Fn([u8; 3]) -> u8) -> u64 {
    let plane = values_chw.len() / 3;
    let (red, rest) = values_chw.split_at(plane);
    let (green, blue) = rest.split_at(plane);
    vectorized(
        #[inline(always)]
        || {
            // Blocks whose sums fit into 32 bits.
            let blocks = red.chunks(4096).zip(green.chunks(4096)).zip(blue.chunks(4096));
            let sums = blocks.map(|((red, green), blue)| {
                let pixels = red.iter().zip(green).zip(blue);
                pixels
                    .map(|((red, green), blue)| of([*red, *green, *blue]) as u32)
                    .sum::<u32>()
            });
            sums.map(u64::from).sum()
        },
    )
}
