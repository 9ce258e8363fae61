//! What an optimizer step minimises: the cross-entropy of its samples, and what the sum of their losses is divided by.
//!
//! That is the number of samples, or, where classes are weighted, the sum of their labels' weights, over the whole step: all
//! ranks and micro-batches, as torch's mean over one global batch. It is known before anything is computed, because labels
//! are. Figures of evaluations are never weighted.

use candle_core::Tensor;

use crate::data::{Batch, Dataset, Draw, EpochOrder, Plan};
use crate::error::Result;
use crate::ops::cross_entropy::CrossEntropy;
use crate::ops::soft_cross_entropy::{Targets, soft_cross_entropy};

pub struct Objective {
    smoothing: f64,
    /// None: all classes count alike.
    weighted: Option<Weighted>,
}

struct Weighted {
    /// Of each class.
    weights: Vec<f32>,
    /// Of each training sample.
    labels: Vec<u32>,
    order: EpochOrder,
}

impl Objective {
    pub fn new(smoothing: f64, weights: Option<Vec<f32>>, train: &Dataset, plan: &Plan) -> Objective {
        Objective {
            smoothing,
            weighted: weights.map(|weights| Weighted {
                weights,
                labels: (0..train.len()).map(|row| train.label(row)).collect(),
                order: plan.epoch_order(),
            }),
        }
    }

    /// What the losses of `step`'s samples are divided by if every image can be read.
    pub fn divisor(&mut self, plan: &Plan, step: u64) -> f64 {
        let places = plan.places(step);
        match &mut self.weighted {
            None => places.len() as f64,
            Some(Weighted { weights, labels, order }) => {
                let draws = &order.draws(plan.epoch(step))[places];
                let weight = |draw: &Draw| f64::from(weights[labels[draw.row as usize] as usize]);
                draws.iter().map(weight).sum()
            }
        }
    }

    /// The part of the divisor that these samples make up.
    pub fn share(&self, labels: &[u32]) -> f64 {
        match &self.weighted {
            None => labels.len() as f64,
            Some(Weighted { weights, .. }) => labels.iter().map(|label| f64::from(weights[*label as usize])).sum(),
        }
    }

    /// Losses of a batch, not divided, and the gradient of `scale` times their sum.
    pub fn losses(&self, logits_bc: &Tensor, batch: &Batch, scale: f64) -> Result<CrossEntropy> {
        let targets = Targets {
            labels: &batch.labels,
            mixed: None,
            smoothing: self.smoothing,
            weights: self.weighted.as_ref().map(|weighted| weighted.weights.as_slice()),
        };
        soft_cross_entropy(logits_bc, &targets, scale)
    }
}
