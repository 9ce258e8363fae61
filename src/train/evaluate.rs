//! Evaluation: every validation sample exactly once, over all ranks, at any world size.

use std::time::Instant;

use candle_core::Device;

use super::bad_images::BadImages;
use crate::collective::{Collective, gather};
use crate::data::{Dataset, Loader, LoaderConfig, MicroBatch, evaluation_share};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::storage::values;
use crate::report::{Figures, Outcome};

/// What to do where a GPU has too little memory for one.
const SMALLER_BATCHES: &str = "lower --per-device-eval-batch-size, choose --precision fp16 or bf16 if it is fp32";

/// How samples are evaluated.
pub struct Evaluator {
    pub dataset: Dataset,
    pub loader: LoaderConfig,
    /// Samples of a batch on one rank.
    pub batch: usize,
    pub label_smoothing: f64,
    pub device: Device,
}

/// All samples of all ranks; the same on every rank, and the same for any number of ranks.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    pub figures: Figures,
    /// One for each sample with a readable image, in the order of the rows.
    pub outcomes: Vec<Outcome>,
    pub seconds: f64,
    /// Batches of the rank with most.
    pub steps: usize,
}

impl Evaluator {
    /// Every rank must call it. Errors: no readable image at all; a loss that is no number.
    pub fn evaluate(&self, model: &Model, collective: &dyn Collective, bad: &mut BadImages) -> Result<Evaluation> {
        let begun = Instant::now();
        let (rank, world) = (collective.rank(), collective.world());
        let rows: Vec<u32> = evaluation_share(self.dataset.len(), rank, world).collect();
        let batches: Vec<MicroBatch> = rows
            .chunks(self.batch)
            .map(|rows| MicroBatch::of_rows(0, rows.iter().copied()))
            .collect();
        let mut loader = Loader::new(self.dataset.clone(), batches.into_iter(), self.loader.clone())?;
        let mut outcomes = Vec::with_capacity(rows.len());
        while let Some(batch) = loader.next()? {
            if batch.samples.is_empty() {
                continue;
            }
            // SYNC: figures are the host's. The next batches are copied and made meanwhile.
            let logits_bc = (batch.pixels_on(&self.device))
                .and_then(|pixels_bchw| model.infer(&pixels_bchw))
                .and_then(|logits_bc| Ok(logits_bc.to_device(&Device::Cpu)?))
                .map_err(|error| error.wanted_by(|| format!("the evaluation of {} images", batch.samples.len())))
                .map_err(|error| error.helped_by(SMALLER_BATCHES))?;
            let losses = cross_entropy(&logits_bc, &batch.labels, self.label_smoothing, 1.0)?.losses;
            let (logits, classes) = (values(&logits_bc)?, logits_bc.dims()[1]);
            let names = batch.samples.iter().zip(&batch.labels);
            for ((logits, loss), (&row, &label)) in logits.chunks(classes).zip(losses).zip(names) {
                outcomes.push(Outcome::new(row as u32, label, logits, loss));
            }
        }
        let of_ranks = gather(collective, &Outcome::write_all(&outcomes))?;
        let outcomes: Vec<Outcome> = of_ranks.iter().flat_map(|bytes| Outcome::read_all(bytes)).collect();
        if outcomes.len() < self.dataset.len() {
            bad.tell(collective, "validation", &loader.bad_images())?;
        }
        if outcomes.is_empty() {
            return Err(Error::usage(
                "no image of the validation set can be read",
                "look at the files that are named above",
            ));
        }
        let figures = Figures::of(&outcomes);
        if !figures.loss.is_finite() {
            return Err(Error::usage(
                format!("the validation loss is {}", figures.loss),
                "lower --learning-rate or add --warmup-steps; resume from an earlier checkpoint",
            ));
        }
        Ok(Evaluation {
            figures,
            outcomes,
            seconds: begun.elapsed().as_secs_f64(),
            steps: self.dataset.len().div_ceil(world).div_ceil(self.batch),
        })
    }
}
