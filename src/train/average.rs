//! The moving average of the weights (`--ema-decay`): it follows the optimizer, and takes the weights' place where the model is
//! evaluated or saved. Training goes on with the weights themselves.

use candle_core::Tensor;

use super::trainer::Trainer;
use crate::error::Result;
use crate::model::Model;
use crate::optim::{Gradients, Verdict};

/// What is averaged.
pub fn averaged(model: &Model) -> Vec<Tensor> {
    let statistics = model.statistics().map(|statistics| statistics.values.clone());
    std::iter::once(model.parameters().values.clone())
        .chain(statistics)
        .collect()
}

impl Trainer<'_> {
    /// After a step, unless it was skipped, which a GPU knows by itself.
    pub(super) fn update_average(&self, verdict: &Verdict) -> Result<()> {
        let Some(average) = &self.average else { return Ok(()) };
        let apply = self.end.applied()?;
        match (verdict, &apply) {
            (Verdict::Known(judgement), None) if judgement.gradients == Gradients::Overflowed => Ok(()),
            _ => average.update(&averaged(&self.model), apply.as_ref()),
        }
    }

    /// Puts the average in the place of the weights, or these back.
    pub(super) fn swap_average(&self) -> Result<()> {
        match &self.average {
            Some(average) => {
                average.swap(&averaged(&self.model))?;
                self.model.refresh()
            }
            None => Ok(()),
        }
    }

    /// From now on the average is the model.
    pub(super) fn take_average(&mut self) -> Result<()> {
        self.swap_average()?;
        self.average = None;
        Ok(())
    }
}
