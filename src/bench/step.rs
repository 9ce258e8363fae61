//! A training step on pixels in memory: forward, loss, backward, clipping, AdamW; against the machine's matrix product.

use std::path::Path;
use std::time::Instant;

use candle_core::Tensor;

use super::ceilings::Ceilings;
use super::spread::Spread;
use super::{Figure, Report};
use crate::error::Result;
use crate::model::{DropoutNames, Training, Vit};
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::device::Placement;
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
    let names: Vec<String> = (0..what.classes).map(|class| class.to_string()).collect();
    let (mut model, _) = Vit::load(what.model, &names, &what.training, SEED, what.placement.clone())?;
    let mut optimizer = AdamW::new(model.parameters(), AdamWConfig::default())?;
    let device = &what.placement.device;
    let (config, batch) = (model.config(), what.batch);
    let shape = (batch, config.channels, config.image_height, config.image_width);
    let pixels = Tensor::randn(0f32, 1f32, shape, device)?;
    let labels: Vec<u32> = (0..batch).map(|i| (i * 37 % what.classes) as u32).collect();
    let samples: Vec<u64> = (0..batch as u64).collect();
    let ceilings = match device.is_cpu() {
        true => Some(Ceilings::measure()?),
        false => None,
    };
    let operations = Operations::of(&model, batch);
    report.setting("model", what.model.display());
    report.setting(
        "parameters",
        format!("{} of {} trained", model.trainable_count(), model.total_count()),
    );
    report.setting("batch", batch);
    report.setting("compute", format!("{:?} on {device:?}", what.placement.compute));
    report.setting("threads", rayon::current_num_threads());
    report.setting("rounds", format!("{}, median [least-most]", what.rounds));

    let mut times: [Vec<f64>; 4] = Default::default();
    let mut losses = Vec::new();
    for round in 0..what.rounds + WARM_UP {
        let dropout = DropoutNames {
            seed: SEED,
            epoch: round as u32,
            samples: &samples,
        };
        device.synchronize()?;
        let begun = Instant::now();
        let logits = model.forward(&pixels, Some(&dropout))?;
        let entropy = cross_entropy(&logits, &labels, 0.0, 1.0 / batch as f64)?;
        device.synchronize()?;
        let forward = begun.elapsed();
        model.backward(&entropy.dlogits_bc)?;
        device.synchronize()?;
        let backward = begun.elapsed() - forward;
        model.parameters().clip_gradients(1.0)?;
        optimizer.step(model.parameters(), 1e-4)?;
        model.parameters().zero_gradients()?;
        device.synchronize()?;
        let all = begun.elapsed();
        losses.push(entropy.sum_loss / batch as f64);
        if round >= WARM_UP {
            for (list, time) in times.iter_mut().zip([forward, backward, all - forward - backward, all]) {
                list.push(time.as_secs_f64());
            }
        }
    }
    let work = [
        Some(operations.forward),
        Some(operations.backward),
        None,
        Some(operations.forward + operations.backward),
    ];
    for ((name, times), work) in ["forward", "backward", "optimizer", "step"]
        .into_iter()
        .zip(times)
        .zip(work)
    {
        report.row(row(name, Spread::of(times), batch, work, ceilings));
    }
    if let Some(c) = ceilings {
        report.setting("product", format!("{:.0} GFLOP/s", c.gflops));
        report.setting("copy", format!("{:.1} GB/s", c.gbytes));
    }
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    report.setting("loss", format!("{first:.4} in the first step, {last:.4} in the last"));
    if let Some(megabytes) = peak_megabytes() {
        report.setting("peak memory", format!("{megabytes} MB"));
    }
    Ok(report)
}

/// Rounds that are not counted: buffers are made in the first, reused from the second on.
const WARM_UP: usize = 2;

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

/// 1e9 floating-point operations of matrix products that a step cannot do without; a multiply-add is two.
struct Operations {
    forward: f64,
    backward: f64,
}

impl Operations {
    fn of(model: &Vit, batch: usize) -> Operations {
        let c = model.config();
        let (s, d, m, layers) = (
            c.tokens() as f64,
            c.hidden_size as f64,
            c.intermediate_size as f64,
            c.layers as f64,
        );
        let patches = s * d * (c.channels * c.patch_size * c.patch_size) as f64;
        // In the last block only the CLS token goes on after the keys and values.
        let attention = 2.0 * s * s * d;
        let token = 4.0 * d * d + 2.0 * d * m;
        let whole_block = s * token + attention;
        let last_block = 2.0 * s * d * d + 2.0 * d * d + 2.0 * d * m + 2.0 * s * d;
        let body = (layers - 1.0) * whole_block + last_block;
        let (input, weights) = match model.training() {
            Training::Full => (body + attention * (layers - 1.0), body + patches),
            // Nothing is computed below the first adapter; query and value projections take their input's gradient.
            Training::Lora(_) => (body + attention * (layers - 1.0) - s * 3.0 * d * d, 0.0),
            Training::Head => (0.0, 0.0),
        };
        let giga = 2e-9 * batch as f64;
        Operations {
            forward: giga * (patches + body),
            backward: giga * (input + weights),
        }
    }
}

/// Largest resident set of this process so far.
fn peak_megabytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}
