//! `dtrain predict MODEL INPUT…`: the likeliest classes of pictures, as a table, as JSON lines, or drawn beside them.

mod inputs;
mod sheet;

use std::path::PathBuf;
use std::process::ExitCode;

use candle_core::Device;
use clap::Args;
use serde_json::json;

use super::fetch::DatasetName;
use super::run::precision;
use super::trained::{ModelArguments, Trained};
use super::{failed, say};
use crate::collective::Single;
use crate::data::{BadImage, Loader, MicroBatch, Samples, Transform};
use crate::error::{Error, Result};
use crate::ops::device::{NodeRank, Placement, open};
use crate::ops::gemm;
use crate::ops::storage::values;
use crate::recipe::{DeviceChoice, OnBadImage, Precision};
use crate::train::Pass;
use inputs::Pictures;

#[derive(Args, Debug)]
pub struct PredictArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Image files, folders of them, or datasets (directories, .parquet or .arrow files, names on the Hub)
    #[arg(value_name = "INPUT", required = true)]
    inputs: Vec<String>,
    /// Which samples of a dataset, slices allowed [default: test, validation or train, whichever is there]
    #[arg(long, value_name = "SPLIT")]
    split: Option<String>,
    /// Classes to tell, likeliest first
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    top_k: u32,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Draw the pictures with what was predicted into this PNG file
    #[arg(long, value_name = "FILE.png")]
    grid: Option<PathBuf>,
    /// Pictures of a line of the drawing
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    grid_columns: u32,
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Dtype of the computation; on a CPU fp32, or bf16 where it has AVX512_BF16
    #[arg(long, default_value = "fp32")]
    precision: Precision,
}

/// What a model says of a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Number among the inputs.
    pub input: usize,
    /// Class and probability, likeliest first.
    pub classes: Vec<(usize, f32)>,
}

pub fn run(arguments: &PredictArguments) -> ExitCode {
    match arguments.carry_out() {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

impl PredictArguments {
    /// Code 1 if a picture could not be read.
    fn carry_out(&self) -> Result<ExitCode> {
        let mut notes = Vec::new();
        let hub = self.model.hub()?;
        let opened = open(self.device, NodeRank { rank: 0, ranks: 1 })?;
        notes.push(opened.note);
        let precision = precision(self.precision, &opened.device, gemm::has_bf16(), &mut notes);
        let placement = Placement::new(&opened.device, precision);
        let trained = Trained::load(&self.model.places(&hub, &mut notes)?, &placement)?;
        let pictures = Pictures::find(&self.inputs, self.split.as_deref(), |name, splits, columns| {
            let dataset = DatasetName {
                name,
                revision: None,
                configuration: None,
            };
            dataset.place(&hub, splits, columns, &mut notes)
        })?;
        if let Some(grid) = &self.grid
            && pictures.len() > sheet::MOST_PICTURES
        {
            return Err(Error::usage(
                format!(
                    "--grid {}: {} pictures are too many for one drawing",
                    grid.display(),
                    pictures.len()
                ),
                format!(
                    "give at most {}, for a dataset with --split test[:15]",
                    sheet::MOST_PICTURES
                ),
            ));
        }
        notes.iter().for_each(|note| eprintln!("note: {note}"));
        let (predictions, bad) = self.predict(&trained, &pictures, &placement)?;
        let names = trained.classes();
        match self.json {
            true => say(&json_lines(&predictions, &bad, &pictures, names)),
            false => say(&table(&predictions, &pictures, names)),
        }
        for image in &bad {
            eprintln!("cannot be read: {}: {}", image.origin, image.cause);
        }
        if let Some(grid) = &self.grid {
            let drawn = sheet::draw(&pictures, &predictions, names, self.grid_columns as usize)?;
            drawn.write(grid)?;
            eprintln!("drawn: {}", grid.display());
        }
        Ok(match bad.is_empty() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }

    fn predict(
        &self,
        trained: &Trained,
        pictures: &Pictures,
        placement: &Placement,
    ) -> Result<(Vec<Prediction>, Vec<BadImage>)> {
        let batch = pictures.len().clamp(1, self.batch_size as usize);
        let rows: Vec<u32> = (0..pictures.len() as u32).collect();
        let batches: Vec<MicroBatch> = rows
            .chunks(batch)
            .map(|rows| MicroBatch::of_rows(0, rows.iter().copied()))
            .collect();
        let pass = Pass {
            samples: pictures,
            count: pictures.len(),
            rows: pictures.len(),
            transform: Transform::of_processor(&trained.preprocessor),
            batch,
            placement,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            on_bad_image: OnBadImage::Skip,
        };
        let config = pass.loading(&Single)?;
        let mut loader = Loader::new(pictures.clone(), batches.into_iter(), config)?;
        let mut predictions = Vec::with_capacity(rows.len());
        while let Some(batch) = loader.next()? {
            if batch.samples.is_empty() {
                continue;
            }
            // SYNC: the answers are told by the host; the next batches are made meanwhile.
            let logits_bc = (batch.pixels_on(&placement.device))
                .and_then(|pixels_bchw| trained.model.infer(&pixels_bchw))
                .and_then(|logits_bc| Ok(logits_bc.to_device(&Device::Cpu)?))
                .map_err(|error| error.wanted_by(|| format!("the answers to {} images", batch.samples.len())))
                .map_err(|error| {
                    error.helped_by("lower --batch-size, choose --precision fp16 or bf16 if it is fp32")
                })?;
            let (logits, classes) = (values(&logits_bc)?, logits_bc.dims()[1]);
            for (logits, &row) in logits.chunks(classes).zip(&batch.samples) {
                predictions.push(Prediction {
                    input: row as usize,
                    classes: likeliest(logits, self.top_k as usize),
                });
            }
        }
        Ok((predictions, loader.bad_images()))
    }
}

/// The `count` largest logits with their probabilities; of equal ones the first.
fn likeliest(logits: &[f32], count: usize) -> Vec<(usize, f32)> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let largest = f64::from(logits[order[0]]);
    let total: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
    let probability = |class: usize| ((f64::from(logits[class]) - largest).exp() / total) as f32;
    order
        .into_iter()
        .take(count)
        .map(|class| (class, probability(class)))
        .collect()
}

/// One line a picture: its name, then classes with probabilities.
fn table(predictions: &[Prediction], pictures: &Pictures, names: &[String]) -> String {
    let origins: Vec<String> = predictions
        .iter()
        .map(|prediction| pictures.origin(prediction.input))
        .collect();
    let width = origins.iter().map(|origin| origin.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (prediction, origin) in predictions.iter().zip(&origins) {
        let classes: Vec<String> = prediction
            .classes
            .iter()
            .map(|&(class, score)| format!("{} {score:.4}", names[class]))
            .collect();
        text += &format!("{origin:<width$}  {}\n", classes.join("  "));
    }
    text
}

fn json_lines(predictions: &[Prediction], bad: &[BadImage], pictures: &Pictures, names: &[String]) -> String {
    let mut lines: Vec<(usize, serde_json::Value)> = Vec::new();
    for prediction in predictions {
        let classes: Vec<_> = prediction
            .classes
            .iter()
            .map(|&(class, score)| json!({"label": names[class], "score": score}))
            .collect();
        let mut line = json!({"input": pictures.origin(prediction.input), "predictions": classes});
        if let Some(label) = pictures.true_label(prediction.input) {
            line["true_label"] = label.into();
        }
        lines.push((prediction.input, line));
    }
    for image in bad {
        lines.push((image.row, json!({"input": image.origin, "error": image.cause})));
    }
    lines.sort_by_key(|(input, _)| *input);
    lines.into_iter().map(|(_, line)| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_come_first_with_their_share() {
        let found = likeliest(&[0.0, 2.0, 2.0, -1000.0], 9);
        assert_eq!(found.iter().map(|(class, _)| *class).collect::<Vec<_>>(), [1, 2, 0, 3]);
        let total: f32 = found.iter().map(|(_, score)| score).sum();
        assert!(
            (total - 1.0).abs() < 1e-6 && found[0].1 == found[1].1 && found[3].1 == 0.0,
            "{found:?}"
        );
        assert_eq!(likeliest(&[1.0, 3.0], 1), [(1, 0.880_797_1)]);
    }
}
