//! Puts a ResNet together: which tensors it has, which of them are trained, and where their first values come from.

use std::collections::HashMap;

use candle_core::{Device, Tensor};

use super::config::{ConvolutionShape, LayerShape, ResNetConfig};
use super::parts::{anatomy, check_frozen, part};
use super::statistics::Statistics;
use crate::error::Result;
use crate::model::Training;
use crate::model::fit::{Expected, fit};
use crate::model::report::LoadReport;
use crate::model::weights::Checkpoint;
use crate::nn::{BatchNorm, Convolution, Linear, ResidualLayer, Stem, Weight};
use crate::ops::storage::{tensor, update};
use crate::optim::Decay;
use crate::optim::parameters::{Layout, Parameters};
use crate::rng::{Purpose, Stream};

/// nn.BatchNorm2d's defaults, which no config changes.
const EPS: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;

/// The layers, the flat buffers below them, and every trained or frozen tensor of the model under its file name.
pub(super) struct Parts {
    pub stem: Stem,
    pub layers: Vec<ResidualLayer>,
    pub classifier: Linear,
    pub parameters: Parameters,
    pub statistics: Statistics,
    pub named: Vec<(String, Tensor)>,
    pub report: LoadReport,
}

/// Trained parameters, and all.
pub(super) fn counts(config: &ResNetConfig, training: &Training) -> (usize, usize) {
    let specs = specs(config);
    let all = specs.iter().map(Spec::count).sum();
    (layout(config, &specs, training).count(), all)
}

/// From a file, or, without one, from random values.
pub(super) fn assemble(
    config: &ResNetConfig,
    training: &Training,
    file: Option<Checkpoint>,
    seed: u64,
) -> Result<Parts> {
    if let Training::AllBut(frozen) = training {
        check_frozen(config, frozen)?;
    }
    let specs = specs(config);
    let norms = convolutions(config).map(|shape| (format!("{}.normalization", shape.name), shape.outputs));
    let mut statistics = Statistics::new(norms.collect())?;
    let report = match &file {
        Some(file) => load_statistics(file, &mut statistics, &specs)?,
        None => LoadReport::default(),
    };
    let mut builder = Builder {
        parameters: Parameters::new(layout(config, &specs, training), &Device::Cpu)?,
        places: specs.into_iter().map(|spec| (spec.name.clone(), spec)).collect(),
        file,
        seed,
        statistics,
        norms: 0,
        named: Vec::new(),
        report,
    };
    let shapes = config.layers();
    // What comes out has the margin that the next layer's first convolutions need.
    let margin = |next: Option<&LayerShape>| next.map_or(0, |next| next.main[0].kernel.padding());
    let stem = Stem {
        convolution: builder.convolution(&config.stem())?,
        margin: margin(shapes.first()),
    };
    let mut layers = Vec::with_capacity(shapes.len());
    for (at, shape) in shapes.iter().enumerate() {
        let main = shape.main.iter().map(|shape| builder.convolution(shape));
        layers.push(ResidualLayer {
            main: main.collect::<Result<_>>()?,
            shortcut: shape
                .shortcut
                .as_ref()
                .map(|shape| builder.convolution(shape))
                .transpose()?,
            margin: margin(shapes.get(at + 1)),
        });
    }
    let classifier = Linear {
        weight: builder.weight("classifier.1.weight")?,
        bias: Some(builder.weight("classifier.1.bias")?),
    };
    Ok(Parts {
        stem,
        layers,
        classifier,
        parameters: builder.parameters,
        statistics: builder.statistics,
        named: builder.named,
        report: builder.report,
    })
}

/// Every convolution, in the order in which they are built.
fn convolutions(config: &ResNetConfig) -> impl Iterator<Item = ConvolutionShape> {
    let layers = config.layers().into_iter();
    let of_layers = layers.flat_map(|layer| layer.main.into_iter().chain(layer.shortcut));
    std::iter::once(config.stem()).chain(of_layers)
}

/// A tensor of the model as files have it.
struct Spec {
    name: String,
    shape: Vec<usize>,
    /// Its place in the model: names its random numbers.
    place: u32,
    first: First,
}

/// A tensor's first values, if no file has them.
#[derive(Clone, Copy)]
enum First {
    Constant(f32),
    /// kaiming_normal of what goes out, for ReLU.
    Normal {
        deviation: f64,
    },
    /// kaiming_uniform with a = √5, and the bias beside it.
    Uniform {
        bound: f64,
    },
}

impl Spec {
    fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

fn specs(config: &ResNetConfig) -> Vec<Spec> {
    let mut all = Vec::new();
    let mut push = |name: String, shape: Vec<usize>, first: First| {
        let place = all.len() as u32;
        all.push(Spec {
            name,
            shape,
            place,
            first,
        });
    };
    for shape in convolutions(config) {
        let ConvolutionShape {
            name,
            inputs,
            outputs,
            kernel,
        } = shape;
        let fan_out = outputs * kernel.side * kernel.side;
        let deviation = (2.0 / fan_out as f64).sqrt();
        let dims = vec![outputs, inputs, kernel.side, kernel.side];
        push(format!("{name}.convolution.weight"), dims, First::Normal { deviation });
        push(
            format!("{name}.normalization.weight"),
            vec![outputs],
            First::Constant(1.0),
        );
        push(
            format!("{name}.normalization.bias"),
            vec![outputs],
            First::Constant(0.0),
        );
    }
    let (classes, features) = (config.classes.len(), config.features());
    let bound = 1.0 / (features as f64).sqrt();
    push(
        "classifier.1.weight".into(),
        vec![classes, features],
        First::Uniform { bound },
    );
    push("classifier.1.bias".into(), vec![classes], First::Uniform { bound });
    all
}

/// What is trained, in order. Biases are spared of decay; the weights of normalisations are not, since Trainer looks for
/// another name.
fn layout(config: &ResNetConfig, specs: &[Spec], training: &Training) -> Layout {
    let mut layout = Layout::default();
    let anatomy = anatomy(config);
    for spec in specs {
        let is_trained = match (training, part(&spec.name)) {
            (Training::Full, _) | (_, None) => true,
            (Training::AllBut(frozen), Some(part)) => !anatomy.is_frozen(part, frozen),
            _ => false,
        };
        if is_trained {
            let decay = match spec.name.ends_with(".bias") {
                true => Decay::Spared,
                false => Decay::Decayed,
            };
            layout.push(&spec.name, &spec.shape, decay);
        }
    }
    layout
}

/// Reads the statistics, and holds the whole file against the model.
fn load_statistics(file: &Checkpoint, statistics: &mut Statistics, specs: &[Spec]) -> Result<LoadReport> {
    let named = statistics.named()?;
    let counts = |name: &str| name.ends_with(".num_batches_tracked");
    let mut expected: Vec<Expected> = Vec::new();
    for (name, tensor) in &named {
        // Checkpoints of old do not count batches.
        if !counts(name) || file.shape(name).is_some() {
            expected.push(Expected {
                name,
                shape: tensor.dims(),
            });
        }
    }
    expected.extend(specs.iter().map(|spec| Expected {
        name: &spec.name,
        shape: &spec.shape,
    }));
    let report = fit(file, &expected, "ResNet")?;
    let (counted, measured): (Vec<_>, Vec<_>) = named.iter().partition(|(name, _)| counts(name));
    for (name, tensor) in measured {
        update(tensor, |to| file.read_into(name, to))??;
    }
    for (batches, (name, _)) in statistics.batches.iter_mut().zip(counted) {
        *batches = file.whole_number(name)?.unwrap_or(0);
    }
    Ok(report)
}

struct Builder {
    file: Option<Checkpoint>,
    seed: u64,
    places: HashMap<String, Spec>,
    parameters: Parameters,
    statistics: Statistics,
    /// Normalisations built so far.
    norms: usize,
    named: Vec<(String, Tensor)>,
    report: LoadReport,
}

impl Builder {
    fn convolution(&mut self, shape: &ConvolutionShape) -> Result<Convolution> {
        let name = &shape.name;
        let [running_mean, running_variance] = self.statistics.pair(self.norms)?;
        self.norms += 1;
        Ok(Convolution {
            weight: self.weight(&format!("{name}.convolution.weight"))?,
            kernel: shape.kernel,
            norm: BatchNorm {
                weight: self.weight(&format!("{name}.normalization.weight"))?,
                bias: self.weight(&format!("{name}.normalization.bias"))?,
                running_mean,
                running_variance,
                eps: EPS,
                momentum: MOMENTUM,
            },
        })
    }

    fn weight(&mut self, name: &str) -> Result<Weight> {
        let spec = &self.places[name];
        let weight = match self.parameters.position(name) {
            Some(at) => Weight {
                value: self.parameters.value(at)?,
                gradient: Some(self.parameters.gradient(at)?),
            },
            None => Weight::frozen(tensor(vec![0.0; spec.count()], spec.shape.as_slice())?),
        };
        update(&weight.value, |to| match &self.file {
            Some(file) if !self.report.new.iter().any(|new| new == name) => file.read_into(name, to),
            _ => {
                self.initialize(spec, to);
                Ok(())
            }
        })??;
        self.named.push((name.to_owned(), weight.value.clone()));
        Ok(weight)
    }

    fn initialize(&self, spec: &Spec, to: &mut [f32]) {
        let stream = Stream::new(self.seed, 0, 0, Purpose::Init(spec.place));
        for (i, x) in (0u32..).zip(to) {
            *x = match spec.first {
                First::Constant(value) => value,
                First::Normal { deviation } => (deviation * stream.normal(i)) as f32,
                First::Uniform { bound } => ((2.0 * stream.uniform(i) - 1.0) * bound) as f32,
            };
        }
    }
}
