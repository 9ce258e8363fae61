//! Softmax cross-entropy against weighted and mixed targets, and its gradient, in f64 on the CPU.
//!
//! The target of a row gives class c the value w[c]·t[c], where t is (1-smoothing)·(share on the first label, the rest on the
//! second) plus smoothing/classes on every class, and w are the weights of the classes. That is torch's CrossEntropyLoss
//! with weights and label smoothing where nothing is mixed, and with probabilities as targets (timm's mixup_target) where
//! samples are. A row's target need not sum up to 1.

use candle_core::Tensor;

use super::cross_entropy::{CrossEntropy, cross_entropy};
use super::storage::{refused, tensor, values};
use crate::error::Result;

/// What rows of logits are held against.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// Of each row.
    pub labels: &'a [u32],
    /// None: no sample is mixed.
    pub mixed: Option<Mixed<'a>>,
    pub smoothing: f64,
    /// Of each class; None: 1.
    pub weights: Option<&'a [f32]>,
}

/// What mixed rows have besides their label.
#[derive(Clone, Copy, Debug)]
pub struct Mixed<'a> {
    pub second_labels: &'a [u32],
    /// Of the first label.
    pub shares: &'a [f32],
}

/// Targets where a GPU computes. Labels are classes: whoever puts them there has looked.
#[derive(Clone, Debug)]
pub struct TargetsThere {
    /// [b] u32
    pub labels_b: Tensor,
    /// None: no sample is mixed.
    pub mixed: Option<MixedThere>,
    /// [classes] f32; None: 1.
    pub weights_c: Option<Tensor>,
    pub smoothing: f64,
}

#[derive(Clone, Debug)]
pub struct MixedThere {
    /// [b] u32
    pub second_labels_b: Tensor,
    /// Of the first label, [b] f32.
    pub shares_b: Tensor,
}

/// What a GPU multiplies gradients by; [1] f32 each, there.
#[derive(Clone, Debug)]
pub struct Factors {
    /// What makes the sum of losses a mean.
    pub per_sample: Tensor,
    pub loss_scale: Tensor,
}

/// Losses are the rows' own, whatever they are to be divided by; `scale` is as for [`cross_entropy`], which it is where
/// nothing is weighted or mixed. Errors: a label that is no class; operands of other lengths.
pub fn soft_cross_entropy(logits_bc: &Tensor, targets: &Targets, scale: f64) -> Result<CrossEntropy> {
    let Targets {
        labels,
        mixed,
        smoothing,
        weights,
    } = *targets;
    if mixed.is_none() && weights.is_none() {
        return cross_entropy(logits_bc, labels, smoothing, scale);
    }
    let (b, c) = fitting(logits_bc, targets)?;
    let second_labels = mixed.map_or(labels, |mixed| mixed.second_labels);
    #[cfg(feature = "cuda")]
    if logits_bc.device().is_cuda() {
        let there = super::cuda::soft_cross_entropy::soft_cross_entropy(logits_bc, targets, scale)?;
        return CrossEntropy::awaited(there);
    }
    let logits = values(logits_bc)?;
    let mut gradient = Vec::with_capacity(b * c);
    let mut losses = Vec::with_capacity(b);
    for (i, row) in logits.chunks_exact(c).enumerate() {
        let share = mixed.map_or(1.0, |mixed| f64::from(mixed.shares[i]));
        let (first, second) = (labels[i] as usize, second_labels[i] as usize);
        let target = |class: usize| {
            let of = |label: usize, share: f64| if class == label { share } else { 0.0 };
            let hit = of(first, share) + of(second, 1.0 - share);
            let weight = weights.map_or(1.0, |weights| f64::from(weights[class]));
            weight * ((1.0 - smoothing) * hit + smoothing / c as f64)
        };
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
        let log_total = largest + row.iter().map(|x| (*x as f64 - largest).exp()).sum::<f64>().ln();
        let (mut loss, mut total) = (0.0, 0.0);
        for (class, x) in row.iter().enumerate() {
            let target = target(class);
            // A class that is impossible (-∞) costs nothing unless it has a share.
            if target > 0.0 {
                loss += target * (log_total - *x as f64);
                total += target;
            }
        }
        losses.push(loss);
        let softmax = row.iter().map(|x| (*x as f64 - log_total).exp());
        gradient.extend(
            (0..c)
                .zip(softmax)
                .map(|(class, p)| (scale * (total * p - target(class))) as f32),
        );
    }
    Ok(CrossEntropy::new(losses, tensor(gradient, (b, c))?))
}

/// The same on a GPU, where everything is and the losses [b] stay.
pub fn soft_cross_entropy_there(
    logits_bc: &Tensor,
    targets: &TargetsThere,
    factors: &Factors,
) -> Result<(Tensor, Tensor)> {
    let (b, c) = logits_bc.dims2()?;
    let is_long = |tensor: Option<&Tensor>, n: usize| tensor.is_none_or(|tensor| tensor.elem_count() == n);
    let mixed = targets.mixed.as_ref();
    let (second_labels, shares) = (
        mixed.map(|mixed| &mixed.second_labels_b),
        mixed.map(|mixed| &mixed.shares_b),
    );
    let fits = [Some(&targets.labels_b), second_labels, shares]
        .iter()
        .all(|of| is_long(*of, b));
    if !fits || !is_long(targets.weights_c.as_ref(), c) {
        return Err(refused(format!("targets {targets:?} for logits [{b}, {c}]")));
    }
    #[cfg(feature = "cuda")]
    if logits_bc.device().is_cuda() {
        return match targets.mixed.is_none() && targets.weights_c.is_none() {
            true => super::cuda::step::cross_entropy_there(logits_bc, targets, factors),
            false => super::cuda::soft_cross_entropy::soft_cross_entropy_there(logits_bc, targets, factors),
        };
    }
    let _ = factors;
    Err(refused(format!("a loss that stays on {:?}", logits_bc.device())))
}

/// Rows and classes of the logits, if the targets fit them.
fn fitting(logits_bc: &Tensor, targets: &Targets) -> Result<(usize, usize)> {
    let Targets {
        labels, mixed, weights, ..
    } = *targets;
    let (b, c) = logits_bc.dims2()?;
    let second_labels = mixed.map_or(labels, |mixed| mixed.second_labels);
    let lengths = [
        labels.len(),
        second_labels.len(),
        mixed.map_or(b, |mixed| mixed.shares.len()),
    ];
    if lengths != [b; 3] || weights.is_some_and(|weights| weights.len() != c) {
        return Err(refused(format!("targets {targets:?} for logits [{b}, {c}]")));
    }
    if let Some(label) = labels.iter().chain(second_labels).find(|label| **label as usize >= c) {
        return Err(refused(format!("label {label} with only {c} classes")));
    }
    Ok((b, c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(labels: &[u32]) -> Targets<'_> {
        Targets {
            labels,
            mixed: None,
            smoothing: 0.0,
            weights: None,
        }
    }

    #[test]
    fn weights_of_1_and_whole_shares_change_nothing_but_rounding() {
        let logits = tensor(vec![0.3, -1.2, 2.0, 0.1, 0.0, -0.4], (2, 3)).unwrap();
        for smoothing in [0.0, 0.1] {
            let plain = cross_entropy(&logits, &[2, 0], smoothing, 0.5).unwrap();
            let weighted = Targets {
                weights: Some(&[1.0; 3]),
                mixed: Some(Mixed {
                    second_labels: &[1, 0],
                    shares: &[1.0, 0.25],
                }),
                smoothing,
                ..targets(&[2, 0])
            };
            let soft = soft_cross_entropy(&logits, &weighted, 0.5).unwrap();
            assert!((soft.sum_loss - plain.sum_loss).abs() < 1e-12);
            let [ours, theirs] = [soft, plain].map(|of| values(&of.dlogits_bc).unwrap().to_vec());
            assert!(
                ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 1e-7),
                "{ours:?} {theirs:?}"
            );
        }
    }

    #[test]
    fn an_impossible_class_costs_nothing_without_a_share_and_misfits_are_refused() {
        let logits = tensor(vec![1.0, f32::NEG_INFINITY, 1.0], (1, 3)).unwrap();
        let weighted = Targets {
            weights: Some(&[3.0, 5.0, 1.0]),
            ..targets(&[0])
        };
        let soft = soft_cross_entropy(&logits, &weighted, 1.0).unwrap();
        assert!((soft.sum_loss - 3.0 * 2f64.ln()).abs() < 1e-12, "{}", soft.sum_loss);
        assert_eq!(soft.dlogits_bc.to_vec2::<f32>().unwrap(), [[-1.5, 0.0, 1.5]]);
        let short = Targets {
            weights: Some(&[3.0, 5.0]),
            ..targets(&[0])
        };
        assert!(soft_cross_entropy(&logits, &short, 1.0).is_err());
        let mixed = Targets {
            mixed: Some(Mixed {
                second_labels: &[3],
                shares: &[0.5],
            }),
            ..targets(&[0])
        };
        let error = soft_cross_entropy(&logits, &mixed, 1.0)
            .err()
            .expect("there is no class 3");
        assert!(error.to_string().contains("label 3"), "{error}");
    }
}
