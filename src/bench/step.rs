//! A training step on pixels in memory: forward, loss, backward, clipping, AdamW; whole, by stage, and by kind of layer.
//!
//! Each of the three is measured in rounds of its own: on a GPU stages and layers (`ops::meter`) are waited for where they end,
//! which the whole is not, as in a run: what came of a step is read while the next one is computed.

use std::path::Path;
use std::time::Instant;

use candle_core::{Device, Tensor};

use super::parts::{self, Phase};
use super::spread::Spread;
use super::{Figure, Report};
use crate::data::Preprocessor;
use crate::error::Result;
use crate::model::{DropoutNames, Model, Training};
use crate::ops::cast::sent;
use crate::ops::ceilings::Ceilings;
use crate::ops::cross_entropy::{CrossEntropy, cross_entropy};
use crate::ops::device::Placement;
use crate::ops::gemm;
use crate::ops::meter::{self, Part, part};
use crate::optim::{AdamW, AdamWConfig, LearningRate, StepEnd, Verdict};
use crate::recipe::Schedule;

/// What is measured.
pub struct Step<'a> {
    pub model: &'a Path,
    pub training: Training,
    pub classes: usize,
    pub batch: usize,
    pub rounds: usize,
    pub placement: Placement,
}

const SEED: u64 = 42;

/// Rounds that are not counted: buffers are made in the first, reused from the second on.
const WARM_UP: usize = 2;

/// Errors: the model cannot be loaded; not enough memory on a GPU; a loss that is no number.
pub fn step(what: &Step) -> Result<Report> {
    let mut report = Report::new(
        "step",
        &[
            "stage",
            "ms",
            "images/s",
            "GFLOP",
            "GFLOP/s",
            "% of product",
            "ms at the ceiling",
        ],
    );
    let device = &what.placement.device;
    let ceilings = match device.is_cpu() {
        true => Some(Ceilings::measure(what.rounds, what.placement.products)),
        false => None,
    };
    let mut steps = Steps::new(what)?;
    report.setting("model", what.model.display());
    report.setting(
        "parameters",
        format!(
            "{} of {} trained",
            steps.model.trainable_count(),
            steps.model.total_count()
        ),
    );
    report.setting("batch", what.batch);
    let Placement { compute, products, .. } = what.placement;
    report.setting("compute", format!("{compute:?} on {device:?}"));
    if device.is_cpu() {
        report.setting("products", format!("{products:?}, {}", gemm::instructions(products)));
    }
    report.setting("threads", rayon::current_num_threads());
    report.setting("rounds", format!("{}, median [least-most]", what.rounds));

    let whole = steps.whole(what.rounds)?;
    let mut stages: [Vec<f64>; 3] = Default::default();
    for _ in 0..what.rounds {
        device.synchronize()?;
        let mut ends = vec![Instant::now()];
        let entropy = steps.forward()?;
        device.synchronize()?;
        ends.push(Instant::now());
        steps.backward(&entropy)?;
        device.synchronize()?;
        ends.push(Instant::now());
        let verdict = steps.optimize()?;
        steps.await_verdict(verdict)?;
        ends.push(Instant::now());
        for (list, stage) in stages.iter_mut().zip(ends.windows(2)) {
            list.push((stage[1] - stage[0]).as_secs_f64());
        }
    }
    let mut measured = parts::Measured::default();
    for _ in 0..what.rounds {
        let (entropy, work) = meter::measure(device, || steps.forward())?;
        measured.add(Phase::Forward, &work);
        let ((), work) = meter::measure(device, || steps.backward(&entropy))?;
        measured.add(Phase::Backward, &work);
        let (verdict, work) = meter::measure(device, || steps.optimize())?;
        steps.await_verdict(verdict)?;
        measured.add(Phase::Optimizer, &work);
    }

    let [forward, backward] = [Phase::Forward, Phase::Backward].map(|phase| 1e-9 * measured.operations(phase));
    let work = [Some(forward), Some(backward), None, Some(forward + backward)];
    let [forward, backward, optimizer] = stages;
    let times = [forward, backward, optimizer, whole].map(Spread::of);
    let whole = times[3].median;
    for ((name, seconds), work) in ["forward", "backward", "optimizer", "step"]
        .into_iter()
        .zip(times)
        .zip(work)
    {
        report.row(row(name, seconds, what.batch, work, ceilings));
    }
    report.more.push(measured.table(whole, ceilings));
    report.notes.push(format!(
        "Stages and parts were timed in steps of their own; the parts sum up to {:.1} % of the step above.",
        100.0 * measured.seconds() / whole
    ));
    if let Some(c) = ceilings {
        report.setting("product", format!("{:.0} GFLOP/s", c.gflops));
        report.setting("copy", format!("{:.1} GB/s", c.gbytes));
    }
    let (first, last) = (steps.losses[0], steps.losses[steps.losses.len() - 1]);
    report.setting("loss", format!("{first:.4} in the first step, {last:.4} in the last"));
    if let Some(megabytes) = peak_megabytes() {
        report.setting("peak memory", format!("{megabytes} MB"));
    }
    Ok(report)
}

/// A model that is trained on the same images again and again.
struct Steps {
    model: Model,
    end: StepEnd,
    device: Device,
    pixels: Tensor,
    labels: Vec<u32>,
    samples: Vec<u64>,
    losses: Vec<f64>,
}

impl Steps {
    fn new(what: &Step) -> Result<Steps> {
        let names: Vec<String> = (0..what.classes).map(|class| class.to_string()).collect();
        let (model, _) = Model::load(what.model, &names, &what.training, SEED, what.placement.clone())?;
        let optimizer = AdamW::new(model.parameters(), AdamWConfig::default())?;
        let rate = LearningRate {
            peak: 1e-4,
            schedule: Schedule::Constant,
            warmup_steps: 0,
            total_steps: (3 * what.rounds + WARM_UP + 1) as u64,
        };
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
        Ok(Steps {
            end,
            model,
            pixels: match device.is_cpu() {
                true => pixels,
                false => sent(&pixels, device, *compute)?,
            },
            device: device.clone(),
            labels: (0..what.batch).map(|i| (i * 37 % what.classes) as u32).collect(),
            samples: (0..what.batch as u64).collect(),
            losses: Vec::new(),
        })
    }

    /// Seconds of so many whole steps.
    fn whole(&mut self, rounds: usize) -> Result<Vec<f64>> {
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
        let entropy = self.forward()?;
        self.backward(&entropy)?;
        self.optimize()
    }

    /// SYNC: for what came of a step.
    fn await_verdict(&mut self, verdict: Verdict) -> Result<()> {
        while !self.end.is_known(&verdict)? {
            std::thread::yield_now();
        }
        self.end.read(verdict);
        Ok(())
    }

    fn forward(&mut self) -> Result<CrossEntropy> {
        let dropout = DropoutNames {
            seed: SEED,
            epoch: self.losses.len() as u32,
            samples: &self.samples,
        };
        let logits = self.model.forward(&self.pixels, Some(&dropout))?;
        let _loss = part(Part::Loss);
        let count = self.labels.len() as f64;
        let entropy = cross_entropy(&logits, &self.labels, 0.0, 1.0 / count)?;
        self.losses.push(entropy.sum_loss / count);
        Ok(entropy)
    }

    fn backward(&mut self, entropy: &CrossEntropy) -> Result<()> {
        self.model.backward(&entropy.dlogits_bc)
    }

    fn optimize(&mut self) -> Result<Verdict> {
        let parameters = self.model.parameters();
        let step = self.losses.len() as u64 - 1;
        let verdict = {
            let _clipping = part(Part::Clipping);
            self.end.judge(parameters, step, 0)?
        };
        let _update = part(Part::AdamW);
        self.end.update(parameters, &verdict)?;
        Ok(verdict)
    }
}

fn row(name: &str, seconds: Spread, batch: usize, work: Option<f64>, ceilings: Option<Ceilings>) -> Vec<Figure> {
    let mut figures = vec![
        Figure::Text(name.to_owned()),
        Figure::Spread(seconds.times(1e3), 1),
        Figure::Spread(seconds.rate(batch as f64), 2),
    ];
    let Some(gflop) = work else {
        figures.extend([Figure::Nothing, Figure::Nothing, Figure::Nothing, Figure::Nothing]);
        return figures;
    };
    let rate = gflop / seconds.median;
    figures.extend([Figure::Number(gflop, 1), Figure::Number(rate, 1)]);
    match ceilings {
        Some(c) => figures.extend([
            Figure::Number(100.0 * rate / c.gflops, 1),
            Figure::Number(1e3 * gflop / c.gflops, 1),
        ]),
        None => figures.extend([Figure::Nothing, Figure::Nothing]),
    }
    figures
}

/// Largest resident set of this process so far.
fn peak_megabytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}
