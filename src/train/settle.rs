//! What came of a step: read, held against what may be, recorded and logged.
//!
//! On a GPU that is known later than the step is asked for. Losses of all ranks are added up here, where the host has them.

use super::health;
use super::trainer::Trainer;
use crate::error::Result;
use crate::optim::{Gradients, Judgement, Verdict};
use crate::report::{Now, Stage};

/// A step that was asked for.
pub(super) struct Asked {
    pub(super) step: u64,
    /// Of all ranks, as far as the host has it: that of GPUs comes with the verdict.
    pub(super) loss: f64,
    /// What it is divided by.
    pub(super) share: f64,
    /// Of this rank, the samples of each micro-batch.
    pub(super) samples: Vec<Vec<u64>>,
    /// Of all ranks.
    pub(super) images: usize,
    /// None if no image could be read.
    pub(super) verdict: Option<Verdict>,
    /// Some rank was asked to stop.
    pub(super) stop: bool,
}

/// What a step did.
pub(super) struct Done {
    pub(super) learning_rate: f64,
    /// Mean over the step's samples, and the gradient's norm before clipping (of the last step that had one, if this one
    /// overflowed); None if no image could be read.
    pub(super) result: Option<(f64, f64)>,
    images: usize,
}

impl Trainer<'_> {
    /// Reads, records and logs the first step that is pending.
    pub(super) fn settle(&mut self) -> Result<()> {
        let Some(asked) = self.pending.pop_front() else {
            return Ok(());
        };
        let step = asked.step;
        let done = self.outcome(asked).map_err(|error| error.at_step(step))?;
        self.record(&done);
        if self.run.logs_at(self.state.global_step) {
            self.log(&done);
        }
        Ok(())
    }

    /// What came of a step. Errors: a loss or the gradient is no number.
    fn outcome(&mut self, asked: Asked) -> Result<Done> {
        let Some(verdict) = asked.verdict else {
            return Ok(Done {
                learning_rate: self.end.learning_rate(asked.step),
                result: None,
                images: asked.images,
            });
        };
        let judgement = self.read(verdict)?;
        let mut loss = [judgement.losses.iter().sum::<f64>()];
        for (loss, samples) in judgement.losses.iter().zip(&asked.samples) {
            health::finite_loss(*loss, asked.step, self.collective, samples)?;
        }
        if self.run.device.is_cuda() {
            self.stages
                .time(Stage::AllReduce, || self.collective.sum_f64(&mut loss))?;
        }
        self.note(&judgement, asked.step)?;
        Ok(Done {
            learning_rate: judgement.learning_rate,
            result: Some(((asked.loss + loss[0]) / asked.share, self.norm)),
            images: asked.images,
        })
    }

    /// Notes the gradient's norm. In fp16 a step whose gradients overflow is skipped, on all ranks, because they hold the same
    /// sums; otherwise that is an error.
    fn note(&mut self, judgement: &Judgement, step: u64) -> Result<()> {
        if judgement.gradients == Gradients::Finite {
            self.norm = judgement.norm;
            return Ok(());
        }
        match &self.end.scaler {
            Some(scaler) if !scaler.has_collapsed() => {
                self.progress.say(&format!(
                    "step {} was skipped, its gradients overflowed fp16; the loss scale is now {}",
                    step + 1,
                    scaler.scale()
                ));
                Ok(())
            }
            _ => health::finite_norm(judgement.norm, step),
        }
    }

    /// Waits for what came of a step, with an eye on the other ranks, on whom it may depend.
    pub(super) fn read(&mut self, verdict: Verdict) -> Result<Judgement> {
        if !self.end.is_known(&verdict)? {
            let (collective, end) = (self.collective, &self.end);
            // SYNC: once a step, for what came of the step before it, while the GPU is busy with this one.
            self.stages
                .time(Stage::Gpu, || collective.wait(&mut || end.is_known(&verdict)))?;
        }
        Ok(self.end.read(verdict))
    }

    fn record(&mut self, done: &Done) {
        self.state.global_step += 1;
        self.state.epoch = self.plan.epochs_after(self.state.global_step);
        if let Some((loss, _)) = done.result {
            self.losses.since_log += loss;
            self.losses.steps_since_log += 1;
            self.losses.whole += loss;
            self.losses.steps += 1;
        }
        self.progress.step(Now {
            step: self.state.global_step,
            epoch: self.state.epoch,
            loss: done.result.map(|(loss, _)| loss),
            learning_rate: done.learning_rate,
            images: done.images,
        });
        self.tell_bad_images();
    }
}
