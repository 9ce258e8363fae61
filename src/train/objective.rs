//! What an optimizer step minimises: the cross-entropy of its samples, and what the sum of their losses is divided by.
//!
//! That is the number of samples, or, where classes are weighted, the sum of their labels' weights, over the whole step: all
//! ranks and micro-batches, as torch's mean over one global batch. It is known before anything is computed, because labels
//! are. Where samples are mixed it is always their number, as torch's mean is for targets that are probabilities. Figures of
//! evaluations are neither weighted nor mixed.

use std::cell::OnceCell;

use candle_core::{DType, Device, Tensor};

use crate::data::{Batch, Dataset, Draw, EpochOrder, Pairing, Plan};
use crate::error::Result;
use crate::ops::cast::sent;
use crate::ops::cross_entropy::CrossEntropy;
use crate::ops::soft_cross_entropy::{Mixed, MixedThere, Targets, TargetsThere, soft_cross_entropy};
use crate::ops::storage::{tensor, words};

pub struct Objective {
    smoothing: f64,
    /// Of each class; None: all count alike.
    weights: Option<Vec<f32>>,
    /// The same on a GPU, once they were needed there.
    weights_there: OnceCell<Tensor>,
    divisor: Divisor,
}

enum Divisor {
    Samples,
    Weights {
        /// Of each training sample.
        labels: Vec<u32>,
        order: EpochOrder,
    },
}

impl Objective {
    pub fn new(smoothing: f64, weights: Option<Vec<f32>>, train: &Dataset, plan: &Plan) -> Objective {
        Objective {
            smoothing,
            divisor: match (&weights, plan.pairing) {
                (Some(_), Pairing::Alone) => Divisor::Weights {
                    labels: (0..train.len()).map(|row| train.label(row)).collect(),
                    order: plan.epoch_order(),
                },
                _ => Divisor::Samples,
            },
            weights,
            weights_there: OnceCell::new(),
        }
    }

    /// What the losses of `step`'s samples are divided by if every image can be read.
    pub fn divisor(&mut self, plan: &Plan, step: u64) -> f64 {
        let places = plan.places(step);
        match (&mut self.divisor, &self.weights) {
            (Divisor::Weights { labels, order }, Some(weights)) => {
                let draws = &order.draws(plan.epoch(step))[places];
                let weight = |draw: &Draw| f64::from(weights[labels[draw.row as usize] as usize]);
                draws.iter().map(weight).sum()
            }
            _ => places.len() as f64,
        }
    }

    /// The part of the divisor that these samples make up.
    pub fn share(&self, labels: &[u32]) -> f64 {
        match (&self.divisor, &self.weights) {
            (Divisor::Weights { .. }, Some(weights)) => {
                labels.iter().map(|label| f64::from(weights[*label as usize])).sum()
            }
            _ => labels.len() as f64,
        }
    }

    /// Losses of a batch, not divided, and the gradient of `scale` times their sum.
    pub fn losses(&self, logits_bc: &Tensor, batch: &Batch, scale: f64) -> Result<CrossEntropy> {
        soft_cross_entropy(logits_bc, &self.targets(batch), scale)
    }

    /// A batch's targets on a GPU; what came there with its samples is not copied again.
    pub fn targets_there(&self, batch: &Batch, device: &Device) -> Result<TargetsThere> {
        let floats = |values: &[f32]| sent(&tensor(values.to_vec(), values.len())?, device, DType::F32);
        if let (Some(weights), None) = (&self.weights, self.weights_there.get()) {
            let _ = self.weights_there.set(floats(weights)?);
        }
        Ok(TargetsThere {
            labels_b: match &batch.labels_there {
                Some(labels_b) => labels_b.clone(),
                None => words(&batch.labels, device)?,
            },
            mixed: match &batch.mixture {
                Some(mixture) => Some(MixedThere {
                    second_labels_b: words(&mixture.second_labels, device)?,
                    shares_b: floats(&mixture.shares)?,
                }),
                None => None,
            },
            weights_c: self.weights_there.get().cloned(),
            smoothing: self.smoothing,
        })
    }

    fn targets<'a>(&'a self, batch: &'a Batch) -> Targets<'a> {
        Targets {
            labels: &batch.labels,
            mixed: batch.mixture.as_ref().map(|mixture| Mixed {
                second_labels: &mixture.second_labels,
                shares: &mixture.shares,
            }),
            smoothing: self.smoothing,
            weights: self.weights.as_deref(),
        }
    }
}
