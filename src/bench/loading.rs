//! The loader as a run of training uses it, without the training: how soon it begins, what it gives, what it reads and holds.
//!
//! Under mpirun each rank loads its share, all at once; the dataset may be far larger than memory.

use std::fs::read_to_string;
use std::time::{Duration, Instant};

use super::{Figure, Report};
use crate::collective::{Collective, gather};
use crate::data::{Dataset, Loader, LoaderConfig, Order, Pairing, Plan, Preprocessor, Transform, prefetch_batches};
use crate::error::Result;
use crate::recipe::Recipe;
use crate::train::Shuffling;

/// What is measured.
pub struct Loading<'a> {
    /// How it is shuffled, decoded and transformed; samples of a step and of a rank.
    pub recipe: &'a Recipe,
    pub preprocessor: &'a Preprocessor,
    /// Opened, and how long that took.
    pub dataset: Dataset,
    pub opening: Duration,
    /// Decoding threads of a rank.
    pub threads: usize,
    /// How long batches are taken before and while images are counted.
    pub warm_up: Duration,
    pub time: Duration,
}

const MEGABYTE: f64 = 1e6;

/// A row for each rank, and one for all of them. Every rank must call it.
pub fn loading(what: Loading<'_>, collective: &dyn Collective) -> Result<Report> {
    let recipe = what.recipe;
    let mut plan = Plan {
        samples: what.dataset.len(),
        micro_batch: recipe.per_device_train_batch_size,
        accumulation: recipe.gradient_accumulation_steps,
        world: collective.world(),
        order: Order::AsStored,
        pairing: Pairing::Alone,
    };
    let begun = Instant::now();
    let shuffling = Shuffling::plan(recipe, &what.dataset, plan.global_batch())?;
    plan.order = shuffling.order.clone();
    what.dataset.keep_in_memory(shuffling.memory(collective));
    let read_before = bytes_read();
    let mut loader = Loader::new(
        what.dataset.clone(),
        plan.of_rank(collective.rank(), 0..u64::from(u32::MAX)),
        LoaderConfig {
            transform: Transform::new(what.preprocessor, recipe.train_transform).decoded(recipe.decode),
            seed: recipe.seed,
            threads: what.threads,
            prefetch_batches: prefetch_batches(what.threads, plan.micro_batch),
            on_bad_image: recipe.on_bad_image,
            pictures: None,
            feed: None,
        },
    )?;
    loader.next()?;
    let first = begun.elapsed();
    let mut images = take(&mut loader, what.warm_up)?;
    let (before, clock) = (images, Instant::now());
    images += take(&mut loader, what.time)?;
    let rate = (images - before) as f64 / clock.elapsed().as_secs_f64();
    let encoded = loader.statistics().bytes as f64;
    let own = [
        what.opening.as_secs_f64(),
        first.as_secs_f64(),
        rate,
        images as f64,
        encoded / MEGABYTE,
        (bytes_read() - read_before) as f64 / MEGABYTE,
        resident() as f64 / MEGABYTE,
    ];
    let bytes: Vec<u8> = own.iter().flat_map(|figure| figure.to_le_bytes()).collect();
    let of_ranks: Vec<Vec<f64>> = gather(collective, &bytes)?
        .iter()
        .map(|bytes| {
            bytes
                .as_chunks()
                .0
                .iter()
                .map(|figure| f64::from_le_bytes(*figure))
                .collect()
        })
        .collect();

    let columns = [
        "",
        "open s",
        "first batch s",
        "images/s",
        "images",
        "of MB",
        "read MB",
        "resident MB",
    ];
    let mut report = Report::new("loader", &columns);
    report.setting("images", plan.samples);
    report.setting("order", shuffling.to_string().replace('\n', " "));
    report.setting(
        "batch",
        format!("{} a rank, {} a step", plan.micro_batch, plan.global_batch()),
    );
    report.setting("threads", format!("{} a rank", what.threads));
    let row = |name: String, figures: &[f64]| {
        let mut cells = vec![Figure::Text(name)];
        let decimals = [3, 3, 0, 0, 0, 0, 0];
        cells.extend(
            figures
                .iter()
                .zip(decimals)
                .map(|(figure, decimals)| Figure::Number(*figure, decimals)),
        );
        cells
    };
    for (rank, figures) in of_ranks.iter().enumerate() {
        report.row(row(format!("rank {rank}"), figures));
    }
    let slowest = |at: usize| of_ranks.iter().map(|figures| figures[at]).fold(0.0, f64::max);
    let sum = |at: usize| of_ranks.iter().map(|figures| figures[at]).sum::<f64>();
    let all: Vec<f64> = (0..own.len())
        .map(|at| if at < 2 { slowest(at) } else { sum(at) })
        .collect();
    report.row(row("all".to_owned(), &all));
    Ok(report)
}

/// Images of the batches that come within `time`.
fn take(loader: &mut Loader, time: Duration) -> Result<usize> {
    let (begun, mut images) = (Instant::now(), 0);
    while begun.elapsed() < time {
        match loader.next()? {
            Some(batch) => images += batch.samples.len(),
            None => break,
        }
    }
    Ok(images)
}

/// Bytes that this process asked files for, from disk or from the system's cache.
fn bytes_read() -> u64 {
    let io = read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// The most memory that this process ever had, without what it only maps from files.
fn resident() -> u64 {
    let status = read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = |name: &str| -> u64 {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse().ok());
        number.unwrap_or(0)
    };
    1024 * kilobytes("VmHWM").saturating_sub(kilobytes("RssFile"))
}
