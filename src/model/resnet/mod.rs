//! The residual network (He et al. 2015) as Hugging Face's ResNetForImageClassification computes it: an explicit walk up
//! its layers and down again.
//!
//! What lies below the lowest trained weight computes as in inference, and its running statistics stay as they are.

mod build;
mod config;
mod parts;
mod statistics;

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;

pub use config::{ConvolutionShape, LayerType, PlacedConvolution, ResNetConfig, Strided};
use parts::in_file;
pub use statistics::Statistics;

use super::weights::{self, Checkpoint};
use super::{LoadReport, Training};
use crate::collective::Collective;
use crate::error::{Error, IoContext, Result};
use crate::nn::{Linear, ResidualKept, ResidualLayer, Stem, StemKept, Together, Wanted};
use crate::ops::device::Placement;
use crate::ops::maps::{Maps, MapsShape};
use crate::ops::meter::{Part, part};
use crate::ops::pool;
use crate::ops::storage::tensor;
use crate::optim::Parameters;

pub struct ResNet {
    config: ResNetConfig,
    training: Training,
    parameters: Parameters,
    statistics: Statistics,
    together: Together,
    stem: Stem,
    layers: Vec<ResidualLayer>,
    classifier: Linear,
    /// Every tensor but the statistics under its file name; views of the layers' weights.
    named: Vec<(String, Tensor)>,
    kept: Option<Kept>,
}

/// What backward needs of the last forward.
struct Kept {
    /// None if it is frozen.
    stem: Option<StemKept>,
    /// Of the layers from the lowest trained one on.
    layers: Vec<ResidualKept>,
    last: MapsShape,
    features_bc: Tensor,
}

impl ResNet {
    /// Loads a checkpoint directory (`config.json` and safetensors) for these classes.
    ///
    /// A classifier of another size, or none, is replaced by a new one, drawn as torch draws a dense layer, from `seed`.
    /// Errors: not a ResNet, tensors missing or of the wrong shape, no safetensors; adapters are asked for; a GPU.
    pub fn load(
        dir: &Path,
        classes: &[String],
        training: &Training,
        seed: u64,
        placement: impl Into<Placement>,
    ) -> Result<(ResNet, LoadReport)> {
        let mut config = ResNetConfig::read(dir)?;
        config.classes = classes.to_vec();
        let file = Checkpoint::open(dir, "model", in_file)?;
        ResNet::assemble(config, training, Some(file), seed, placement.into())
    }

    /// A model with random weights, distributed as in transformers, for `config.classes`.
    pub fn random(
        config: ResNetConfig,
        training: &Training,
        seed: u64,
        placement: impl Into<Placement>,
    ) -> Result<ResNet> {
        Ok(ResNet::assemble(config, training, None, seed, placement.into())?.0)
    }

    pub fn config(&self) -> &ResNetConfig {
        &self.config
    }

    pub fn training(&self) -> &Training {
        &self.training
    }

    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    pub fn statistics_mut(&mut self) -> &mut Statistics {
        &mut self.statistics
    }

    /// Every tensor but the statistics, under its file name, as a view.
    pub fn tensors(&self) -> &[(String, Tensor)] {
        &self.named
    }

    /// Samples of all ranks are normalised together from now on.
    pub fn normalize_over(&mut self, collective: Arc<dyn Collective>) {
        self.together = Together::OfAllRanks(collective);
    }

    /// Must a rank without images take part in forward and backward, because others wait for it?
    pub fn needs_all_ranks(&self) -> bool {
        matches!(self.together, Together::OfAllRanks(_)) && self.lowest() < self.layers.len()
    }

    pub fn trainable_count(&self) -> usize {
        build::counts(&self.config, &self.training).0
    }

    pub fn total_count(&self) -> usize {
        build::counts(&self.config, &self.training).1
    }

    /// pixels[b,c,h,w], normalized → logits [b,classes]. Keeps what [`ResNet::backward`] needs.
    pub fn forward(&mut self, pixels_bchw: &Tensor) -> Result<Tensor> {
        self.kept = None;
        if self.images(pixels_bchw)? == 0 && !self.needs_all_ranks() {
            return self.no_logits();
        }
        let (mut x, stem) = match self.stem.is_trained() {
            true => {
                let (x, kept) = self.stem.forward(pixels_bchw, &self.together)?;
                (x, Some(kept))
            }
            false => (self.stem.infer(pixels_bchw)?, None),
        };
        let (frozen, trained) = self.layers.split_at(self.lowest());
        for layer in frozen {
            x = layer.infer(&x)?;
        }
        let mut layers = Vec::with_capacity(trained.len());
        for layer in trained {
            let (y, kept) = layer.forward(&x, &self.together)?;
            layers.push(kept);
            x = y;
        }
        let untouched = match self.stem.is_trained() {
            true => 0,
            false => 1 + frozen.iter().map(ResidualLayer::convolutions).sum::<usize>(),
        };
        let batches = self.statistics.batches.iter_mut().skip(untouched);
        batches.for_each(|batches| *batches += 1);
        let _classifier = part(Part::Classifier);
        let features_bc = pool::mean_pool(&x)?;
        let logits = self.classifier.forward(&features_bc)?;
        self.kept = Some(Kept {
            stem,
            layers,
            last: x.shape(),
            features_bc,
        });
        Ok(logits)
    }

    /// Adds the gradients of one [`ResNet::forward`], given the loss's gradient with respect to its logits [b,classes].
    pub fn backward(&mut self, dlogits_bc: &Tensor) -> Result<()> {
        if dlogits_bc.dims()[0] == 0 && !self.needs_all_ranks() {
            return Ok(());
        }
        let Some(kept) = self.kept.take() else {
            let what = "backward without a forward before it".to_owned();
            return Err(Error::Tensor(candle_core::Error::Msg(what)));
        };
        let classifier = part(Part::Classifier);
        self.classifier.backward_weights(&kept.features_bc, dlogits_bc)?;
        let Kept { stem, mut layers, .. } = kept;
        if layers.is_empty() {
            return Ok(());
        }
        let mut dx = pool::mean_pool_backward(&self.classifier.backward(dlogits_bc)?, kept.last)?;
        drop(classifier);
        let lowest = self.lowest();
        for (i, layer) in self.layers.iter().enumerate().skip(lowest).rev() {
            let kept = layers.pop().expect("one for every trained layer");
            let wanted = match i == lowest && stem.is_none() {
                true => Wanted::WeightsAlone,
                false => Wanted::Input,
            };
            match layer.backward(dx, kept, &self.together, wanted)? {
                Some(next) => dx = next,
                None => return Ok(()),
            }
        }
        match stem {
            Some(stem) => self.stem.backward(&dx, stem, &self.together),
            None => Ok(()),
        }
    }

    /// pixels[b,c,h,w] → logits [b,classes], normalised with the running statistics, keeping nothing.
    pub fn infer(&self, pixels_bchw: &Tensor) -> Result<Tensor> {
        if self.images(pixels_bchw)? == 0 {
            return self.no_logits();
        }
        self.classifier.forward(&pool::mean_pool(&self.body(pixels_bchw)?)?)
    }

    /// Writes `config.json` and `model.safetensors` with the statistics into `dir`, which exists.
    pub fn save_full(&self, dir: &Path) -> Result<()> {
        let path = dir.join("config.json");
        let json = serde_json::to_string_pretty(&self.config.to_json()).expect("JSON out of JSON");
        std::fs::write(&path, json + "\n").at("write", &path)?;
        let mut all = self.named.clone();
        all.extend(self.statistics.named()?);
        weights::write(&dir.join("model.safetensors"), &all)
    }

    fn assemble(
        config: ResNetConfig,
        training: &Training,
        file: Option<Checkpoint>,
        seed: u64,
        placement: Placement,
    ) -> Result<(ResNet, LoadReport)> {
        if matches!(training, Training::Lora(_)) {
            let what = "adapters are for the projections of a transformer, and a ResNet has none";
            return Err(Error::model(
                &config.path,
                what,
                "choose --method full or --method head",
            ));
        }
        if !placement.device.is_cpu() {
            let what = "ResNets are computed on the CPU only";
            return Err(Error::model(&config.path, what, "choose --device cpu"));
        }
        let build::Parts {
            stem,
            layers,
            classifier,
            parameters,
            statistics,
            named,
            report,
        } = build::assemble(&config, training, file, seed)?;
        let resnet = ResNet {
            config,
            training: training.clone(),
            parameters,
            statistics,
            together: Together::OfRank,
            stem,
            layers,
            classifier,
            named,
            kept: None,
        };
        Ok((resnet, report))
    }

    /// The lowest layer in which, or below which, something is trained; as many as there are layers if that is nowhere.
    fn lowest(&self) -> usize {
        match self.stem.is_trained() {
            true => 0,
            false => {
                let lowest = self.layers.iter().position(ResidualLayer::is_trained);
                lowest.unwrap_or(self.layers.len())
            }
        }
    }

    /// Everything below the pooling, as inference does it.
    fn body(&self, pixels_bchw: &Tensor) -> Result<Maps> {
        let mut x = self.stem.infer(pixels_bchw)?;
        for layer in &self.layers {
            x = layer.infer(&x)?;
        }
        Ok(x)
    }

    /// How many images; an error if they have other channels than the model's.
    fn images(&self, pixels_bchw: &Tensor) -> Result<usize> {
        let (b, c, h, w) = pixels_bchw.dims4()?;
        if c == self.config.channels && h > 0 && w > 0 {
            return Ok(b);
        }
        Err(Error::model(
            &self.config.path,
            format!("it takes images of {} channels, not {c}x{h}x{w}", self.config.channels),
            "choose a checkpoint for such images",
        ))
    }

    fn no_logits(&self) -> Result<Tensor> {
        tensor(Vec::new(), (0, self.config.classes.len()))
    }
}
