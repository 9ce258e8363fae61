//! Puts a ViT together: which tensors it has, which of them are trained, and where their first values come from.

use std::collections::HashMap;

use candle_core::Tensor;

use super::anatomy::{Anatomy, Part};
use super::config::{QkvBias, VitConfig};
use super::fit::{Expected, fit};
use super::names::{self, Matrix};
use super::report::LoadReport;
use super::role::Role;
use super::weights::Checkpoint;
use super::{LoraConfig, Training};
use crate::error::Result;
use crate::nn::{
    Block, Embeddings, LayerNorm, Linear, LowRank, Mlp, Projection, SelfAttention, Tokens, Weight, Widened,
};
use crate::ops::cast::sent;
use crate::ops::device::Placement;
use crate::ops::dropout::Dropout;
use crate::ops::matmul::Products;
use crate::ops::storage::{tensor, update, zeros};
use crate::optim::Decay;
use crate::optim::parameters::{Layout, Parameters};
use crate::recipe::AdapterFormat;
use crate::rng::{Purpose, Stream};

/// Where first values come from.
pub(super) enum Source {
    File(Checkpoint),
    /// normal(0, 0.02), biases 0, layer norms 1.
    Random,
}

/// The layers, the flat buffers below the trained ones, and every tensor of the model under its file name.
pub(super) struct Parts {
    pub embeddings: Embeddings,
    pub blocks: Vec<Block>,
    pub norm: LayerNorm,
    pub classifier: Linear,
    pub parameters: Parameters,
    pub named: Vec<(String, Tensor)>,
    pub report: LoadReport,
}

/// Trainable parameters and all parameters, as peft's `print_trainable_parameters` counts: with adapters, the frozen
/// original of the classifier counts too.
pub fn counts(config: &VitConfig, training: &Training) -> (usize, usize) {
    let specs = specs(config);
    let model: usize = specs.iter().map(Spec::count).sum();
    let trained = layout(config, &specs, training).count();
    match training {
        Training::Lora(_) => (trained, model + trained),
        Training::Full | Training::AllBut(_) | Training::Head => (trained, model),
    }
}

pub(super) fn assemble(
    config: &VitConfig,
    training: &Training,
    source: Source,
    seed: u64,
    placement: &Placement,
) -> Result<Parts> {
    if let Training::AllBut(frozen) = training {
        anatomy(config).check(frozen, &config.path)?;
    }
    let specs = specs(config);
    let parameters = Parameters::new(layout(config, &specs, training), placement.clone())?;
    let builder = Builder {
        config,
        training,
        source,
        seed,
        placement,
        specs: specs.into_iter().map(|spec| (spec.name.clone(), spec)).collect(),
        parameters,
        named: Vec::new(),
        packed: None,
        report: LoadReport::default(),
    };
    builder.build()
}

/// A tensor of the model as files have it.
#[derive(Clone)]
struct Spec {
    name: String,
    shape: Vec<usize>,
    /// Its place in the model: names its random numbers.
    place: u32,
}

impl Spec {
    fn count(&self) -> usize {
        self.shape.iter().product()
    }

    fn decay(&self) -> Decay {
        match self.name.ends_with(".bias") || self.name.contains("layernorm") {
            true => Decay::Spared,
            false => Decay::Decayed,
        }
    }
}

/// All tensors in order. The weights of query, key and value are neighbours, and so are their biases: a flat buffer in
/// this order holds each three as one matrix.
fn specs(config: &VitConfig) -> Vec<Spec> {
    let (d, m, p) = (config.hidden_size, config.intermediate_size, config.patch_size);
    let mut all: Vec<(String, Vec<usize>)> = vec![
        ("vit.embeddings.cls_token".into(), vec![1, 1, d]),
        ("vit.embeddings.position_embeddings".into(), vec![1, config.tokens(), d]),
        (
            "vit.embeddings.patch_embeddings.projection.weight".into(),
            vec![d, config.channels, p, p],
        ),
        ("vit.embeddings.patch_embeddings.projection.bias".into(), vec![d]),
    ];
    for layer in 0..config.layers {
        let at = |module: &str| format!("vit.encoder.layer.{layer}.{module}");
        for norm in ["layernorm_before.weight", "layernorm_before.bias"] {
            all.push((at(norm), vec![d]));
        }
        all.extend(Projection::ALL.map(|p| (names::projection(layer, p, "weight"), vec![d, d])));
        if config.qkv_bias == QkvBias::Present {
            all.extend(Projection::ALL.map(|p| (names::projection(layer, p, "bias"), vec![d])));
        }
        all.push((at("attention.output.dense.weight"), vec![d, d]));
        all.push((at("attention.output.dense.bias"), vec![d]));
        for norm in ["layernorm_after.weight", "layernorm_after.bias"] {
            all.push((at(norm), vec![d]));
        }
        all.push((at("intermediate.dense.weight"), vec![m, d]));
        all.push((at("intermediate.dense.bias"), vec![m]));
        all.push((at("output.dense.weight"), vec![d, m]));
        all.push((at("output.dense.bias"), vec![d]));
    }
    all.push(("vit.layernorm.weight".into(), vec![d]));
    all.push(("vit.layernorm.bias".into(), vec![d]));
    all.push(("classifier.weight".into(), vec![config.classes.len(), d]));
    all.push(("classifier.bias".into(), vec![config.classes.len()]));
    all.into_iter()
        .enumerate()
        .map(|(place, (name, shape))| Spec {
            name,
            shape,
            place: place as u32,
        })
        .collect()
}

fn anatomy(config: &VitConfig) -> Anatomy {
    Anatomy {
        bottom: "embeddings",
        repeated: "layers",
        count: config.layers,
        top: Some("layernorm"),
    }
}

/// The part that a tensor belongs to; None: the classifier.
fn part(name: &str) -> Option<Part> {
    let inner = name.strip_prefix("vit.")?;
    if inner.starts_with("embeddings.") {
        return Some(Part::Bottom);
    }
    match inner.strip_prefix("encoder.layer.") {
        Some(rest) => Some(Part::Repeated(rest.split('.').next()?.parse().ok()?)),
        None => Some(Part::Top),
    }
}

/// What is trained, in order.
fn layout(config: &VitConfig, specs: &[Spec], training: &Training) -> Layout {
    let mut layout = Layout::default();
    let is_head = |spec: &&Spec| spec.name.starts_with("classifier.");
    match training {
        Training::Full => specs.iter().for_each(|s| layout.push(&s.name, &s.shape, s.decay())),
        Training::AllBut(frozen) => {
            let anatomy = anatomy(config);
            let is_frozen = |spec: &&Spec| part(&spec.name).is_some_and(|part| anatomy.is_frozen(part, frozen));
            specs
                .iter()
                .filter(|spec| !is_frozen(spec))
                .for_each(|s| layout.push(&s.name, &s.shape, s.decay()));
        }
        Training::Head => specs
            .iter()
            .filter(is_head)
            .for_each(|s| layout.push(&s.name, &s.shape, s.decay())),
        Training::Lora(lora) => {
            let d = config.hidden_size;
            for layer in 0..config.layers {
                for &target in &lora.targets {
                    let name = |matrix| names::adapter_matrix(layer, target, matrix, AdapterFormat::V5);
                    layout.push(name(Matrix::A), &[lora.r, d], Decay::Decayed);
                    layout.push(name(Matrix::B), &[d, lora.r], Decay::Decayed);
                }
            }
            for spec in specs.iter().filter(is_head) {
                layout.push(trained_name(&spec.name, training), &spec.shape, spec.decay());
            }
        }
    }
    layout
}

/// The name under which a tensor is trained: beside adapters, the classifier is peft's copy.
fn trained_name(name: &str, training: &Training) -> String {
    match (training, name.strip_prefix("classifier.")) {
        (Training::Lora(_), Some(leaf)) => names::adapter_classifier(leaf),
        _ => name.to_owned(),
    }
}

struct Builder<'a> {
    config: &'a VitConfig,
    training: &'a Training,
    source: Source,
    seed: u64,
    placement: &'a Placement,
    specs: HashMap<String, Spec>,
    parameters: Parameters,
    named: Vec<(String, Tensor)>,
    /// Weights with adapters behind them, of all layers in one buffer.
    packed: Option<Tensor>,
    report: LoadReport,
}

impl Builder<'_> {
    fn build(mut self) -> Result<Parts> {
        self.compare()?;
        let config = self.config;
        let (d, p) = (config.hidden_size, config.patch_size);
        let one = |name: &str| vec![name.to_owned()];
        let embeddings = Embeddings {
            cls: self.weight(&one("vit.embeddings.cls_token"), &[d], Role::Added)?,
            position: self.weight(
                &one("vit.embeddings.position_embeddings"),
                &[config.tokens(), d],
                Role::Added,
            )?,
            projection: self.linear("vit.embeddings.patch_embeddings.projection", d, config.channels * p * p)?,
            patch_size: p,
        };
        let blocks = (0..config.layers)
            .map(|layer| self.block(layer))
            .collect::<Result<Vec<_>>>()?;
        let norm = self.norm("vit.layernorm")?;
        let classifier = Linear {
            // A few operations, whose rounding would be in every logit.
            products: Products::F32,
            ..self.linear("classifier", config.classes.len(), d)?
        };
        Ok(Parts {
            embeddings,
            blocks,
            norm,
            classifier,
            parameters: self.parameters,
            named: self.named,
            report: self.report,
        })
    }

    fn block(&mut self, layer: usize) -> Result<Block> {
        let (d, m) = (self.config.hidden_size, self.config.intermediate_size);
        let at = |module: &str| format!("vit.encoder.layer.{layer}.{module}");
        let norm_before = self.norm(&at("layernorm_before"))?;
        let qkv_names = |leaf: &str| Projection::ALL.map(|p| names::projection(layer, p, leaf));
        let mut qkv = Linear {
            weight: self.weight(&qkv_names("weight"), &[3 * d, d], Role::Multiplied)?,
            bias: match self.config.qkv_bias {
                QkvBias::Present => Some(self.weight(&qkv_names("bias"), &[3 * d], Role::Multiplied)?),
                QkvBias::Absent => None,
            },
            products: self.placement.products,
        };
        let adapters = match self.training {
            Training::Lora(lora) => lora
                .targets
                .iter()
                .map(|&target| Ok((target, self.adapter(lora, layer, target)?)))
                .collect::<Result<Vec<_>>>()?,
            Training::Full | Training::AllBut(_) | Training::Head => Vec::new(),
        };
        let widened = Widened::new(&qkv, &adapters, |width| self.packed(layer, 3 * d, width))?;
        if let Some(widened) = &widened {
            qkv.weight = Weight::frozen(widened.projections()?);
        }
        Ok(Block {
            norm_before,
            attention: SelfAttention {
                widened,
                qkv,
                adapters,
                output: self.linear(&at("attention.output.dense"), d, d)?,
                heads: self.config.heads,
            },
            norm_after: self.norm(&at("layernorm_after"))?,
            mlp: Mlp {
                up: self.linear(&at("intermediate.dense"), m, d)?,
                down: self.linear(&at("output.dense"), d, m)?,
            },
            tokens: match layer + 1 == self.config.layers {
                true => Tokens::First,
                false => Tokens::All,
            },
        })
    }

    fn packed(&mut self, layer: usize, rows: usize, width: usize) -> Result<Tensor> {
        let all = match &self.packed {
            Some(all) => all.clone(),
            None => {
                let (layers, Placement { device, compute, .. }) = (self.config.layers, self.placement);
                zeros(layers * rows * width, *compute, device)?.reshape((layers, rows, width))?
            }
        };
        Ok(self.packed.insert(all).narrow(0, layer, 1)?.squeeze(0)?)
    }

    /// A is uniform in ±1/√inputs (kaiming_uniform with a = √5), B is 0: the first step starts from the base model.
    fn adapter(&mut self, lora: &LoraConfig, layer: usize, target: Projection) -> Result<LowRank> {
        let place = (layer * Projection::ALL.len() + target as usize) as u32;
        let [a, b] = [Matrix::A, Matrix::B].map(|matrix| {
            let name = names::adapter_matrix(layer, target, matrix, AdapterFormat::V5);
            self.parameters.position(&name).expect("the layout lists every adapter")
        });
        let bound = 1.0 / (self.config.hidden_size as f64).sqrt();
        // Numbers of adapters start where those of the model's own tensors end.
        let stream = Stream::new(self.seed, 0, 0, Purpose::Init(self.specs.len() as u32 + place));
        update(&self.parameters.value(a)?, |a| {
            for (i, a) in a.iter_mut().enumerate() {
                *a = ((2.0 * stream.uniform(i as u32) - 1.0) * bound) as f32;
            }
        })?;
        Ok(LowRank {
            a: self.trained(a)?,
            b: self.trained(b)?,
            scale: lora.scale() as f32,
            dropout: Dropout {
                probability: lora.dropout,
                module: place,
            },
            products: self.placement.products,
        })
    }

    fn norm(&mut self, name: &str) -> Result<LayerNorm> {
        let d = self.config.hidden_size;
        Ok(LayerNorm {
            weight: self.weight(&[format!("{name}.weight")], &[d], Role::Added)?,
            bias: self.weight(&[format!("{name}.bias")], &[d], Role::Added)?,
            eps: self.config.layer_norm_eps,
        })
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Linear> {
        Ok(Linear {
            weight: self.weight(&[format!("{name}.weight")], &[outputs, inputs], Role::Multiplied)?,
            bias: Some(self.weight(&[format!("{name}.bias")], &[outputs], Role::Multiplied)?),
            products: self.placement.products,
        })
    }

    /// The named tensors one after the other, seen in `shape`.
    fn weight(&mut self, names: &[String], shape: &[usize], role: Role) -> Result<Weight> {
        let specs: Vec<Spec> = names.iter().map(|name| self.specs[name].clone()).collect();
        let total: usize = specs.iter().map(Spec::count).sum();
        let first = self.parameters.position(&trained_name(&names[0], self.training));
        let start = first.map(|i| self.parameters.entries[i].start);
        // A frozen weight is filled here and then sent to where it is used.
        let flat = match start {
            Some(start) => self.parameters.values.narrow(0, start, total)?,
            None => tensor(vec![0.0; total], total)?,
        };
        let mut at = 0;
        for spec in &specs {
            let part = flat.narrow(0, at, spec.count())?;
            update(&part, |to| self.fill(spec, to))??;
            self.named
                .push((spec.name.clone(), part.reshape(spec.shape.as_slice())?));
            at += spec.count();
        }
        let value = match (start, role) {
            (Some(start), Role::Multiplied) => self.parameters.multiplied(start, total)?,
            (Some(_), Role::Added) => flat,
            (None, role) => sent(&flat, &self.placement.device, role.format(self.placement))?,
        };
        let gradient = match start {
            Some(start) => Some(self.parameters.gradients.narrow(0, start, total)?.reshape(shape)?),
            None => None,
        };
        Ok(Weight {
            value: value.reshape(shape)?,
            gradient,
        })
    }

    /// A trained matrix.
    fn trained(&self, i: usize) -> Result<Weight> {
        let entry = &self.parameters.entries[i];
        let value = self.parameters.multiplied(entry.start, entry.count())?;
        Ok(Weight {
            value: value.reshape(entry.shape.as_slice())?,
            gradient: Some(self.parameters.gradient(i)?),
        })
    }

    fn fill(&self, spec: &Spec, to: &mut [f32]) -> Result<()> {
        match &self.source {
            Source::File(file) if !self.report.new.contains(&spec.name) => file.read_into(&spec.name, to),
            _ => {
                self.initialize(spec, to);
                Ok(())
            }
        }
    }

    fn initialize(&self, spec: &Spec, to: &mut [f32]) {
        if spec.name.ends_with(".bias") {
            to.fill(0.0);
        } else if spec.name.contains("layernorm") {
            to.fill(1.0);
        } else {
            let stream = Stream::new(self.seed, 0, 0, Purpose::Init(spec.place));
            for (i, x) in to.iter_mut().enumerate() {
                *x = (0.02 * stream.normal(i as u32)) as f32;
            }
        }
    }

    /// Holds the file against the model.
    fn compare(&mut self) -> Result<()> {
        if let Source::File(file) = &self.source {
            let mut specs: Vec<&Spec> = self.specs.values().collect();
            specs.sort_by_key(|spec| spec.place);
            let expected: Vec<Expected> = specs
                .iter()
                .map(|spec| Expected {
                    name: &spec.name,
                    shape: &spec.shape,
                })
                .collect();
            self.report = fit(file, &expected, "ViT")?;
        }
        Ok(())
    }
}
