//! Softmax cross-entropy with label smoothing, and its gradient, in f64 (the classes are few).

use candle_core::Tensor;

use super::storage::{refused, tensor, values};
use crate::error::Result;

pub struct CrossEntropy {
    /// Σ of the samples' losses.
    pub sum_loss: f64,
    /// Loss of each sample, [b].
    pub losses: Vec<f64>,
    /// Gradient of `scale`·Σ losses with respect to the logits, [b,c].
    pub dlogits_bc: Tensor,
}

impl CrossEntropy {
    pub(super) fn new(losses: Vec<f64>, dlogits_bc: Tensor) -> CrossEntropy {
        CrossEntropy {
            sum_loss: losses.iter().sum(),
            losses,
            dlogits_bc,
        }
    }

    /// Of losses [b] that a GPU has.
    #[cfg(feature = "cuda")]
    pub(super) fn awaited((losses_b, dlogits_bc): (Tensor, Tensor)) -> Result<CrossEntropy> {
        // SYNC: whoever wants the losses here waits for them; a run's steps have `soft_cross_entropy_there`.
        let losses = values(&losses_b)?.iter().map(|loss| f64::from(*loss)).collect();
        Ok(CrossEntropy::new(losses, dlogits_bc))
    }
}

/// The target distribution is (1-smoothing) on the label plus smoothing/c on every class (torch's definition).
///
/// `scale` is 1 / samples of the whole optimizer step, so that gradients of micro-batches and ranks just add up.
/// Errors: a label that is no class.
pub fn cross_entropy(logits_bc: &Tensor, labels: &[u32], smoothing: f64, scale: f64) -> Result<CrossEntropy> {
    let c = classes(logits_bc, labels)?;
    #[cfg(feature = "cuda")]
    if logits_bc.device().is_cuda() {
        return CrossEntropy::awaited(super::cuda::step::cross_entropy(logits_bc, labels, smoothing, scale)?);
    }
    let logits = values(logits_bc)?;
    let b = labels.len();
    let mut gradient = Vec::with_capacity(b * c);
    let mut losses = Vec::with_capacity(b);
    for (row, &label) in logits.chunks_exact(c).zip(labels) {
        let label = label as usize;
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
        let total: f64 = row.iter().map(|x| (*x as f64 - largest).exp()).sum();
        let log_total = largest + total.ln();
        let mut loss = log_total - (1.0 - smoothing) * row[label] as f64;
        // A class that is impossible (-∞) costs nothing unless smoothing gives it a share.
        if smoothing > 0.0 {
            loss -= smoothing * row.iter().map(|x| *x as f64).sum::<f64>() / c as f64;
        }
        losses.push(loss);
        gradient.extend(row.iter().enumerate().map(|(class, x)| {
            let hit = if class == label { 1.0 - smoothing } else { 0.0 };
            (scale * ((*x as f64 - log_total).exp() - hit - smoothing / c as f64)) as f32
        }));
    }
    Ok(CrossEntropy::new(losses, tensor(gradient, (b, c))?))
}

/// How many there are, if the labels are classes and as many as rows.
fn classes(logits_bc: &Tensor, labels: &[u32]) -> Result<usize> {
    let (b, c) = logits_bc.dims2()?;
    if labels.len() != b {
        return Err(refused(format!("{} labels for {b} rows of logits", labels.len())));
    }
    match labels.iter().find(|label| **label as usize >= c) {
        Some(label) => Err(refused(format!("label {label} with only {c} classes"))),
        None => Ok(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_impossible_class_costs_nothing_without_smoothing() {
        let logits = tensor(vec![1.0, f32::NEG_INFINITY, 1.0], (1, 3)).unwrap();
        let plain = cross_entropy(&logits, &[0], 0.0, 1.0).unwrap();
        assert!((plain.sum_loss - 2f64.ln()).abs() < 1e-12, "{}", plain.sum_loss);
        assert_eq!(plain.dlogits_bc.to_vec2::<f32>().unwrap(), [[-0.5, 0.0, 0.5]]);
        assert_eq!(cross_entropy(&logits, &[0], 0.1, 1.0).unwrap().sum_loss, f64::INFINITY);
    }
}
