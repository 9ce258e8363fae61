//! What follows the entropy decoding, in the variants that processors allow: inverse cosine transform, interpolation of
//! chroma, conversion to RGB. All variants give the same bytes, which are libjpeg-turbo's.

#[cfg(target_arch = "x86_64")]
mod color;
#[cfg(target_arch = "x86_64")]
mod idct;
mod reduced;
mod scalar;

use super::scan::Block;

/// Which variant runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernels {
    /// Plain Rust: the definition that the others are tested against.
    Scalar,
    /// AVX2, and the bit instructions that came with it.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 with its operations on bytes and words.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// Quantization steps in the order of a block.
#[derive(Clone)]
#[repr(align(32))]
pub(super) struct Steps(pub [i16; 64]);

/// Blocks are transformed, and pixels converted, in groups of this many.
pub(super) const BLOCKS_AT_ONCE: usize = 4;
const PIXELS_AT_ONCE: usize = 64;

/// Values behind the last one that the kernels may touch.
const SLACK: usize = 32;

/// A row of chroma on its way to full width: a column more on both sides, and values four times too large.
#[derive(Default)]
pub(super) struct ChromaLine {
    values: Vec<i16>,
}

/// Chroma of a row of pixels.
#[derive(Clone, Copy)]
pub(super) enum Chroma<'a> {
    /// Of full width.
    Samples([&'a [u8]; 2]),
    /// Of half the width; the two numbers round the pixels of even and odd columns.
    Lines([&'a ChromaLine; 2], [i16; 2]),
}

impl Chroma<'_> {
    pub const FULL_HEIGHT: [i16; 2] = [4, 8];
    pub const HALF_HEIGHT: [i16; 2] = [8, 7];
}

impl Kernels {
    /// The variants that this processor can run, the best one last.
    pub fn available() -> Vec<Kernels> {
        #[allow(unused_mut)]
        let mut kernels = vec![Kernels::Scalar];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("movbe")
        {
            kernels.push(Kernels::Avx2);
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                kernels.push(Kernels::Avx512);
            }
        }
        kernels
    }

    pub fn best() -> Kernels {
        Kernels::available().pop().unwrap_or(Kernels::Scalar)
    }

    /// Neighbouring blocks, a multiple of `BLOCKS_AT_ONCE`, to 8 rows of samples: row r starts at `r * stride`.
    pub fn transform(self, blocks: &[Block], steps: &Steps, samples: &mut [u8], stride: usize) {
        assert_eq!(blocks.len() % BLOCKS_AT_ONCE, 0, "number of blocks");
        assert!(samples.len() >= 7 * stride + 8 * blocks.len(), "room for the blocks");
        match self {
            Kernels::Scalar => {
                for (at, block) in blocks.iter().enumerate() {
                    scalar::transform(block, steps, &mut samples[8 * at..], stride);
                }
            }
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2 => {
                for (at, blocks) in blocks.as_chunks().0.iter().enumerate() {
                    // SAFETY: the variant exists only where AVX2 is; the room is checked above.
                    unsafe { idct::avx2::transform(blocks, steps, &mut samples[16 * at..], stride) };
                }
            }
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx512 => {
                for (at, blocks) in blocks.as_chunks().0.iter().enumerate() {
                    // SAFETY: the variant exists only where these instructions are; the room is checked above.
                    unsafe { idct::avx512::transform(blocks, steps, &mut samples[32 * at..], stride) };
                }
            }
        }
    }

    /// The same blocks to `size` (4, 2 or 1) rows of `size` samples each.
    pub fn reduce(self, blocks: &[Block], steps: &Steps, size: usize, samples: &mut [u8], stride: usize) {
        assert_eq!(blocks.len() % BLOCKS_AT_ONCE, 0, "number of blocks");
        assert!(
            samples.len() >= (size - 1) * stride + size * blocks.len(),
            "room for the blocks"
        );
        let groups = blocks.as_chunks().0;
        match self {
            Kernels::Scalar => reduced::transform(groups, steps, size, samples, stride),
            // SAFETY: the variants exist only where AVX2 is.
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2 | Kernels::Avx512 => unsafe {
                reduced::transform_avx2(groups, steps, size, samples, stride);
            },
        }
    }

    /// Fills `line` with the columns `start..end` of a component `width` samples wide: 3 x `nearer` + 1 x `farther`, which
    /// are the same row where chroma has full height. Both begin at column `origin` and have 32 bytes of slack; columns
    /// beyond the edge of the component repeat the one at the edge.
    pub fn blend_rows(
        self,
        line: &mut ChromaLine,
        [nearer, farther]: [&[u8]; 2],
        origin: usize,
        (start, end): (usize, usize),
        width: usize,
    ) {
        // Column c stands at c + 1 - start.
        let first = start.saturating_sub(1);
        let last = (end + 1).min(width);
        line.values.resize(end - start + 2 + SLACK, 0);
        assert!(
            nearer.len().min(farther.len()) >= last - origin + SLACK,
            "slack of chroma"
        );
        let (nearer, farther) = (&nearer[first - origin..], &farther[first - origin..]);
        let to = &mut line.values[first + 1 - start..];
        match self {
            Kernels::Scalar => scalar::blend_rows(nearer, farther, last - first, to),
            // SAFETY: the variant exists only where AVX2 is; sources and line have 32 values of slack.
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2 | Kernels::Avx512 => unsafe { color::blend_rows(nearer, farther, last - first, to) },
        }
        if start == 0 {
            line.values[0] = line.values[1];
        }
        if end >= width {
            let beyond = width + 1 - start;
            line.values[beyond] = line.values[beyond - 1];
        }
    }

    /// Converts `width` pixels, of which the first is of even column; all rows have 64 bytes of slack.
    pub fn to_rgb(self, luma: &[u8], chroma: Chroma<'_>, width: usize, mut rgb: [&mut [u8]; 3]) {
        let padded = width.next_multiple_of(PIXELS_AT_ONCE);
        assert!(
            luma.len() >= padded && rgb.iter().all(|row| row.len() >= padded),
            "slack of rows"
        );
        match chroma {
            Chroma::Samples(rows) => assert!(rows.iter().all(|row| row.len() >= padded), "slack of chroma"),
            Chroma::Lines(lines, _) => assert!(
                lines.iter().all(|line| line.values.len() >= padded / 2 + 2),
                "slack of chroma"
            ),
        }
        match self {
            Kernels::Scalar => scalar::to_rgb(luma, chroma, width, rgb),
            // SAFETY: the variant exists only where AVX2 is; every row has `padded` bytes, every line half as many values
            // and two.
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2 => unsafe {
                match chroma {
                    Chroma::Samples(rows) => color::avx2::convert_samples(luma, padded, rows, &mut rgb),
                    Chroma::Lines(lines, round) => color::avx2::convert_lines(luma, padded, lines, round, &mut rgb),
                }
            },
            // SAFETY: likewise.
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx512 => unsafe {
                match chroma {
                    Chroma::Samples(rows) => color::avx512::convert_samples(luma, padded, rows, &mut rgb),
                    Chroma::Lines(lines, round) => color::avx512::convert_lines(luma, padded, lines, round, &mut rgb),
                }
            },
        }
    }
}
