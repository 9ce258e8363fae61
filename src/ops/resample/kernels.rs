//! The two inner loops of a resize, in the variants that processors allow.

use super::axis::{Axis, WEIGHT_BITS};

/// Which variant runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernels {
    /// Plain Rust: the definition that the others are tested against.
    Scalar,
}

impl Kernels {
    pub(super) fn best() -> Kernels {
        Kernels::Scalar
    }

    /// One row: `from[0]` is the first of `axis.inputs()`, `to[0]` the first of `axis.outputs()`.
    pub(super) fn horizontal(self, axis: &Axis, from: &[u8], to: &mut [u8]) {
        match self {
            Kernels::Scalar => {
                for (at, to) in to[..axis.outputs().len()].iter_mut().enumerate() {
                    let (first, weights) = axis.output(at);
                    let mut sum = 1 << (WEIGHT_BITS - 1);
                    for (&sample, &weight) in from[first - axis.inputs().start..].iter().zip(weights) {
                        sum += sample as i32 * weight;
                    }
                    *to = clip(sum);
                }
            }
        }
    }

    /// One output row, the axis' number `at`; `row` gives an input row of at least `width` samples and slack.
    pub(super) fn vertical<'a>(
        self,
        axis: &Axis,
        at: usize,
        row: impl Fn(usize) -> &'a [u8],
        width: usize,
        to: &mut [u8],
    ) {
        let (first, weights) = axis.output(at);
        match self {
            Kernels::Scalar => {
                let mut sums = vec![1 << (WEIGHT_BITS - 1); width];
                for (tap, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight != 0) {
                    for (sum, &sample) in sums.iter_mut().zip(row(first + tap)) {
                        *sum += sample as i32 * weight;
                    }
                }
                for (to, &sum) in to.iter_mut().zip(&sums) {
                    *to = clip(sum);
                }
            }
        }
    }
}

fn clip(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}
