//! Evaluation: every validation sample exactly once, over all ranks, at any world size.

use std::time::Instant;

use candle_core::Device;

use super::bad_images::BadImages;
use crate::collective::Collective;
use crate::data::{Dataset, Loader, LoaderConfig, MicroBatch, evaluation_share};
use crate::error::{Error, Result};
use crate::model::Vit;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::storage::values;

/// How samples are evaluated.
pub struct Evaluator {
    pub dataset: Dataset,
    pub loader: LoaderConfig,
    /// Samples of a batch on one rank.
    pub batch: usize,
    pub label_smoothing: f64,
    pub device: Device,
}

/// Figures over all samples of all ranks; the same on every rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean cross-entropy.
    pub loss: f64,
    /// Share of samples whose largest logit is their label's; the lowest class wins a tie.
    pub accuracy: f64,
    /// Samples that were evaluated: all but those with unreadable images.
    pub samples: usize,
    pub seconds: f64,
    /// Batches of the rank with most.
    pub steps: usize,
}

impl Evaluator {
    /// Every rank must call it. Errors: no readable image at all; a loss that is no number.
    pub fn evaluate(&self, model: &Vit, collective: &dyn Collective, bad: &mut BadImages) -> Result<Evaluation> {
        let begun = Instant::now();
        let (rank, world) = (collective.rank(), collective.world());
        let rows: Vec<u32> = evaluation_share(self.dataset.len(), rank, world).collect();
        let batches: Vec<MicroBatch> = rows
            .chunks(self.batch)
            .map(|rows| MicroBatch {
                epoch: 0,
                rows: rows.to_vec(),
            })
            .collect();
        let mut loader = Loader::new(self.dataset.clone(), batches.into_iter(), self.loader.clone())?;
        let (mut loss, mut right, mut samples) = (0.0, 0, 0);
        while let Some(batch) = loader.next()? {
            if batch.samples.is_empty() {
                continue;
            }
            let logits_bc = model
                .infer(&batch.pixels_bchw.to_device(&self.device)?)?
                .to_device(&Device::Cpu)?;
            loss += cross_entropy(&logits_bc, &batch.labels, self.label_smoothing, 1.0)?.sum_loss;
            let (logits, classes) = (values(&logits_bc)?, logits_bc.dims()[1]);
            let predictions = logits.chunks(classes).map(largest);
            right += predictions
                .zip(&batch.labels)
                .filter(|(class, label)| class == *label)
                .count();
            samples += batch.samples.len();
        }
        let mut sums = [loss, right as f64, samples as f64];
        collective.sum_f64(&mut sums)?;
        let [loss, right, samples] = sums;
        if (samples as usize) < self.dataset.len() {
            bad.tell(collective, "validation", &loader.bad_images())?;
        }
        if samples == 0.0 {
            return Err(Error::usage(
                "no image of the validation set can be read",
                "look at the files that are named above",
            ));
        }
        let loss = loss / samples;
        if !loss.is_finite() {
            return Err(Error::usage(
                format!("the validation loss is {loss}"),
                "lower --learning-rate or add --warmup-steps; resume from an earlier checkpoint",
            ));
        }
        Ok(Evaluation {
            loss,
            accuracy: right / samples,
            samples: samples as usize,
            seconds: begun.elapsed().as_secs_f64(),
            steps: self.dataset.len().div_ceil(world).div_ceil(self.batch),
        })
    }
}

/// The place of the largest value, the first of several.
fn largest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (class, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = class;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::largest;

    #[test]
    fn the_first_of_equal_logits_is_the_prediction() {
        assert_eq!(largest(&[1.0, 3.0, 3.0, 2.0]), 1);
        assert_eq!(largest(&[-1.0]), 0);
    }
}
