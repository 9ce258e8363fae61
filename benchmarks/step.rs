//! Time of a bare training step: forward, loss, backward, clipping, AdamW, on pixels in memory.
//!
//!     cargo run --release --example step -- MODEL_DIR METHOD BATCH [STEPS] [THREADS]
//!
//! METHOD is lora, full or head. The other side of the comparison is PyTorch on the same checkpoint, batch and threads;
//! benchmarks/records has results.

use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use dtrain::data::Preprocessor;
use dtrain::model::{DropoutNames, LoraConfig, Model, Training};
use dtrain::ops::cross_entropy::cross_entropy;
use dtrain::optim::{AdamW, AdamWConfig};

type Failure = Box<dyn std::error::Error>;

const CLASSES: usize = 101;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, method, batch, rest @ ..] = arguments.as_slice() else {
        return Err("usage: step MODEL_DIR lora|full|head BATCH [STEPS] [THREADS]".into());
    };
    let batch: usize = batch.parse()?;
    let number = |i: usize, default: usize| rest.get(i).map_or(Ok(default), |text| text.parse());
    let (steps, threads) = (number(0, 6)?, number(1, 2)?);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let start = Instant::now();
    let (mut model, _) = Model::load(Path::new(dir), &classes(), &training(method)?, 1, &Device::Cpu)?;
    let loaded = start.elapsed();
    let mut optimizer = AdamW::new(model.parameters(), AdamWConfig::default())?;
    let (height, width) = Preprocessor::read(Path::new(dir))?.input_size();
    let shape = (batch, 3, height, width);
    let pixels = Tensor::randn(0f32, 1f32, shape, &Device::Cpu)?;
    let labels: Vec<u32> = (0..batch).map(|i| (i * 37 % CLASSES) as u32).collect();
    let samples: Vec<u64> = (0..batch as u64).collect();
    let mut times = Vec::new();
    let mut cpu_before = 0.0;
    for step in 0..steps + 2 {
        let names = DropoutNames {
            seed: 1,
            epoch: step as u32,
            samples: &samples,
        };
        if step == 2 {
            cpu_before = cpu_seconds();
        }
        let begin = Instant::now();
        let logits = model.forward(&pixels, Some(&names))?;
        let loss = cross_entropy(&logits, &labels, 0.0, 1.0 / batch as f64)?;
        let forward = begin.elapsed();
        model.backward(&loss.dlogits_bc)?;
        let backward = begin.elapsed() - forward;
        model.parameters().clip_gradients(1.0)?;
        optimizer.step(model.parameters(), 1e-4)?;
        model.parameters().zero_gradients()?;
        let whole = begin.elapsed();
        times.push([whole, forward, backward, whole - forward - backward]);
        println!(
            "step {step}: {:.3} s, loss {:.4}",
            whole.as_secs_f64(),
            loss.sum_loss / batch as f64
        );
    }
    let cpu = (cpu_seconds() - cpu_before) / steps as f64;
    // The first two warm up.
    let times = &times[2..];
    let [whole, forward, backward, optimizer] = std::array::from_fn(|i| median(times, i));
    let best = times.iter().map(|t| t[0]).min().unwrap_or_default();
    let inference = Instant::now();
    model.infer(&pixels)?;
    let inference = inference.elapsed().as_secs_f64();
    println!(
        "{method} batch {batch} threads {threads}: {:.2} images/s (best {:.2}); forward {forward:.3} s, backward \
         {backward:.3} s, optimizer {optimizer:.4} s; CPU {cpu:.3} s a step; inference {:.2} images/s; load {:.2} s; peak {} MB",
        batch as f64 / whole,
        batch as f64 / best.as_secs_f64(),
        batch as f64 / inference,
        loaded.as_secs_f64(),
        peak_megabytes()
    );
    Ok(())
}

fn training(method: &str) -> Result<Training, Failure> {
    Ok(match method {
        "lora" => Training::Lora(LoraConfig::new(16, 16.0, 0.1, &["query".into(), "value".into()])?),
        "full" => Training::Full,
        "head" => Training::Head,
        other => return Err(format!("no method {other}").into()),
    })
}

fn classes() -> Vec<String> {
    (0..CLASSES).map(|i| i.to_string()).collect()
}

fn median(times: &[[Duration; 4]], phase: usize) -> f64 {
    let mut sorted: Vec<f64> = times.iter().map(|t| t[phase].as_secs_f64()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// CPU time of all threads so far: what a step costs when other programs take their share of the machine.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields 14 and 15, in ticks of 10 ms; the name in field 2 may hold spaces.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}

/// Largest resident set so far.
fn peak_megabytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) / 1024
}
