//! Where the time of a ResNet's training step goes: every convolution of the model forward and in both gradients, beside the
//! rate of the matrix product, and the passes over its feature maps, beside the rate of a copy.
//!
//!     cargo run --release --example convolutions [-- BATCH [THREADS [fp32|bf16 [CONFIG.json]]]]
//!
//! Convolutions of one shape are measured once and counted as often as the model has them; without a file the model is
//! ResNet-50 at 224 px.

use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use dtrain::model::{PlacedConvolution, ResNetConfig};
use dtrain::ops::batch_norm::{self, Beside, Moments, Passes, Then};
use dtrain::ops::ceilings::Ceilings;
use dtrain::ops::convolution;
use dtrain::ops::maps::{Maps, MapsShape};
use dtrain::ops::matmul::Products;
use dtrain::ops::pool;
use serde_json::json;

type Failure = Box<dyn std::error::Error>;

const SIDE: usize = 224;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: usize| arguments.get(i).map_or(Ok(default), |text| text.parse());
    let (batch, threads) = (number(0, 16)?, number(1, 2)?);
    let products = match arguments.get(2).map(String::as_str) {
        None | Some("fp32") => Products::F32,
        Some("bf16") => Products::Bf16,
        Some(other) => return Err(format!("{other} is neither fp32 nor bf16").into()),
    };
    let config = match arguments.get(3) {
        Some(path) => ResNetConfig::from_json(serde_json::from_slice(&std::fs::read(path)?)?, Path::new(path))?,
        None => ResNetConfig::from_json(
            json!({"model_type": "resnet", "hidden_act": "relu"}),
            Path::new("ResNet-50"),
        )?,
    };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let Ceilings {
        gflops: product,
        gbytes: copy,
    } = Ceilings::measure(5, products);
    println!(
        "batch {batch}, {threads} threads; product {product:.0} GFLOP/s, copy {copy:.1} GB/s (read and written)\n"
    );
    println!(
        "ms of all convolutions of a shape (% of the product's rate), and GB/s of the passes over what comes out\n"
    );
    println!(
        "{:>2} {:<24} {:>14} {:>14} {:>14}  {:>12} {:>12} {:>12} {:>12}",
        "", "convolution", "forward", "d input", "d weights", "sums", "normalize", "d sums", "d input"
    );
    let mut counted: Vec<(PlacedConvolution, usize)> = Vec::new();
    for mut placed in config.placed(SIDE, SIDE) {
        placed.shape.name.clear();
        match counted.iter_mut().find(|(other, _)| *other == placed) {
            Some((_, count)) => *count += 1,
            None => counted.push((placed, 1)),
        }
    }
    let mut totals = [0.0; 7];
    let mut floor = 0.0;
    for (placed, count) in &counted {
        let times = measure(placed, batch, products)?;
        let n = *count as f64;
        totals
            .iter_mut()
            .zip(times)
            .for_each(|(total, time)| *total += n * time);
        let (from, to, shape) = (placed.from, placed.to, &placed.shape);
        let side = shape.kernel.side;
        let operations = 2e-9 * (batch * to.0 * to.1 * shape.outputs * shape.inputs * side * side) as f64;
        floor += n * operations / product * if shape.inputs == 3 { 2.0 } else { 3.0 };
        let of_product = |time: f64| match time > 0.0 {
            true => format!("{:.1} ({:.0})", 1e3 * n * time, 100.0 * operations / time / product),
            false => "-".to_owned(),
        };
        // Read and written by each pass.
        let bytes = 4e-9 * (batch * to.0 * to.1 * shape.outputs) as f64;
        let of_copy = |time: f64, passes: f64| format!("{:.1} ({:.0})", 1e3 * n * time, passes * bytes / time);
        println!(
            "{:>2} {:<24} {:>14} {:>14} {:>14}  {:>12} {:>12} {:>12} {:>12}",
            count,
            format!(
                "{side}x{side}/{} {}>{} {}",
                shape.kernel.stride, shape.inputs, shape.outputs, from.0
            ),
            of_product(times[0]),
            of_product(times[1]),
            of_product(times[2]),
            of_copy(times[3], 1.0),
            of_copy(times[4], 2.0),
            of_copy(times[5], 2.0),
            of_copy(times[6], 3.0)
        );
    }
    let total = |range: std::ops::Range<usize>| 1e3 * totals[range].iter().sum::<f64>();
    println!(
        "\nconvolutions {:.0} ms ({:.0} forward, {:.0} d input, {:.0} d weights; {:.0} at the product's rate), \
         normalisations {:.0} ms ({:.0} forward, {:.0} backward)",
        total(0..3),
        total(0..1),
        total(1..2),
        total(2..3),
        1e3 * floor,
        total(3..7),
        total(3..5),
        total(5..7)
    );
    pooling(&config, batch)
}

/// Seconds of a convolution forward, for its input, for its weights; of sums, normalisation, and both passes backward.
fn measure(placed: &PlacedConvolution, batch: usize, products: Products) -> Result<[f64; 7], Failure> {
    let shape = &placed.shape;
    let kernel = shape.kernel;
    let maps = |(lines, pixels): (usize, usize), channels: usize, margin: usize| {
        Maps::from_bchw(
            &Tensor::randn(0f32, 1f32, (batch, channels, lines, pixels), &Device::Cpu)?,
            margin,
        )
        .map_err(Failure::from)
    };
    let weights = (shape.outputs, shape.inputs, kernel.side, kernel.side);
    let w = Tensor::randn(0f32, 0.1f32, weights, &Device::Cpu)?;
    let gradient = Tensor::zeros(weights, DType::F32, &Device::Cpu)?;
    let x = maps(placed.from, shape.inputs, kernel.padding())?;
    let (z, g) = (maps(placed.to, shape.outputs, 0)?, maps(placed.to, shape.outputs, 0)?);
    let like = MapsShape {
        lines: placed.from.0,
        pixels: placed.from.1,
        channels: shape.inputs,
        images: batch,
    };
    let forward = seconds(|| convolution::convolution(&x, &w, kernel, products))?;
    let moments = Moments::of(&batch_norm::sums(&z)?, 1e-5);
    let ones = vec![1.0; shape.outputs];
    let affine = moments.affine(&ones, &ones);
    let passes = Passes::Positive(&affine);
    let sums = batch_norm::gradient_sums(&g, &z, &moments, passes)?;
    let margin = kernel.padding();
    let dz = batch_norm::batch_norm_backward(&g, &z, &moments, &ones, &sums, passes, margin)?;
    Ok([
        forward,
        match shape.inputs {
            3 => 0.0,
            _ => seconds(|| convolution::convolution_backward(&dz, &w, kernel, like, products))?,
        },
        seconds(|| convolution::convolution_backward_weights(&gradient, &dz, &x, kernel, products))?,
        seconds(|| batch_norm::sums(&z))?,
        seconds(|| batch_norm::normalized(&z, &affine, Beside::Nothing, Then::Rectified, margin))?,
        seconds(|| batch_norm::gradient_sums(&g, &z, &moments, passes))?,
        seconds(|| batch_norm::batch_norm_backward(&g, &z, &moments, &ones, &sums, passes, margin))?,
    ])
}

fn pooling(config: &ResNetConfig, batch: usize) -> Result<(), Failure> {
    let stem = &config.placed(SIDE, SIDE)[0];
    let channels = stem.shape.outputs;
    let pixels = Tensor::randn(0f32, 1f32, (batch, config.channels, SIDE, SIDE), &Device::Cpu)?;
    let x = Maps::from_bchw(
        &Tensor::randn(0f32, 1f32, (batch, channels, stem.to.0, stem.to.1), &Device::Cpu)?,
        0,
    )?;
    let (y, places) = pool::max_pool(&x, 0)?;
    println!(
        "pixels into maps {:.1} ms, max pooling {:.1} and {:.1} ms",
        1e3 * seconds(|| Maps::from_bchw(&pixels, 3))?,
        1e3 * seconds(|| pool::max_pool(&x, 0))?,
        1e3 * seconds(|| pool::max_pool_backward(&y, &places, x.shape()))?
    );
    Ok(())
}

/// Median of some runs; one warms up.
fn seconds<T, E>(mut run: impl FnMut() -> Result<T, E>) -> Result<f64, E> {
    run()?;
    let mut times = Vec::new();
    let begun = Instant::now();
    while times.len() < 3 || (times.len() < 15 && begun.elapsed().as_millis() < 250) {
        let start = Instant::now();
        let result = run()?;
        times.push(start.elapsed().as_secs_f64());
        drop(result);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}
