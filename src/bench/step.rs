//! A training step on pixels in memory: forward, loss, backward, clipping, AdamW; whole, by stage, and by kind of layer.
//!
//! Each of the three is measured in rounds of its own: on a GPU stages and layers (`ops::meter`) are waited for where they end,
//! which the whole is not, as in a run: what came of a step is read while the next one is computed. Micro-batches are asked for op by
//! op; a run replays a graph of them (`ops::captured`), which spares a small model more than a large one.

mod repeated;

use std::path::Path;
use std::time::Instant;

use super::parts::{self, Phase};
use super::spread::Spread;
use super::{Figure, Report};
use crate::error::Result;
use crate::model::Training;
use crate::ops::ceilings::Ceilings;
use crate::ops::device::Placement;
use crate::ops::gemm;
use crate::ops::meter;
use repeated::Steps;

/// What is measured.
pub struct Step<'a> {
    pub model: &'a Path,
    pub training: Training,
    pub classes: usize,
    pub batch: usize,
    pub rounds: usize,
    pub placement: Placement,
}

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
        let dlogits_bc = steps.forward()?;
        device.synchronize()?;
        ends.push(Instant::now());
        steps.model.backward(&dlogits_bc)?;
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
        let (dlogits_bc, work) = meter::measure(device, || steps.forward())?;
        measured.add(Phase::Forward, &work);
        let ((), work) = meter::measure(device, || steps.model.backward(&dlogits_bc))?;
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
