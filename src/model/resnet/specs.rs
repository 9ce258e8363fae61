//! Which tensors a ResNet has, what their first values are without a file, and which of them are trained.

use super::config::{ConvolutionShape, ResNetConfig};
use super::parts::{anatomy, part};
use crate::model::Training;
use crate::optim::Decay;
use crate::optim::parameters::Layout;

/// Every convolution, in the order in which they are built.
pub(super) fn convolutions(config: &ResNetConfig) -> impl Iterator<Item = ConvolutionShape> {
    let layers = config.layers().into_iter();
    let of_layers = layers.flat_map(|layer| layer.main.into_iter().chain(layer.shortcut));
    std::iter::once(config.stem()).chain(of_layers)
}

/// A tensor of the model as files have it.
pub(super) struct Spec {
    pub name: String,
    pub shape: Vec<usize>,
    /// Its place in the model: names its random numbers.
    pub place: u32,
    pub first: First,
}

/// A tensor's first values, if no file has them.
#[derive(Clone, Copy)]
pub(super) enum First {
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
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

pub(super) fn specs(config: &ResNetConfig) -> Vec<Spec> {
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
pub(super) fn layout(config: &ResNetConfig, specs: &[Spec], training: &Training) -> Layout {
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
