//! config.json of a ResNet: what the arithmetic needs, read strictly, and everything else kept as it was.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::model::fields::{self, Fields, class_names};
use crate::ops::convolution::Kernel;

/// The shape of a ResNet classifier.
#[derive(Clone, Debug)]
pub struct ResNetConfig {
    pub channels: usize,
    /// Channels behind the stem.
    pub embedding_size: usize,
    /// Channels behind each stage, and its layers.
    pub stages: Vec<(usize, usize)>,
    pub layer_type: LayerType,
    /// The stride of the first stage's first layer.
    pub first_stride: usize,
    /// Which convolution of a bottleneck takes the stride.
    pub strided: Strided,
    /// Names of the classes, by number.
    pub classes: Vec<String>,
    /// Where it came from, for messages.
    pub path: PathBuf,
    /// The whole file.
    json: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerType {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1 to a quarter of the channels, 3x3, and 1x1 back.
    Bottleneck,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strided {
    /// The 3x3 in the middle.
    Middle,
    /// The first 1x1, as in the original paper.
    First,
}

/// A convolution of the model, by the name of its module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvolutionShape {
    pub name: String,
    pub inputs: usize,
    pub outputs: usize,
    pub kernel: Kernel,
}

/// A convolution among images of one size: height and width of what goes in and comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedConvolution {
    pub shape: ConvolutionShape,
    pub from: (usize, usize),
    pub to: (usize, usize),
}

/// A residual layer of the model.
#[derive(Clone, Debug)]
pub struct LayerShape {
    pub main: Vec<ConvolutionShape>,
    pub shortcut: Option<ConvolutionShape>,
}

/// What divides the channels inside of a bottleneck.
const REDUCTION: usize = 4;

impl ResNetConfig {
    /// Reads `dir/config.json`. Errors: no such file, no JSON, not a ResNet, or something in it that dtrain does not do.
    pub fn read(dir: &Path) -> Result<ResNetConfig> {
        let (json, path) = fields::read(dir)?;
        ResNetConfig::from_json(json, &path)
    }

    /// `path` is only for messages.
    pub fn from_json(json: Value, path: &Path) -> Result<ResNetConfig> {
        let fields = Fields { json: &json, path };
        fields.is(
            "model_type",
            "resnet",
            "give a ResNet checkpoint (model_type \"resnet\")",
        )?;
        fields.is(
            "hidden_act",
            "relu",
            "dtrain computes ResNets with ReLU; choose another checkpoint",
        )?;
        let hidden_sizes = fields.counts("hidden_sizes", &[256, 512, 1024, 2048])?;
        let depths = fields.counts("depths", &[3, 4, 6, 3])?;
        let layer_type = match json.get("layer_type").and_then(Value::as_str) {
            None | Some("bottleneck") => LayerType::Bottleneck,
            Some("basic") => LayerType::Basic,
            Some(other) => {
                let what = format!("layer_type is \"{other}\", not \"basic\" or \"bottleneck\"");
                return Err(Error::model(path, what, "check config.json"));
            }
        };
        if hidden_sizes.len() != depths.len() || hidden_sizes.is_empty() {
            let what = format!("{} hidden_sizes and {} depths", hidden_sizes.len(), depths.len());
            return Err(Error::model(
                path,
                what,
                "check config.json: each stage has one of both",
            ));
        }
        if layer_type == LayerType::Bottleneck && hidden_sizes.iter().any(|size| *size < REDUCTION) {
            let what = format!("a bottleneck of {hidden_sizes:?} channels has none inside");
            return Err(Error::model(path, what, "check config.json"));
        }
        let flag = |name: &str| json.get(name).and_then(Value::as_bool).unwrap_or(false);
        Ok(ResNetConfig {
            channels: fields.count("num_channels", 3)?,
            embedding_size: fields.count("embedding_size", 64)?,
            stages: hidden_sizes.into_iter().zip(depths).collect(),
            layer_type,
            first_stride: if flag("downsample_in_first_stage") { 2 } else { 1 },
            strided: match flag("downsample_in_bottleneck") {
                true => Strided::First,
                false => Strided::Middle,
            },
            classes: class_names(&json),
            path: path.to_owned(),
            json,
        })
    }

    /// Channels that the classifier reads.
    pub fn features(&self) -> usize {
        self.stages.last().map_or(0, |(channels, _)| *channels)
    }

    pub fn stem(&self) -> ConvolutionShape {
        ConvolutionShape {
            name: "resnet.embedder.embedder".into(),
            inputs: self.channels,
            outputs: self.embedding_size,
            kernel: Kernel { side: 7, stride: 2 },
        }
    }

    /// All residual layers, in order.
    pub fn layers(&self) -> Vec<LayerShape> {
        let mut inputs = self.embedding_size;
        let mut layers = Vec::new();
        for (stage, &(outputs, depth)) in self.stages.iter().enumerate() {
            for layer in 0..depth {
                let stride = match (layer, stage) {
                    (0, 0) => self.first_stride,
                    (0, _) => 2,
                    _ => 1,
                };
                let name = format!("resnet.encoder.stages.{stage}.layers.{layer}");
                layers.push(self.layer(&name, inputs, outputs, stride));
                inputs = outputs;
            }
        }
        layers
    }

    /// Every convolution for images of this height and width, in order; shortcuts stand behind their layer's others.
    pub fn placed(&self, height: usize, width: usize) -> Vec<PlacedConvolution> {
        let place = |shape: ConvolutionShape, from: (usize, usize)| {
            let to = (shape.kernel.outputs(from.0), shape.kernel.outputs(from.1));
            PlacedConvolution { shape, from, to }
        };
        let stem = place(self.stem(), (height, width));
        let mut at = (stem.to.0.div_ceil(2), stem.to.1.div_ceil(2));
        let mut all = vec![stem];
        for layer in self.layers() {
            let start = at;
            for shape in layer.main {
                let placed = place(shape, at);
                at = placed.to;
                all.push(placed);
            }
            all.extend(layer.shortcut.map(|shape| place(shape, start)));
        }
        all
    }

    /// Floats that one image of this height and width leaves behind for the backward pass, without the pixels.
    pub fn kept_floats(&self, height: usize, width: usize) -> usize {
        let placed = self.placed(height, width);
        let results = placed.iter().map(|c| {
            // The stem's result is kept as it is and pooled, a shortcut's as it is, the others' also normalised.
            let times = if c.shape.name.ends_with(".shortcut") { 1 } else { 2 };
            times * c.to.0 * c.to.1 * c.shape.outputs
        });
        let stem = &placed[0];
        let not_pooled = stem.to.0 * stem.to.1 - stem.to.0.div_ceil(2) * stem.to.1.div_ceil(2);
        results.sum::<usize>() - not_pooled * stem.shape.outputs
    }

    /// The file as it was, for a classifier of these classes.
    pub fn to_json(&self) -> Value {
        fields::with_classes(&self.json, &self.classes, "ResNetForImageClassification")
    }

    fn layer(&self, name: &str, inputs: usize, outputs: usize, stride: usize) -> LayerShape {
        let narrow = outputs / REDUCTION;
        let at_first = self.strided == Strided::First;
        let of = |whether: bool| if whether { stride } else { 1 };
        let shapes = match self.layer_type {
            LayerType::Basic => vec![(inputs, outputs, 3, stride), (outputs, outputs, 3, 1)],
            LayerType::Bottleneck => vec![
                (inputs, narrow, 1, of(at_first)),
                (narrow, narrow, 3, of(!at_first)),
                (narrow, outputs, 1, 1),
            ],
        };
        let shape = |name: String, (inputs, outputs, side, stride)| ConvolutionShape {
            name,
            inputs,
            outputs,
            kernel: Kernel { side, stride },
        };
        LayerShape {
            main: (0..)
                .zip(shapes)
                .map(|(i, dims)| shape(format!("{name}.layer.{i}"), dims))
                .collect(),
            shortcut: (inputs != outputs || stride != 1)
                .then(|| shape(format!("{name}.shortcut"), (inputs, outputs, 1, stride))),
        }
    }
}
