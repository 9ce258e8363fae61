//! The flags of training aids: what makes the most of few or uneven samples.

use clap::Args;
use serde::Serialize;

use crate::cli::typed::boolean;

/// As the other flags: keys of the recipe; what was not typed is None.
#[derive(Args, Debug, Serialize)]
#[command(next_help_heading = "Training aids")]
pub struct Aids {
    /// Parts of the model that are not trained: embeddings,layers.0-5, or the number of lowest layers
    #[arg(long, value_name = "PARTS|N", value_delimiter = ',', num_args = 1..)]
    #[serde(skip_serializing_if = "Option::is_none")]
    freeze: Option<Vec<String>>,
    /// How much the samples of each class count in the training loss: none, balanced, numbers or a JSON file of them
    #[arg(long, value_name = "none|balanced|X,X,…|FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    class_weights: Option<String>,
    /// Draw the samples of an epoch with replacement, every class as often as any other
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = boolean)]
    #[serde(skip_serializing_if = "Option::is_none")]
    balanced_sampling: Option<bool>,
    /// Mixup: mix samples with others, shares from Beta(X, X): 0.2
    #[arg(long, value_name = "X")]
    #[serde(skip_serializing_if = "Option::is_none")]
    mixup_alpha: Option<f64>,
    /// CutMix: put rectangles of other samples into samples, areas from Beta(X, X): 1.0
    #[arg(long, value_name = "X")]
    #[serde(skip_serializing_if = "Option::is_none")]
    cutmix_alpha: Option<f64>,
    /// Probability of a sample to be mixed [default: 1]
    #[arg(long, value_name = "P")]
    #[serde(skip_serializing_if = "Option::is_none")]
    mixup_prob: Option<f64>,
    /// Evaluate and save a moving average of the weights with this decay: 0.9998
    #[arg(long, value_name = "X")]
    #[serde(skip_serializing_if = "Option::is_none")]
    ema_decay: Option<f64>,
}
