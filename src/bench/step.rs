//! A training step on pixels in memory: forward, loss, backward, clipping, AdamW; whole, and by kind of layer.
//!
//! Layers are timed where they stand in the step (`ops::meter`), in rounds of their own: the whole is measured without.

use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};

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
use crate::ops::meter::{self, Part, part};
use crate::optim::{AdamW, AdamWConfig};

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
        true => Some(Ceilings::measure(what.rounds)),
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
    report.setting("compute", format!("{:?} on {device:?}", what.placement.compute));
    report.setting("threads", rayon::current_num_threads());
    report.setting("rounds", format!("{}, median [least-most]", what.rounds));

    let mut times: [Vec<f64>; 4] = Default::default();
    for round in 0..what.rounds + WARM_UP {
        device.synchronize()?;
        let begun = Instant::now();
        let entropy = steps.forward()?;
        device.synchronize()?;
        let forward = begun.elapsed();
        steps.backward(&entropy)?;
        device.synchronize()?;
        let backward = begun.elapsed() - forward;
        steps.optimize()?;
        device.synchronize()?;
        let all = begun.elapsed();
        if round >= WARM_UP {
            for (list, time) in times.iter_mut().zip([forward, backward, all - forward - backward, all]) {
                list.push(time.as_secs_f64());
            }
        }
    }
    let mut measured = parts::Measured::default();
    for _ in 0..what.rounds {
        let (entropy, work) = meter::measure(device, || steps.forward())?;
        measured.add(Phase::Forward, &work);
        let ((), work) = meter::measure(device, || steps.backward(&entropy))?;
        measured.add(Phase::Backward, &work);
        let ((), work) = meter::measure(device, || steps.optimize())?;
        measured.add(Phase::Optimizer, &work);
    }

    let [forward, backward] = [Phase::Forward, Phase::Backward].map(|phase| 1e-9 * measured.operations(phase));
    let work = [Some(forward), Some(backward), None, Some(forward + backward)];
    let times = times.map(Spread::of);
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
        "The parts were timed in steps of their own; they sum up to {:.1} % of the step above.",
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
    optimizer: AdamW,
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
        Ok(Steps {
            optimizer,
            model,
            // Drawn here: candle's generator of a GPU is a library that nothing else needs.
            pixels: sent(
                &Tensor::randn(0f32, 1f32, shape, &Device::Cpu)?,
                &what.placement.device,
                DType::F32,
            )?,
            labels: (0..what.batch).map(|i| (i * 37 % what.classes) as u32).collect(),
            samples: (0..what.batch as u64).collect(),
            losses: Vec::new(),
        })
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

    fn optimize(&mut self) -> Result<()> {
        let parameters = self.model.parameters();
        let _clipping = part(Part::Clipping);
        parameters.clip_gradients(1.0)?;
        {
            let _update = part(Part::AdamW);
            self.optimizer.step(parameters, 1e-4)?;
        }
        parameters.zero_gradients()
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
