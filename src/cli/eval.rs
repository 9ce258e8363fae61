//! `dtrain eval MODEL --dataset DATASET`: the figures of a trained model on a split, over any number of ranks.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::fetch::{self, DatasetName};
use super::run::{have_bf16, precision};
use super::train::start_threads;
use super::trained::{ModelArguments, ModelPlaces, Trained};
use super::{cores, say};
use crate::collective::{Collective, job, ranks_of_device};
use crate::data::{Columns, Dataset, Source, Transform};
use crate::error::{Error, IoContext, Result};
use crate::ops::device::{NodeRank, Placement, open};
use crate::recipe::{DeviceChoice, Figure, OnBadImage, Precision, TransformKind};
use crate::report::{CLASSES_FILE, Confusion, PREDICTIONS_FILE, classes_json, classes_table, predictions_csv};
use crate::train::{BadImages, Evaluation, Evaluator, Pass, Places};

#[derive(Args, Debug)]
pub struct EvalArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Directory or file of a dataset, or its name on the Hub
    #[arg(long, value_name = "DIR|NAME")]
    dataset: String,
    #[arg(long, value_name = "REVISION")]
    dataset_revision: Option<String>,
    #[arg(long, value_name = "NAME")]
    dataset_config_name: Option<String>,
    /// Which samples, slices allowed
    #[arg(long, value_name = "SPLIT", default_value = "validation")]
    split: String,
    #[arg(long, value_name = "NAME")]
    image_column_name: Option<String>,
    #[arg(long, value_name = "NAME")]
    label_column_name: Option<String>,
    /// eval: resize and centre crop as in training runs; processor: what the model's own image processor does
    #[arg(long, default_value = "eval")]
    transform: EvalTransform,
    /// Samples of a batch of one rank
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    per_device_eval_batch_size: u32,
    #[arg(long, default_value = "skip")]
    on_bad_image: OnBadImage,
    /// Write eval_results.json, eval_classes.json and eval_predictions.csv there
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Dtype of the computation; on a CPU fp32, or bf16 where it has AVX512_BF16
    #[arg(long, default_value = "fp32")]
    precision: Precision,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum EvalTransform {
    Eval,
    Processor,
}

pub fn run(arguments: &EvalArguments) -> ExitCode {
    job(|collective| carry_out(arguments, collective))
}

fn carry_out(arguments: &EvalArguments, collective: &Arc<dyn Collective>) -> Result<()> {
    let local = collective.local();
    let place = NodeRank {
        rank: local.rank,
        ranks: local.world,
    };
    let opened = open(arguments.device, place)?;
    ranks_of_device(&**collective, opened.identity.as_deref())?;
    let (device, mut remarks) = (opened.device, vec![opened.note]);
    let precision = precision(arguments.precision, &device, have_bf16(&**collective)?, &mut remarks);
    let placement = Placement::new(&device, precision);
    let columns = Columns {
        image: arguments.image_column_name.clone(),
        label: arguments.label_column_name.clone(),
    };
    let (places, notes) = fetch::once_a_node(&**collective, |notes| arguments.find(&columns, notes))?;
    let model_places = ModelPlaces {
        base: places.model,
        adapter: places.adapter,
    };
    let threads = cores::of_this_rank(&**collective)?;
    start_threads(threads)?;
    let trained = Trained::load(&model_places, &placement)?;
    let dataset = split_of(&places.dataset, &arguments.split, &columns)?;
    let dataset = dataset.with_classes(trained.classes())?;
    let rows = dataset.len().div_ceil(collective.world());
    let batch = rows.clamp(1, arguments.per_device_eval_batch_size as usize);
    let pass = Pass {
        samples: &dataset,
        count: dataset.len(),
        rows,
        transform: match arguments.transform {
            EvalTransform::Eval => Transform::new(&trained.preprocessor, TransformKind::Eval),
            EvalTransform::Processor => Transform::of_processor(&trained.preprocessor),
        },
        batch,
        placement: &placement,
        threads,
        on_bad_image: arguments.on_bad_image,
    };
    let evaluator = Evaluator {
        loader: pass.loading(&**collective)?,
        dataset,
        batch,
        label_smoothing: 0.0,
        device,
    };
    let mut bad = BadImages::default();
    let evaluation = evaluator.evaluate(&trained.model, &**collective, &mut bad)?;
    if collective.rank() == 0 {
        trained.loaded.iter().for_each(|report| eprintln!("loaded: {report}"));
        let notes = remarks.iter().chain(&notes);
        notes.for_each(|note| eprintln!("note: {note}"));
        bad.take().iter().for_each(|line| eprintln!("{line}"));
        say(&text(&evaluation, trained.classes()));
        if let Some(directory) = &arguments.output_dir {
            write(directory, &evaluation, trained.classes(), &evaluator.dataset)?;
        }
    }
    Ok(())
}

impl EvalArguments {
    fn find(&self, columns: &Columns, notes: &mut Vec<String>) -> Result<Places> {
        let hub = self.model.hub()?;
        let model = self.model.places(&hub, notes)?;
        let dataset = DatasetName {
            name: &self.dataset,
            revision: self.dataset_revision.as_deref(),
            configuration: self.dataset_config_name.as_deref(),
        };
        Ok(Places {
            model: model.base,
            adapter: model.adapter,
            dataset: dataset.place(&hub, &[&self.split], columns, notes)?,
        })
    }
}

fn split_of(source: &Source, split: &str, columns: &Columns) -> Result<Dataset> {
    let dataset = Dataset::open_source(source, split, columns)?;
    match dataset.len() {
        0 => Err(Error::dataset(
            &source.path,
            format!("split {split} has no samples"),
            "choose a larger slice",
        )),
        _ => Ok(dataset),
    }
}

fn text(evaluation: &Evaluation, classes: &[String]) -> String {
    let mut text = String::new();
    for figure in Figure::ALL {
        text += &format!("{:<20} {:.4}\n", figure.name(), evaluation.figures.get(figure));
    }
    let samples = evaluation.outcomes.len();
    let seconds = evaluation.seconds.max(1e-9);
    text += &format!(
        "{samples} samples in {seconds:.1} s, {:.1} images/s\n",
        samples as f64 / seconds
    );
    if let Some(table) = classes_table(&Confusion::of(&evaluation.outcomes), classes) {
        text += &format!("\n{table}");
    }
    text
}

fn write(directory: &std::path::Path, evaluation: &Evaluation, classes: &[String], dataset: &Dataset) -> Result<()> {
    std::fs::create_dir_all(directory).at("create", directory)?;
    let put = |name: &str, text: String| {
        let path = directory.join(name);
        std::fs::write(&path, text).at("write", &path)
    };
    let mut results = serde_json::to_value(evaluation.figures).expect("plain data");
    results["eval_samples"] = evaluation.outcomes.len().into();
    put(
        "eval_results.json",
        serde_json::to_string_pretty(&results).expect("plain data") + "\n",
    )?;
    put(
        CLASSES_FILE,
        classes_json(&Confusion::of(&evaluation.outcomes), classes),
    )?;
    let origin = |row: u32| dataset.origin(row as usize);
    put(PREDICTIONS_FILE, predictions_csv(&evaluation.outcomes, classes, origin))
}
