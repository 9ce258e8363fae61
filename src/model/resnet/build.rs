//! Puts a ResNet together: which tensors it has, which of them are trained, and where their first values come from.

use std::collections::HashMap;

use candle_core::Tensor;

use super::config::{ConvolutionShape, LayerShape, ResNetConfig};
use super::parts::check_frozen;
use super::specs::{First, Spec, convolutions, layout, specs};
use super::statistics::Statistics;
use crate::error::Result;
use crate::model::Training;
use crate::model::fit::{Expected, fit};
use crate::model::report::LoadReport;
use crate::model::role::Role;
use crate::model::weights::Checkpoint;
use crate::nn::{BatchNorm, Convolution, Linear, ResidualLayer, Stem, Weight};
use crate::ops::cast::sent;
use crate::ops::device::Placement;
use crate::ops::matmul::Products;
use crate::ops::storage::{tensor, update};
use crate::optim::parameters::Parameters;
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

/// Where each layer's parameters begin in the flat buffers.
pub(super) fn starts(config: &ResNetConfig, parameters: &Parameters) -> Vec<usize> {
    let layers = config.layers();
    parameters.starts(layers.len(), |at| {
        let first = &layers[at].main[0].name;
        first.strip_suffix("layer.0").unwrap_or(first).to_owned()
    })
}

/// From a file, or, without one, from random values.
pub(super) fn assemble(
    config: &ResNetConfig,
    training: &Training,
    file: Option<Checkpoint>,
    seed: u64,
    placement: &Placement,
) -> Result<Parts> {
    if let Training::AllBut(frozen) = training {
        check_frozen(config, frozen)?;
    }
    let specs = specs(config);
    let norms = convolutions(config).map(|shape| (format!("{}.normalization", shape.name), shape.outputs));
    let mut statistics = Statistics::new(norms.collect(), &placement.device)?;
    let report = match &file {
        Some(file) => load_statistics(file, &mut statistics, &specs)?,
        None => LoadReport::default(),
    };
    let mut builder = Builder {
        parameters: Parameters::new(layout(config, &specs, training), placement.clone())?,
        places: specs.into_iter().map(|spec| (spec.name.clone(), spec)).collect(),
        file,
        seed,
        placement,
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
        weight: builder.weight("classifier.1.weight", Role::Multiplied)?,
        bias: Some(builder.weight("classifier.1.bias", Role::Multiplied)?),
        products: Products::F32,
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

struct Builder<'a> {
    file: Option<Checkpoint>,
    seed: u64,
    placement: &'a Placement,
    places: HashMap<String, Spec>,
    parameters: Parameters,
    statistics: Statistics,
    /// Normalisations built so far.
    norms: usize,
    named: Vec<(String, Tensor)>,
    report: LoadReport,
}

impl Builder<'_> {
    fn convolution(&mut self, shape: &ConvolutionShape) -> Result<Convolution> {
        let name = &shape.name;
        let [running_mean, running_variance] = self.statistics.pair(self.norms)?;
        self.norms += 1;
        Ok(Convolution {
            weight: self.weight(&format!("{name}.convolution.weight"), Role::Multiplied)?,
            kernel: shape.kernel,
            products: self.placement.products,
            norm: BatchNorm {
                weight: self.weight(&format!("{name}.normalization.weight"), Role::Added)?,
                bias: self.weight(&format!("{name}.normalization.bias"), Role::Added)?,
                running_mean,
                running_variance,
                eps: EPS,
                momentum: MOMENTUM,
            },
        })
    }

    fn weight(&mut self, name: &str, role: Role) -> Result<Weight> {
        let spec = &self.places[name];
        let trained = self.parameters.position(name);
        // A frozen weight is filled here and then sent to where it is used.
        let named = match trained {
            Some(at) => self.parameters.value(at)?,
            None => tensor(vec![0.0; spec.count()], spec.shape.as_slice())?,
        };
        update(&named, |to| match &self.file {
            Some(file) if !self.report.new.iter().any(|new| new == name) => file.read_into(name, to),
            _ => {
                self.initialize(spec, to);
                Ok(())
            }
        })??;
        let value = match (trained, role) {
            (Some(at), Role::Multiplied) => {
                let start = self.parameters.entries[at].start;
                let flat = self.parameters.multiplied(start, spec.count())?;
                flat.reshape(spec.shape.as_slice())?
            }
            (Some(_), Role::Added) => named.clone(),
            (None, role) => sent(&named, &self.placement.device, role.format(self.placement))?,
        };
        let gradient = trained.map(|at| self.parameters.gradient(at)).transpose()?;
        self.named.push((name.to_owned(), named));
        Ok(Weight { value, gradient })
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
