//! The values of a recipe that are one of a few words, as they are written in TOML and on the command line.

use serde::{Deserialize, Serialize};

/// Which parameters are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Method {
    /// Low-rank adapters and the classifier.
    Lora,
    /// Everything.
    Full,
    /// The classifier alone, on frozen features.
    Head,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum AdapterFormat {
    /// transformers 5: `vit.layers.0.attention.q_proj`.
    V5,
    /// transformers 4: `vit.encoder.layer.0.attention.attention.query`.
    V4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum TransformKind {
    /// RandomResizedCrop, horizontal flip, normalize.
    Train,
    /// Resize, centre crop, normalize.
    Eval,
    /// What the model's own image processor does.
    Processor,
}

/// How pictures are brought to the model's size when it is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum EvalTransform {
    /// The shorter side, bilinear, then the centre.
    Crop,
    /// As run_image_classification.py: to the size of the model's image processor, whatever the aspect if that has a height
    /// and a width, bilinear, then the centre.
    Script,
    /// As the model's image processor.
    Processor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum OnBadImage {
    Skip,
    Error,
}

/// How training samples are shuffled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum ShuffleMode {
    /// Exactly, unless images are read block by block and do not fit into `data_memory_gb`.
    Auto,
    /// Every order of all samples is equally likely.
    Exact,
    /// Blocks of samples are shuffled, and samples among the blocks that are in use at a time.
    Block,
}

/// How exactly JPEG files are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Decode {
    /// To Pillow's pixels.
    Exact,
    /// At a half, a quarter or an eighth of their size where that is still larger than the sample.
    Fast,
}

/// Where decoded pictures are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum ImageCache {
    /// In the GPU's memory or else the host's, if all of them fit and there are epochs enough.
    Auto,
    /// In the GPU's memory, as many as fit, and in the host's.
    Device,
    /// In the host's memory, as many as fit.
    Host,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Schedule {
    Linear,
    Cosine,
    /// One restart less than it has cycles, and it has one: cosine, as transformers' default.
    CosineWithRestarts,
    /// Of power 1, down to 1e-7.
    Polynomial,
    InverseSqrt,
    Constant,
    ConstantWithWarmup,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Precision {
    Fp32,
    Fp16,
    Bf16,
}

impl Precision {
    pub fn name(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Fp16 => "fp16",
            Precision::Bf16 => "bf16",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Interval {
    No,
    Steps,
    Epoch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Reporter {
    None,
    /// Event files in `runs/` of the output directory.
    Tensorboard,
    /// Whatever there is: TensorBoard.
    All,
}

/// Whether a GPU is asked for micro-batches as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum CudaGraph {
    /// Wherever it can be done.
    Auto,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum DeviceChoice {
    Auto,
    Cpu,
    Cuda,
}
