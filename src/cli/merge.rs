//! `dtrain merge ADAPTER --output-dir DIR`: an adapter and its base become one checkpoint that needs neither.
//!
//! The merge is computed in f32, and what it changed is measured: both models answer the same test input.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use clap::Args;

use super::say;
use super::trained::{ModelArguments, ModelPlaces, Trained};
use crate::data::preprocessor;
use crate::error::{Error, IoContext, Result};
use crate::model::Model;
use crate::ops::device::Placement;
use crate::ops::storage::{tensor, values};
use crate::rng::{Purpose, Stream};
use crate::train::whole_directory;

#[derive(Args, Debug)]
pub struct MergeArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Where the checkpoint goes; it must not be there yet
    #[arg(long, value_name = "DIR")]
    output_dir: PathBuf,
}

/// Images of the test input.
const IMAGES: usize = 4;

pub fn run(arguments: &MergeArguments) -> Result<()> {
    let (mut notes, output) = (Vec::new(), &arguments.output_dir);
    if output.exists() && std::fs::read_dir(output).at("list", output)?.next().is_some() {
        return Err(Error::usage(
            format!("--output-dir {}: there is something in it already", output.display()),
            "name a directory that is empty or not there",
        ));
    }
    let places = arguments.model.places(&arguments.model.hub()?, &mut notes)?;
    if places.adapter.is_none() {
        return Err(Error::usage(
            format!("{} is no adapter: there is nothing to merge", arguments.model.model),
            "name a directory with adapter_config.json",
        ));
    }
    let on_cpu = Placement::from(&Device::Cpu);
    let with_adapter = Trained::load(&places, &on_cpu)?;
    whole_directory(output, |directory| {
        with_adapter.model.save_full(directory)?;
        let path = directory.join(preprocessor::FILE_NAME);
        std::fs::write(&path, with_adapter.preprocessor.to_json()).at("write", &path)
    })?;
    let merged = Trained::load(
        &ModelPlaces {
            base: output.clone(),
            adapter: None,
        },
        &on_cpu,
    )?;
    let difference = largest_difference(&with_adapter.model, &merged.model)?;
    notes.iter().for_each(|note| eprintln!("note: {note}"));
    say(&report(&with_adapter, output, &difference));
    Ok(())
}

/// What the merge changed, on a test input.
struct Difference {
    /// Largest absolute difference of two logits.
    difference: f32,
    /// Largest absolute logit.
    largest: f32,
}

/// Both models' logits for normal random pixels.
fn largest_difference(with_adapter: &Model, merged: &Model) -> Result<Difference> {
    let Model::Vit(vit) = with_adapter else {
        unreachable!("only a ViT takes an adapter");
    };
    let config = vit.config();
    let shape = (IMAGES, config.channels, config.image_height, config.image_width);
    let pixels_bchw = test_input(shape)?;
    let (before, after) = (with_adapter.infer(&pixels_bchw)?, merged.infer(&pixels_bchw)?);
    let (before, after) = (values(&before)?, values(&after)?);
    let mut found = Difference {
        difference: 0.0,
        largest: 0.0,
    };
    for (before, after) in before.iter().zip(after.iter()) {
        found.difference = found.difference.max((before - after).abs());
        found.largest = found.largest.max(before.abs());
    }
    Ok(found)
}

fn test_input(shape: (usize, usize, usize, usize)) -> Result<Tensor> {
    let count = shape.0 * shape.1 * shape.2 * shape.3;
    let stream = Stream::new(0, 0, 0, Purpose::Augment(0));
    let pixels = (0..count as u32).map(|index| stream.normal(index) as f32).collect();
    tensor(pixels, shape)
}

fn report(with_adapter: &Trained, output: &Path, found: &Difference) -> String {
    let adapter = with_adapter.places.adapter.as_deref().unwrap_or(output);
    let loaded: Vec<String> = with_adapter.loaded.iter().map(|report| report.to_string()).collect();
    format!(
        "adapter  {}\nbase     {}\nloaded   {}\nmerged   {}, {} classes\nlargest difference of a logit: {:.3e} (the largest logit is \
         {:.3}; {IMAGES} test images)\n",
        adapter.display(),
        with_adapter.places.base.display(),
        loaded.join("; "),
        output.display(),
        with_adapter.classes().len(),
        found.difference,
        found.largest
    )
}
