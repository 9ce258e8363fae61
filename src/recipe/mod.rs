//! A recipe is data: every value of a training run, under the names that Hugging Face's Trainer gives them.
//!
//! The built-in recipes are the TOML files beside this one. A user's TOML may extend one (`extends = "vit-lora"`), flags
//! override both: the layers are merged as TOML tables, then read once into [`Recipe`]. Unknown keys are errors.
//! What a recipe means for a given dataset, world size and machine is decided in `cli`, never here.

mod augmentation;
mod choices;
mod class_weights;
mod freeze;
mod keys;
mod layers;
mod metric;
mod validate;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use augmentation::{ColorJitter, ErasingMode, RandAugment};
pub use choices::{
    AdapterFormat, CudaGraph, Decode, DeviceChoice, EvalTransform, ImageCache, Interval, Method, OnBadImage, Precision,
    Reporter, Schedule, ShuffleMode, TransformKind,
};
pub use class_weights::ClassWeights;
pub use freeze::FrozenPart;
pub use keys::{ALIASES, nearest};
pub use layers::{BUILT_IN, Layer, Origin, built_in, named, resolve};
pub use metric::{Average, BestMetric, Better, Figure};

/// The `validation_split` that means: the one called validation if there is one, else `test_size`.
pub const AUTO_SPLIT: &str = "auto";

/// Every value of a run. Field names are the TOML keys; with hyphens they are the flags.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    // What is trained.
    /// Local directory of a checkpoint in HF's layout, or a Hub name.
    pub model: String,
    /// Branch, tag or commit of a model on the Hub; `main` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_revision: Option<String>,
    pub method: Method,
    /// Parts of the model that are not trained: `embeddings`, `layers.0-5`, or how many of the lowest layers.
    pub freeze: Vec<String>,
    pub lora_r: usize,
    pub lora_alpha: f64,
    pub lora_dropout: f64,
    /// Projections that get an adapter, under v4's names (`query`) or v5's (`q_proj`).
    pub lora_target_modules: Vec<String>,
    /// Start from this adapter instead of a new one: a directory, or a Hub name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
    /// Tensor names of saved adapters.
    pub adapter_format: AdapterFormat,

    // What it is trained on.
    /// Local directory or file of a dataset, or a Hub name.
    pub dataset: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset_revision: Option<String>,
    /// One of several configurations of the dataset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset_config_name: Option<String>,
    /// Folder of training images, in the place of a dataset: all below it are samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_dir: Option<PathBuf>,
    /// The same for validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_dir: Option<PathBuf>,
    /// Split of training samples, slices allowed: `train[:5000]`.
    pub train_split: String,
    /// Split of validation samples; without it `test_size` of the training split is held out. `auto`: the split called
    /// validation if there is one, else `test_size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_split: Option<String>,
    /// Fraction (below 1) or number of samples held out of the training split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_size: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_column_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_column_name: Option<String>,
    /// Random samples of a set, no more than so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_train_samples: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_eval_samples: Option<usize>,
    pub train_transform: TransformKind,
    /// Augmentations of training samples, behind the transform.
    pub rand_augment: RandAugment,
    pub color_jitter: ColorJitter,
    /// Share of the samples of which a rectangle is erased.
    pub random_erasing: f64,
    pub random_erasing_mode: ErasingMode,
    pub eval_transform: EvalTransform,
    /// false: samples in the order of the dataset, in every epoch.
    pub shuffle: bool,
    /// Draw the samples of an epoch with replacement, every class as often as any other.
    pub balanced_sampling: bool,
    pub shuffle_mode: ShuffleMode,
    /// Encoded images that a rank may keep in memory, in 10^9 bytes; more are shuffled block by block.
    pub data_memory_gb: f64,
    pub decode: Decode,
    /// What to do with an image that cannot be decoded.
    pub on_bad_image: OnBadImage,

    // How long and how large.
    /// false: the model is only evaluated.
    pub do_train: bool,
    /// false: nothing is evaluated, unless `eval_strategy` asks for it.
    pub do_eval: bool,
    pub num_train_epochs: f64,
    /// Optimizer steps; overrides `num_train_epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    pub per_device_train_batch_size: usize,
    pub gradient_accumulation_steps: usize,
    pub per_device_eval_batch_size: usize,
    /// Keep only the inputs of the model's blocks and compute the rest once more: less memory, more time, the same results.
    pub gradient_checkpointing: bool,

    // The optimizer.
    pub learning_rate: f64,
    pub lr_scheduler_type: Schedule,
    pub warmup_steps: u64,
    /// Fraction of all steps; used when `warmup_steps` is 0.
    pub warmup_ratio: f64,
    pub weight_decay: f64,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
    /// Largest global L2 norm of the gradient; 0 turns clipping off.
    pub max_grad_norm: f64,
    pub label_smoothing_factor: f64,
    /// Mixup: samples are mixed with others, shares from Beta(alpha, alpha); 0: not so.
    pub mixup_alpha: f64,
    /// CutMix: rectangles of samples are those of others; 0: not so. With both, one of them half of the time each.
    pub cutmix_alpha: f64,
    /// Of a sample to be mixed.
    pub mixup_prob: f64,
    /// Weights of the classes in the training loss.
    pub class_weights: ClassWeights,
    /// Decay of a moving average of the weights, which is then evaluated and saved in their place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
    /// Batch normalisation over the samples of all ranks instead of each rank's own.
    pub sync_batch_norm: bool,
    pub precision: Precision,

    // When to report, evaluate and save.
    pub logging_strategy: Interval,
    pub logging_steps: u64,
    pub logging_first_step: bool,
    pub eval_strategy: Interval,
    /// Steps between evaluations with `eval_strategy = "steps"`; `logging_steps` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_steps: Option<u64>,
    pub save_strategy: Interval,
    pub save_steps: u64,
    /// Checkpoints to keep; the best one is always kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_total_limit: Option<usize>,
    pub load_best_model_at_end: bool,
    pub metric_for_best_model: String,
    /// By default true for all figures but the loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub greater_is_better: Option<bool>,
    /// End after so many evaluations in a row without progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping_patience: Option<u64>,
    /// A figure must be better than the best by more than this to count as progress.
    pub early_stopping_threshold: f64,
    /// Write what the final model says of every validation sample.
    pub save_predictions: bool,
    /// Who is told the logged figures besides `trainer_state.json`.
    pub report_to: Vec<Reporter>,
    pub output_dir: PathBuf,
    /// `true`: the last checkpoint of `output_dir`; a path: that one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume_from_checkpoint: Option<String>,
    pub overwrite_output_dir: bool,

    // The Hub.
    /// Where downloads are kept, instead of the usual cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_dir: Option<PathBuf>,
    /// A secret, so it is never written down.
    #[serde(skip_serializing)]
    pub token: Option<String>,
    /// Upload the results when the run is done.
    pub push_to_hub: bool,
    /// The repository that results go to; by default the output directory's name, in the token's owner's account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hub_model_id: Option<String>,
    pub hub_private_repo: bool,

    // The machine.
    pub seed: u64,
    /// Of the order of the samples; `seed` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_seed: Option<u64>,
    /// Threads that decode images, per rank; by default as many as the rank has cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataloader_num_workers: Option<usize>,
    /// Decoded pictures kept in memory from epoch to epoch.
    pub image_cache: ImageCache,
    /// Most memory for them, per rank, in 10^9 bytes, on the GPU and on the host; by default three quarters of what the run
    /// leaves free there, and a quarter of what is free / ranks of the node here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_cache_gb: Option<f64>,
    /// Threads that compute, per rank; by default cores of the node / ranks of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    pub device: DeviceChoice,
    /// Micro-batches recorded once as a CUDA graph, and replayed.
    pub cuda_graph: CudaGraph,
}

impl Recipe {
    /// Are event files written?
    pub fn reports_to_tensorboard(&self) -> bool {
        self.report_to.iter().any(|to| *to != Reporter::None)
    }

    /// The recipe as a TOML file that gives it back.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe is plain values")
    }
}
