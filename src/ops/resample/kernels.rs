//! The two inner loops of a resize, in the variants that processors allow. All give the same bytes.
//!
//! The vector variants cut a weight into pieces that their multiply-and-add instructions take, four weights (a quad) at a
//! time: `words[(quad * PIECES + piece) * outputs + output]`, with the outputs padded to `LANES`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use super::axis::{Axis, LANES, WEIGHT_BITS};

/// Which variant runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernels {
    /// Plain Rust: the definition that the others are tested against.
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 with VBMI and VNNI: Ice Lake, Zen 4 and later.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// Half a unit of the result, in which the sums begin.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

impl Kernels {
    /// The variants that this processor can run, the best one last.
    pub(super) fn available() -> Vec<Kernels> {
        #[allow(unused_mut)]
        let mut kernels = vec![Kernels::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                kernels.push(Kernels::Avx2);
            }
            if avx512::is_available() {
                kernels.push(Kernels::Avx512);
            }
        }
        kernels
    }

    pub(super) fn best() -> Kernels {
        Kernels::available().pop().unwrap_or(Kernels::Scalar)
    }

    /// Fills `words` from `weights`, `[outputs, taps]`.
    pub(super) fn pack(self, weights: &[i32], taps: usize, words: &mut Vec<i32>) {
        match self {
            Kernels::Scalar => {}
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2 => pack(weights, taps, words, avx2::pieces),
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx512 => pack(weights, taps, words, avx512::pieces),
        }
    }

    /// One row: `from[0]` is the first of `axis.inputs()`, `to[0]` the first of `axis.outputs()`. Both have slack behind.
    pub(super) fn horizontal(self, axis: &Axis, from: &[u8], to: &mut [u8]) {
        match self {
            Kernels::Scalar => {
                for (at, to) in to[..axis.outputs().len()].iter_mut().enumerate() {
                    let (first, weights) = axis.output(at);
                    let mut sum = HALF;
                    for (&sample, &weight) in from[first..].iter().zip(weights) {
                        sum += sample as i32 * weight;
                    }
                    *to = clip(sum);
                }
            }
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2 => avx2::horizontal(axis, from, to),
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx512 => avx512::horizontal(axis, from, to),
        }
    }

    /// One output row, the axis' number `at`; `row` gives an input row, counted from the first of `axis.inputs()`, of at
    /// least `width` samples and slack.
    pub(super) fn vertical<'a>(
        self,
        axis: &Axis,
        at: usize,
        row: impl Fn(usize) -> &'a [u8],
        width: usize,
        to: &mut [u8],
    ) {
        match self {
            Kernels::Scalar => {
                let (first, weights) = axis.output(at);
                for (x, to) in to[..width].iter_mut().enumerate() {
                    let mut sum = HALF;
                    for (tap, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight != 0) {
                        sum += row(first + tap)[x] as i32 * weight;
                    }
                    *to = clip(sum);
                }
            }
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2 => avx2::vertical(axis, at, row, width, to),
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx512 => avx512::vertical(axis, at, row, width, to),
        }
    }
}

fn clip(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

#[cfg(target_arch = "x86_64")]
fn pack<const PIECES: usize>(
    weights: &[i32],
    taps: usize,
    words: &mut Vec<i32>,
    pieces: impl Fn([i32; 4]) -> [i32; PIECES],
) {
    let padded = (weights.len() / taps).next_multiple_of(LANES);
    words.clear();
    words.resize(taps.div_ceil(4) * PIECES * padded, 0);
    for (at, weights) in weights.chunks_exact(taps).enumerate() {
        for (quad, weights) in weights.chunks(4).enumerate() {
            let mut four = [0; 4];
            four[..weights.len()].copy_from_slice(weights);
            for (piece, word) in pieces(four).into_iter().enumerate() {
                words[(quad * PIECES + piece) * padded + at] = word;
            }
        }
    }
}

/// The four rows of a quad: where the weight of one is 0 because there is no such row, any row will do.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn quad_rows<'a>(axis: &Axis, at: usize, quad: usize, row: &impl Fn(usize) -> &'a [u8]) -> [&'a [u8]; 4] {
    let last = axis.inputs().len() - 1;
    let first = axis.first[at] as usize + quad * 4;
    // Written out, since `map` would become a call that cannot be inlined into code with vector features.
    [
        row(first.min(last)),
        row((first + 1).min(last)),
        row((first + 2).min(last)),
        row((first + 3).min(last)),
    ]
}
