//! One micro-batch: losses, and their gradients added to the others'.
//!
//! On a GPU the first steps ask for it op by op: they are audited, and kernels are loaded and algorithms chosen as they are
//! needed. Then it is recorded as a graph (`ops::captured`), and every further micro-batch of the same number of images is a
//! replay of that: the same kernels in the same order on other inputs, so the same bits. Others go on op by op: short ones, all of
//! a run whose gradients are summed over ranks in ranges while they are made, and all of a model that counts on the host while
//! it computes (ResNet's running statistics). If no graph can be made, or be replayed, one line says so.

use super::gradient_sum::GradientSum;
use super::health;
use super::trainer::Trainer;
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::model::{DropoutNames, Model};
use crate::ops::captured::{Captured, MicroBatch};
use crate::ops::meter::{self, Work};
use crate::ops::soft_cross_entropy::{Factors, soft_cross_entropy_there};
use crate::optim::StepEnd;
use crate::recipe::CudaGraph;
use crate::report::{Stage, Stages};

/// How micro-batches of the usual size are asked of a GPU.
pub(super) enum Asking {
    /// One op after the other, whatever comes.
    ByOp,
    /// Until it can be recorded: has a micro-batch of this many images been asked for?
    Recording {
        images: usize,
        seen: bool,
    },
    Replaying(Box<Recorded>),
}

pub(super) struct Recorded {
    captured: Captured,
    /// What a replay computes.
    work: Work,
}

impl Asking {
    /// For micro-batches of so many images.
    pub(super) fn new(choice: CudaGraph, model: &Model, images: usize) -> Asking {
        let is_possible = model.parameters().values.device().is_cuda() && model.computes_on_device_alone();
        match choice {
            CudaGraph::Auto if is_possible => Asking::Recording { images, seen: false },
            _ => Asking::ByOp,
        }
    }
}

impl Trainer<'_> {
    /// On a CPU. Losses are multiplied by `scale`; returns their sum without that.
    pub(super) fn compute(&mut self, batch: &Batch, step: u64, scale: f64, sum: &mut Telling) -> Result<f64> {
        let names = self.names(batch);
        let logits_bc = self
            .stages
            .time(Stage::Forward, || {
                let pixels_bchw = batch.pixels_on(&self.run.device)?;
                self.model.forward(&pixels_bchw, Some(&names))
            })
            .map_err(|error| wants("forward", &names, error))?;
        let entropy = self.objective.losses(&logits_bc, batch, scale)?;
        health::finite_loss(entropy.sum_loss, step, self.collective, &batch.samples)?;
        self.stages
            .time(Stage::Backward, || {
                self.model
                    .backward_telling(&entropy.dlogits_bc, &mut |start| sum.is_final_from(start))
            })
            .map_err(|error| wants("backward", &names, error))?;
        Ok(entropy.sum_loss)
    }

    /// On a GPU, where the losses stay.
    pub(super) fn compute_there(&mut self, batch: &Batch, factors: &Factors, sum: &mut Telling) -> Result<()> {
        let names = self.names(batch);
        let device = &self.run.device;
        let micro_batch = self
            .stages
            .time(Stage::Forward, || -> Result<MicroBatch> {
                Ok(MicroBatch {
                    pixels_bchw: batch.pixels_on(device)?,
                    targets: self.objective.targets_there(batch, device)?,
                    names,
                })
            })
            .map_err(|error| wants("forward", &names, error))?;
        if self.replays(&micro_batch, factors)? {
            return Ok(());
        }
        ask(
            (&mut self.model, &self.end, &mut self.stages),
            &micro_batch,
            factors,
            &mut |start| sum.is_final_from(start),
        )?;
        if let Asking::Recording { images, seen } = &mut self.asking {
            *seen |= names.samples.len() == *images;
        }
        Ok(())
    }

    /// Asks for it as a whole, if that can be done. Errors: nothing can be done, the GPU has failed.
    fn replays(&mut self, micro_batch: &MicroBatch, factors: &Factors) -> Result<bool> {
        let b = micro_batch.names.samples.len();
        let done = match &self.asking {
            Asking::Recording { images, seen: true } if *images == b && self.audit.is_done() => {
                self.record_graph(micro_batch, factors)
            }
            Asking::Replaying(recorded) if recorded.captured.fits(micro_batch) => Ok(()),
            _ => return Ok(false),
        };
        let asked = done.and_then(|()| match &self.asking {
            Asking::Replaying(recorded) => self.stages.time(Stage::Forward, || recorded.replay(micro_batch)),
            _ => Ok(()),
        });
        match asked {
            Ok(()) => Ok(true),
            Err(lost @ Error::GpuLost { .. }) => Err(lost),
            Err(error) => {
                let why = error.to_string();
                let why = why.lines().next().unwrap_or_default();
                self.progress.say(&format!(
                    "no CUDA graph, micro-batches are asked of the GPU op by op: {why}"
                ));
                self.asking = Asking::ByOp;
                Ok(false)
            }
        }
    }

    fn record_graph(&mut self, micro_batch: &MicroBatch, factors: &Factors) -> Result<()> {
        let (model, end) = (&mut self.model, &self.end);
        let mut stages = Stages::begin();
        let (captured, work) = meter::aside(|| {
            Captured::record(micro_batch, |fixed| {
                let asked = ask((&mut *model, end, &mut stages), fixed, factors, &mut |_| Ok(()));
                // What was made in a recording may not outlive it.
                asked.inspect_err(|_| model.forget())
            })
        });
        self.asking = Asking::Replaying(Box::new(Recorded {
            captured: captured?,
            work,
        }));
        Ok(())
    }

    fn names<'b>(&self, batch: &'b Batch) -> DropoutNames<'b> {
        DropoutNames {
            seed: self.run.recipe.seed,
            epoch: batch.epoch,
            samples: &batch.samples,
        }
    }
}

impl Recorded {
    fn replay(&self, micro_batch: &MicroBatch) -> Result<()> {
        self.captured.replay(micro_batch)?;
        meter::add(self.work);
        Ok(())
    }
}

/// Who is told, while a micro-batch's backward pass runs, which gradients are final.
pub(super) enum Telling<'s, 'a> {
    Nobody,
    Sum(&'s mut GradientSum<'a>),
}

impl Telling<'_, '_> {
    fn is_final_from(&mut self, start: usize) -> Result<()> {
        match self {
            Telling::Nobody => Ok(()),
            Telling::Sum(sum) => sum.is_final_from(start),
        }
    }
}

/// Op by op; forward, losses, backward.
fn ask(
    (model, end, stages): (&mut Model, &StepEnd, &mut Stages),
    micro_batch: &MicroBatch,
    factors: &Factors,
    is_final_from: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<()> {
    let names = &micro_batch.names;
    let logits_bc = stages
        .time(Stage::Forward, || model.forward(&micro_batch.pixels_bchw, Some(names)))
        .map_err(|error| wants("forward", names, error))?;
    let (losses_b, dlogits_bc) = soft_cross_entropy_there(&logits_bc, &micro_batch.targets, factors)?;
    end.note_losses(&losses_b)?;
    stages
        .time(Stage::Backward, || model.backward_telling(&dlogits_bc, is_final_from))
        .map_err(|error| wants("backward", names, error))
}

fn wants(pass: &str, names: &DropoutNames, error: Error) -> Error {
    error.wanted_by(|| format!("the {pass} pass of {} images", names.samples.len()))
}
