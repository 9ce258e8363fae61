//! The rows of one head's scores: softmax, and its backward pass.
//!
//! A row of s scores lies in a padded row of whole vectors. What pads it counts for nothing, and no loop has a remainder.

use crate::ops::math;

/// Floats of a vector; padded rows are multiples of it.
const LANES: usize = 16;

/// The padded length of a row of s scores.
pub(super) fn padded(s: usize) -> usize {
    s.next_multiple_of(LANES)
}

/// Scores become probabilities, in place; `log_sums` gets log Σ exp of each row.
#[inline(always)]
pub(super) fn softmax_rows(scores: &mut [f32], s: usize, log_sums: &mut [f32]) {
    for (row, log_sum) in scores.chunks_exact_mut(padded(s)).zip(log_sums) {
        row[s..].fill(f32::NEG_INFINITY);
        let (vectors, _) = row.as_chunks_mut::<LANES>();
        let mut largest = [f32::NEG_INFINITY; LANES];
        for x in vectors.iter() {
            for lane in 0..LANES {
                largest[lane] = if x[lane] > largest[lane] {
                    x[lane]
                } else {
                    largest[lane]
                };
            }
        }
        let largest = fold(largest, |a, b| if a > b { a } else { b });
        let mut sums = [0f32; LANES];
        for x in vectors.iter_mut() {
            for lane in 0..LANES {
                x[lane] = math::exp(x[lane] - largest);
                sums[lane] += x[lane];
            }
        }
        let sum = fold(sums, |a, b| a + b);
        let factor = 1.0 / sum;
        for x in vectors {
            x.iter_mut().for_each(|x| *x *= factor);
        }
        *log_sum = largest + sum.ln();
    }
}

/// Scores become probabilities P, gradients of probabilities become gradients of scores, both in place.
///
/// dS = P∘(dP - D), with D = rowsum(dO∘O) the same for a row.
#[inline(always)]
pub(super) fn softmax_rows_backward(
    scores: &mut [f32],
    gradients: &mut [f32],
    s: usize,
    log_sums: &[f32],
    diagonal: &[f32],
) {
    let length = padded(s);
    let rows = scores.chunks_exact_mut(length).zip(gradients.chunks_exact_mut(length));
    for ((scores, gradients), (log_sum, diagonal)) in rows.zip(log_sums.iter().zip(diagonal)) {
        // The scratch may hold anything there, also what is no number.
        scores[s..].fill(f32::NEG_INFINITY);
        gradients[s..].fill(0.0);
        let (scores, _) = scores.as_chunks_mut::<LANES>();
        let (gradients, _) = gradients.as_chunks_mut::<LANES>();
        for (scores, gradients) in scores.iter_mut().zip(gradients) {
            for (score, gradient) in scores.iter_mut().zip(gradients) {
                let probability = math::exp(*score - log_sum);
                *gradient = probability * (*gradient - diagonal);
                *score = probability;
            }
        }
    }
}

#[inline(always)]
fn fold(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] = join(lanes[lane], lanes[lane + width]);
        }
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_sum_to_one_and_padding_counts_for_nothing() {
        for s in [1, 15, 16, 17, 197] {
            let mut scores = vec![f32::NAN; 2 * padded(s)];
            for (i, row) in scores.chunks_exact_mut(padded(s)).enumerate() {
                (0..s).for_each(|j| row[j] = ((i + 3 * j) % 7) as f32 - 80.0 * i as f32);
            }
            let before = scores.clone();
            let mut log_sums = [0.0; 2];
            softmax_rows(&mut scores, s, &mut log_sums);
            for (i, row) in scores.chunks_exact(padded(s)).enumerate() {
                let before = &before[i * padded(s)..][..s];
                let total: f64 = before.iter().map(|x| (*x as f64).exp()).sum();
                assert!((log_sums[i] as f64 - total.ln()).abs() < 1e-5);
                for (p, x) in row.iter().zip(before) {
                    assert!((*p as f64 - (*x as f64).exp() / total).abs() < 1e-6);
                }
                assert!(row[s..].iter().all(|p| *p == 0.0));
            }
        }
    }
}
