//! The flags of a training run. Every field is a key of the recipe, so that the typed flags are the recipe's top layer.

mod aids;
mod augmentation;

mod table;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use aids::Aids;
pub use augmentation::Augmentation;

use super::typed::{boolean, max_steps, warmup_steps};
use crate::error::Result;
use crate::recipe::{
    AdapterFormat, CudaGraph, Decode, DeviceChoice, EvalTransform, ImageCache, Interval, Layer, Method, OnBadImage,
    Precision, Recipe, Reporter, Schedule, ShuffleMode, TransformKind, named, resolve,
};

/// What `dtrain train` takes.
#[derive(Args, Debug)]
pub struct TrainArguments {
    /// Built-in recipe, or a TOML file (which may extend one)
    #[arg(long, value_name = "NAME|FILE.toml", help_heading = "Run")]
    pub recipe: Option<String>,
    /// Print what would be run, then stop
    #[arg(long, help_heading = "Run")]
    pub dry_run: bool,
    #[command(flatten)]
    pub values: Values,
}

/// Overrides of a recipe's values; whatever was not typed is None.
#[derive(Args, Debug, Serialize)]
#[command(next_help_heading = "Model")]
pub struct Values {
    /// Checkpoint directory in Hugging Face's layout, or a model's name on the Hub
    #[arg(long, value_name = "DIR|NAME")]
    model: Option<String>,
    /// Branch, tag or commit of a model on the Hub [default: main]
    #[arg(long, value_name = "REVISION")]
    model_revision: Option<String>,
    /// What is trained
    #[arg(long)]
    method: Option<Method>,
    /// Rank of the low-rank adapters
    #[arg(long, value_name = "N")]
    lora_r: Option<u32>,
    /// Adapters are scaled by alpha / r
    #[arg(long, value_name = "X")]
    lora_alpha: Option<f64>,
    /// Dropout of the adapters' input
    #[arg(long, value_name = "P")]
    lora_dropout: Option<f64>,
    /// Projections that get an adapter: query,value
    #[arg(long, value_name = "NAMES", value_delimiter = ',', num_args = 1..)]
    lora_target_modules: Option<Vec<String>>,
    /// Start from this adapter, written by peft or by dtrain
    #[arg(long, value_name = "DIR|NAME")]
    adapter: Option<PathBuf>,
    /// Tensor names of saved adapters: those of transformers 5 or 4
    #[arg(long)]
    adapter_format: Option<AdapterFormat>,
    /// Directory or file of a dataset, or its name on the Hub
    #[arg(long, value_name = "DIR|NAME", help_heading = "Data")]
    dataset: Option<String>,
    /// Branch, tag or commit of a dataset on the Hub [default: main]
    #[arg(long, value_name = "REVISION", help_heading = "Data")]
    dataset_revision: Option<String>,
    /// One of several configurations of a dataset
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    dataset_config_name: Option<String>,
    /// Folder of training images, one directory a class
    #[arg(long, value_name = "DIR", help_heading = "Data")]
    train_dir: Option<PathBuf>,
    /// Folder of validation images
    #[arg(long, value_name = "DIR", help_heading = "Data")]
    validation_dir: Option<PathBuf>,
    /// Split to train on, slices allowed: train[:5000]
    #[arg(long, value_name = "SPLIT", help_heading = "Data")]
    train_split: Option<String>,
    /// Split to evaluate on, slices allowed; auto: the validation split, or else the test size
    #[arg(long, value_name = "SPLIT", help_heading = "Data")]
    validation_split: Option<String>,
    /// Hold out this fraction (below 1) or number of training samples
    #[arg(long, value_name = "X", help_heading = "Data")]
    test_size: Option<f64>,
    /// Column of images, where the schema does not tell
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    image_column_name: Option<String>,
    /// Column of labels, where the schema does not tell
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    label_column_name: Option<String>,
    /// Train on so many random samples at most
    #[arg(long, value_name = "N", help_heading = "Data")]
    max_train_samples: Option<u32>,
    /// Evaluate on so many random samples at most
    #[arg(long, value_name = "N", help_heading = "Data")]
    max_eval_samples: Option<u32>,
    /// train: random crop and flip; eval: resize and centre crop; processor: as the model's image processor
    #[arg(long, help_heading = "Data")]
    train_transform: Option<TransformKind>,
    #[command(flatten)]
    #[serde(flatten)]
    augmentation: Augmentation,
    /// How pictures are resized when evaluating
    #[arg(long, help_heading = "Data")]
    eval_transform: Option<EvalTransform>,
    /// Shuffle the training samples in every epoch
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = boolean, help_heading = "Data")]
    shuffle: Option<bool>,
    /// How: exactly, or block by block where images do not fit into --data-memory-gb
    #[arg(long, help_heading = "Data")]
    shuffle_mode: Option<ShuffleMode>,
    /// Encoded images that a rank may keep in memory, in 10^9 bytes [default: 8]
    #[arg(long, value_name = "X", help_heading = "Data")]
    data_memory_gb: Option<f64>,
    /// exact: Pillow's pixels; fast: at a half, a quarter or an eighth of the size where that is still large enough
    #[arg(long, help_heading = "Data")]
    decode: Option<Decode>,
    /// What to do with an image that cannot be decoded
    #[arg(long, help_heading = "Data")]
    on_bad_image: Option<OnBadImage>,
    /// Whether to train at all
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = boolean, help_heading = "Training")]
    do_train: Option<bool>,
    /// Whether to evaluate, if there is a validation set
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = boolean, help_heading = "Training")]
    do_eval: Option<bool>,
    /// Passes over the training set
    #[arg(long, value_name = "X", help_heading = "Training")]
    num_train_epochs: Option<f64>,
    /// Optimizer steps; overrides the epochs (-1: does not)
    #[arg(long, value_name = "N", value_parser = max_steps, help_heading = "Training")]
    max_steps: Option<i64>,
    /// Samples of a micro-batch of one rank
    #[arg(long, value_name = "N", help_heading = "Training")]
    per_device_train_batch_size: Option<u32>,
    /// Micro-batches of an optimizer step
    #[arg(long, value_name = "N", help_heading = "Training")]
    gradient_accumulation_steps: Option<u32>,
    /// Samples of an evaluation batch of one rank
    #[arg(long, value_name = "N", help_heading = "Training")]
    per_device_eval_batch_size: Option<u32>,
    /// Keep only the inputs of the model's blocks and compute the rest once more: less memory, more time, the same results
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = boolean, help_heading = "Training")]
    gradient_checkpointing: Option<bool>,
    /// Peak learning rate
    #[arg(long, value_name = "X", help_heading = "Training")]
    learning_rate: Option<f64>,
    /// Course of the learning rate
    #[arg(long, help_heading = "Training")]
    lr_scheduler_type: Option<Schedule>,
    /// Steps from 0 up to the peak learning rate; below 1: a fraction of all
    #[arg(long, value_name = "N", value_parser = warmup_steps, help_heading = "Training")]
    warmup_steps: Option<f64>,
    /// The same as a fraction of all steps
    #[arg(long, value_name = "X", help_heading = "Training")]
    warmup_ratio: Option<f64>,
    /// AdamW's decay of weights, decoupled from the gradient
    #[arg(long, value_name = "X", help_heading = "Training")]
    weight_decay: Option<f64>,
    #[arg(long, value_name = "X", help_heading = "Training")]
    adam_beta1: Option<f64>,
    #[arg(long, value_name = "X", help_heading = "Training")]
    adam_beta2: Option<f64>,
    #[arg(long, value_name = "X", help_heading = "Training")]
    adam_epsilon: Option<f64>,
    /// Largest global norm of the gradient; 0: no clipping
    #[arg(long, value_name = "X", help_heading = "Training")]
    max_grad_norm: Option<f64>,
    /// Share of the target that is spread over all classes
    #[arg(long, value_name = "X", help_heading = "Training")]
    label_smoothing_factor: Option<f64>,
    /// Batch normalisation over the samples of all ranks instead of each rank's own
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = boolean, help_heading = "Training")]
    sync_batch_norm: Option<bool>,
    /// Dtype of the computation; master weights are always f32. On a CPU bf16 is that of products' operands, if it has AVX512_BF16
    #[arg(long, help_heading = "Training", conflicts_with_all = ["fp16", "bf16"])]
    precision: Option<Precision>,
    /// Same as --precision fp16
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = boolean, help_heading = "Training")]
    fp16: Option<bool>,
    /// Same as --precision bf16
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = boolean, help_heading = "Training")]
    bf16: Option<bool>,
    #[arg(long, value_name = "N", help_heading = "Training")]
    seed: Option<u32>,
    /// Seed of the samples' order [default: the seed]
    #[arg(long, value_name = "N", help_heading = "Training")]
    data_seed: Option<u32>,
    #[command(flatten)]
    #[serde(flatten)]
    aids: Aids,
    /// Where results and checkpoints go
    #[arg(long, value_name = "DIR", help_heading = "Results")]
    output_dir: Option<PathBuf>,
    /// Throw away the checkpoints of an earlier run there
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = boolean, help_heading = "Results")]
    overwrite_output_dir: Option<bool>,
    /// Go on from the last checkpoint of the output directory (true), or from this one
    #[arg(long, value_name = "true|DIR", num_args = 0..=1, default_missing_value = "true", help_heading = "Results")]
    resume_from_checkpoint: Option<String>,
    /// When the training loss is reported
    #[arg(long, help_heading = "Results")]
    logging_strategy: Option<Interval>,
    /// Report the loss of the first step, too
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = boolean, help_heading = "Results")]
    logging_first_step: Option<bool>,
    /// Steps between reports of the training loss
    #[arg(long, value_name = "N", help_heading = "Results")]
    logging_steps: Option<u64>,
    #[arg(long, help_heading = "Results")]
    eval_strategy: Option<Interval>,
    /// Steps between evaluations [default: logging steps]
    #[arg(long, value_name = "N", help_heading = "Results")]
    eval_steps: Option<u64>,
    #[arg(long, help_heading = "Results")]
    save_strategy: Option<Interval>,
    #[arg(long, value_name = "N", help_heading = "Results")]
    save_steps: Option<u64>,
    /// Checkpoints to keep; the best one stays in any case
    #[arg(long, value_name = "N", help_heading = "Results")]
    save_total_limit: Option<u32>,
    /// Finish with the best checkpoint's weights
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = boolean, help_heading = "Results")]
    load_best_model_at_end: Option<bool>,
    /// loss, accuracy, top_5_accuracy, or precision, recall or f1 with _micro, _macro or _weighted
    #[arg(long, value_name = "NAME", help_heading = "Results")]
    metric_for_best_model: Option<String>,
    /// Whether a higher figure is the better one [default: true but for the loss]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = boolean, help_heading = "Results")]
    greater_is_better: Option<bool>,
    /// End after so many evaluations in a row without progress
    #[arg(long, value_name = "N", help_heading = "Results")]
    early_stopping_patience: Option<u64>,
    /// Progress is more than this
    #[arg(long, value_name = "X", help_heading = "Results")]
    early_stopping_threshold: Option<f64>,
    /// Write what the final model says of every validation sample: eval_predictions.csv
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = boolean, help_heading = "Results")]
    save_predictions: Option<bool>,
    /// Write the logged figures for TensorBoard, too: runs/ of the output directory
    #[arg(long, value_name = "WHERE", value_delimiter = ',', num_args = 1.., help_heading = "Results")]
    report_to: Option<Vec<Reporter>>,

    /// Where downloads are kept [default: as Python's, HF_HOME/hub]
    #[arg(long, value_name = "DIR", help_heading = "Hub")]
    cache_dir: Option<PathBuf>,
    /// Access token [default: HF_TOKEN, or what `hf auth login` stored]
    #[arg(long, value_name = "hf_…", help_heading = "Hub")]
    token: Option<String>,
    /// Upload the results when the run is done
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = boolean, help_heading = "Hub")]
    push_to_hub: Option<bool>,
    /// Repository that results go to [default: the output directory's name]
    #[arg(long, value_name = "NAME", help_heading = "Hub")]
    hub_model_id: Option<String>,
    /// Nobody else may see it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = boolean, help_heading = "Hub")]
    hub_private_repo: Option<bool>,

    #[arg(long, help_heading = "Machine")]
    device: Option<DeviceChoice>,
    /// Compute threads of a rank [default: cores of the node / its ranks]
    #[arg(long, value_name = "N", help_heading = "Machine")]
    threads: Option<u32>,
    /// Threads that decode images, of a rank [default: as many as compute threads]
    #[arg(long, value_name = "N", help_heading = "Machine")]
    dataloader_num_workers: Option<u32>,
    /// Keep decoded pictures from epoch to epoch: on the GPU (device), in memory (host)
    #[arg(long, help_heading = "Machine")]
    image_cache: Option<ImageCache>,
    /// Most memory for them, of a rank, in 10^9 bytes, on the GPU and on the host [default: three quarters of what the run
    /// leaves free on the GPU; a quarter of what is free on the host / ranks of the node]
    #[arg(long, value_name = "X", help_heading = "Machine")]
    image_cache_gb: Option<f64>,
    /// Ask a GPU for micro-batches as a whole, as a CUDA graph
    #[arg(long, help_heading = "Machine")]
    cuda_graph: Option<CudaGraph>,
}

impl TrainArguments {
    /// The recipe that these flags name, with the other flags on top.
    pub fn resolve(&self) -> Result<Recipe> {
        let mut layers = match &self.recipe {
            Some(name) => named(name)?,
            None => Vec::new(),
        };
        layers.push(Layer::flags(self.values.table()?));
        resolve(&layers)
    }
}
