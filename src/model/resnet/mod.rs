//! The residual network (He et al. 2015) as Hugging Face's ResNetForImageClassification computes it: an explicit walk up
//! its layers and down again.
//!
//! What lies below the lowest trained weight computes as in inference, and its running statistics stay as they are.

mod build;
mod config;
mod files;
mod parts;
mod specs;
mod statistics;

use std::sync::Arc;

use candle_core::{DType, Tensor};

pub use config::{ConvolutionShape, LayerType, PlacedConvolution, ResNetConfig, Strided};
pub use statistics::Statistics;

use super::Training;
use super::copies::Copies;
use crate::collective::Collective;
use crate::error::{Error, Result};
use crate::nn::{Linear, ResidualKept, ResidualLayer, Stem, StemKept, Together, Wanted};
use crate::ops::cast::cast;
use crate::ops::maps::{Maps, MapsShape};
use crate::ops::meter::{Part, part};
use crate::ops::pool;
use crate::ops::storage::tensor;
use crate::optim::Parameters;

pub struct ResNet {
    config: ResNetConfig,
    training: Training,
    /// What maps are made of.
    compute: DType,
    parameters: Parameters,
    statistics: Statistics,
    together: Together,
    stem: Stem,
    layers: Vec<ResidualLayer>,
    starts: Vec<usize>, // of each layer's parameters in the flat buffers
    classifier: Linear,
    /// Every tensor but the statistics under its file name; views of the layers' weights.
    named: Vec<(String, Tensor)>,
    copies: Copies,
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

    /// From now on rounded values follow the trained ones when their owner says so; see [`Copies`].
    pub fn refresh_when_told(&mut self) -> Result<()> {
        self.copies = Copies::WhenTold;
        self.parameters.refresh()
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
        let pixels_bchw = self.taken(pixels_bchw)?;
        let (mut x, stem) = match self.stem.is_trained() {
            true => {
                let (x, kept) = self.stem.forward(&pixels_bchw, &self.together)?;
                (x, Some(kept))
            }
            false => (self.stem.infer(&pixels_bchw)?, None),
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
        self.backward_telling(dlogits_bc, &mut |_| Ok(()))
    }

    /// The same; `is_final_from` is told from which place on the flat gradients will not change any more.
    pub fn backward_telling(
        &mut self,
        dlogits_bc: &Tensor,
        is_final_from: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<()> {
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
            let next = layer.backward(dx, kept, &self.together, wanted)?;
            is_final_from(self.starts[i])?;
            match next {
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
        let features_bc = pool::mean_pool(&self.body(&self.taken(pixels_bchw)?)?)?;
        cast(&self.classifier.forward(&features_bc)?, DType::F32)
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

    /// Pixels as products take them, and weights, too.
    fn taken(&self, pixels_bchw: &Tensor) -> Result<Tensor> {
        if self.copies == Copies::AtEveryForward {
            self.parameters.refresh()?;
        }
        cast(pixels_bchw, self.compute)
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
