//! The step that is measured: of a model that is trained on the same images again and again, as a run asks for it.

use std::time::Instant;

use candle_core::{Device, Tensor};

use super::Step;
use crate::data::Preprocessor;
use crate::error::Result;
use crate::model::{DropoutNames, Model};
use crate::ops::cast::sent;
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::device::Placement;
use crate::ops::meter::{Part, part};
use crate::ops::soft_cross_entropy::{TargetsThere, soft_cross_entropy_there};
use crate::ops::storage::words;
use crate::optim::{AdamW, AdamWConfig, LearningRate, StepEnd, Verdict};
use crate::recipe::Schedule;

/// A model that is trained on the same images again and again.
pub(super) struct Steps {
    pub model: Model,
    end: StepEnd,
    device: Device,
    pixels: Tensor,
    labels: Vec<u32>,
    /// The same where a GPU reads them.
    targets: Option<TargetsThere>,
    samples: Vec<u64>,
    /// Steps that were asked for.
    asked: u64,
    /// Of those that are known.
    pub losses: Vec<f64>,
}

const SEED: u64 = 42;

/// Rounds that are not counted: buffers are made in the first, reused from the second on.
const WARM_UP: usize = 2;

impl Steps {
    pub fn new(what: &Step) -> Result<Steps> {
        let names: Vec<String> = (0..what.classes).map(|class| class.to_string()).collect();
        let (mut model, _) = Model::load(what.model, &names, &what.training, SEED, what.placement.clone())?;
        let optimizer = AdamW::new(model.parameters(), AdamWConfig::default())?;
        let rate = LearningRate {
            peak: 1e-4,
            schedule: Schedule::Constant,
            warmup_steps: 0,
            total_steps: (3 * what.rounds + WARM_UP + 1) as u64,
        };
        model.refresh_when_told()?;
        let end = StepEnd::new(model.parameters(), optimizer, None, rate, 1.0, 1)?;
        let (channels, height, width) = match &model {
            Model::Vit(vit) => {
                let config = vit.config();
                (config.channels, config.image_height, config.image_width)
            }
            // Takes images of any size; its preprocessor says which it gets.
            Model::ResNet(resnet) => {
                let (height, width) = Preprocessor::read(what.model)?.input_size();
                (resnet.config().channels, height, width)
            }
        };
        let shape = (what.batch, channels, height, width);
        // Drawn here: candle's generator of a GPU is a library that nothing else needs.
        let pixels = Tensor::randn(0f32, 1f32, shape, &Device::Cpu)?;
        let Placement { device, compute, .. } = &what.placement;
        let labels: Vec<u32> = (0..what.batch).map(|i| (i * 37 % what.classes) as u32).collect();
        let targets = |labels_b| TargetsThere {
            labels_b,
            mixed: None,
            weights_c: None,
            smoothing: 0.0,
        };
        Ok(Steps {
            targets: match device.is_cpu() {
                true => None,
                false => Some(targets(words(&labels, device)?)),
            },
            end,
            model,
            pixels: match device.is_cpu() {
                true => pixels,
                false => sent(&pixels, device, *compute)?,
            },
            device: device.clone(),
            labels,
            samples: (0..what.batch as u64).collect(),
            asked: 0,
            losses: Vec::new(),
        })
    }

    /// Seconds of so many whole steps.
    pub fn whole(&mut self, rounds: usize) -> Result<Vec<f64>> {
        for _ in 0..WARM_UP {
            let verdict = self.ask()?;
            self.await_verdict(verdict)?;
        }
        // On a CPU nothing is pending when a step was asked for.
        let mut pending = match self.device.is_cpu() {
            true => None,
            false => Some(self.ask()?),
        };
        let mut seconds = Vec::with_capacity(rounds);
        let mut begun = Instant::now();
        for _ in 0..rounds {
            let asked = self.ask()?;
            let settled = match self.device.is_cpu() {
                true => Some(asked),
                false => pending.replace(asked),
            };
            settled.map_or(Ok(()), |verdict| self.await_verdict(verdict))?;
            let now = Instant::now();
            seconds.push((now - begun).as_secs_f64());
            begun = now;
        }
        pending.map_or(Ok(()), |verdict| self.await_verdict(verdict))?;
        Ok(seconds)
    }

    fn ask(&mut self) -> Result<Verdict> {
        let dlogits_bc = self.forward()?;
        self.model.backward(&dlogits_bc)?;
        self.optimize()
    }

    /// SYNC: for what came of a step.
    pub fn await_verdict(&mut self, verdict: Verdict) -> Result<()> {
        while !self.end.is_known(&verdict)? {
            std::thread::yield_now();
        }
        let losses = self.end.read(verdict).losses;
        self.losses
            .extend(losses.iter().map(|sum| sum / self.labels.len() as f64));
        Ok(())
    }

    /// Up to the gradient of the logits.
    pub fn forward(&mut self) -> Result<Tensor> {
        let dropout = DropoutNames {
            seed: SEED,
            epoch: self.asked as u32,
            samples: &self.samples,
        };
        self.asked += 1;
        let logits_bc = self.model.forward(&self.pixels, Some(&dropout))?;
        let _loss = part(Part::Loss);
        let per_sample = 1.0 / self.labels.len() as f64;
        if let (Some(targets), Some(factors)) = (&self.targets, self.end.factors(per_sample)?) {
            let (losses_b, dlogits_bc) = soft_cross_entropy_there(&logits_bc, targets, &factors)?;
            self.end.note_losses(&losses_b)?;
            return Ok(dlogits_bc);
        }
        let entropy = cross_entropy(&logits_bc, &self.labels, 0.0, per_sample)?;
        self.losses.push(entropy.sum_loss * per_sample);
        Ok(entropy.dlogits_bc)
    }

    pub fn optimize(&mut self) -> Result<Verdict> {
        let parameters = self.model.parameters();
        let (step, micro_batches) = (self.asked - 1, usize::from(self.targets.is_some()));
        let verdict = {
            let _clipping = part(Part::Clipping);
            self.end.judge(parameters, step, micro_batches)?
        };
        let _update = part(Part::AdamW);
        self.end.update(parameters, &verdict)?;
        self.model.place_adapters()?;
        Ok(verdict)
    }
}
