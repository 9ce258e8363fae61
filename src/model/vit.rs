//! The vision transformer (Dosovitskiy et al. 2020) as Hugging Face's ViTForImageClassification computes it: an explicit
//! walk up its blocks and down again.
//!
//! Computed and kept is only what the result or a trained parameter needs: nothing below the lowest trained block is kept
//! or gets a gradient, and the last block works on CLS alone, which is all that the classifier reads.

use std::path::Path;

use candle_core::{DType, Tensor};

use super::build::{self, Parts, Source};
use super::copies::Copies;
use super::kept::{Activations, Kept, OfBlock, OwnedNames};
use super::names;
use super::weights::{self, Checkpoint};
use super::{LoadReport, Training, VitConfig};
use crate::error::{Error, IoContext, Result};
use crate::nn::{Below, Block, Embeddings, LayerNorm, Linear};
use crate::ops::cast::cast;
use crate::ops::device::Placement;
use crate::ops::dropout::DropoutNames;
use crate::ops::meter::{Part, part};
use crate::ops::storage::tensor;
use crate::optim::Parameters;

pub struct Vit {
    pub(super) config: VitConfig,
    pub(super) training: Training,
    /// What tokens are made of.
    compute: DType,
    pub(super) parameters: Parameters,
    embeddings: Embeddings,
    pub(super) blocks: Vec<Block>,
    starts: Vec<usize>, // of each block's parameters in the flat buffers
    norm: LayerNorm,
    classifier: Linear,
    /// Every tensor of the model under its file name; views of the layers' weights.
    pub(super) named: Vec<(String, Tensor)>,
    activations: Activations,
    pub(super) copies: Copies,
    kept: Option<Kept>,
}

impl Vit {
    /// Loads a checkpoint directory (`config.json` and safetensors) for these classes.
    ///
    /// A classifier of another size, or none, is replaced by a new one: normal(0, 0.02), bias 0, from `seed`. Adapters
    /// start so that the model computes what the checkpoint computes. Errors: not a ViT, tensors missing or of the
    /// wrong shape, no safetensors.
    pub fn load(
        dir: &Path,
        classes: &[String],
        training: &Training,
        seed: u64,
        placement: impl Into<Placement>,
    ) -> Result<(Vit, LoadReport)> {
        let mut config = VitConfig::read(dir)?;
        config.classes = classes.to_vec();
        let checkpoint = Checkpoint::open(dir, "model", names::in_file)?;
        Vit::assemble(config, training, Source::File(checkpoint), seed, placement.into())
    }

    /// A model with random weights, for `config.classes`.
    pub fn random(config: VitConfig, training: &Training, seed: u64, placement: impl Into<Placement>) -> Result<Vit> {
        Ok(Vit::assemble(config, training, Source::Random, seed, placement.into())?.0)
    }

    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    pub fn training(&self) -> &Training {
        &self.training
    }

    /// Every tensor of the model without adapters, under its file name, as a view.
    pub fn tensors(&self) -> &[(String, Tensor)] {
        &self.named
    }

    /// For the forward passes to come; at first all is kept.
    pub fn set_activations(&mut self, activations: Activations) {
        self.activations = activations;
    }

    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// In peft's words: `trainable params`.
    pub fn trainable_count(&self) -> usize {
        build::counts(&self.config, &self.training).0
    }

    /// In peft's words: `all params`.
    pub fn total_count(&self) -> usize {
        build::counts(&self.config, &self.training).1
    }

    /// pixels[b,c,h,w], normalized → logits [b,classes]. Keeps what [`Vit::backward`] needs. Without `dropout` none is done.
    pub fn forward(&mut self, pixels_bchw: &Tensor, dropout: Option<&DropoutNames>) -> Result<Tensor> {
        self.kept = None;
        let b = self.images(pixels_bchw)?;
        if b == 0 {
            return self.no_logits();
        }
        if let Some(names) = dropout.filter(|names| names.samples.len() != b) {
            let what = format!("{} sample names for {b} images", names.samples.len());
            return Err(Error::Tensor(candle_core::Error::Msg(what)));
        }
        let lowest = self.lowest();
        let (mut x, patches_btk) = self.embed(pixels_bchw)?;
        let mut kept_blocks = Vec::with_capacity(self.blocks.len() - lowest);
        for (i, block) in self.blocks.iter().enumerate() {
            let (y, kept) = block.forward(&x, dropout)?;
            if i >= lowest {
                kept_blocks.push(match self.activations {
                    Activations::Kept => OfBlock::All(kept),
                    Activations::Recomputed => OfBlock::Input(x),
                });
            }
            x = y;
        }
        let (features_b1d, moments) = self.norm.forward(&x)?;
        let _classifier = part(Part::Classifier);
        let logits = self.classifier.forward(&features_b1d)?.squeeze(1)?;
        self.kept = Some(Kept {
            patches_btk: self.embeddings.is_trained().then_some(patches_btk),
            blocks: kept_blocks,
            x_b1d: x,
            moments,
            features_b1d,
            names: dropout.map(OwnedNames::of),
        });
        Ok(logits)
    }

    /// Adds the gradients of one [`Vit::forward`], given the loss's gradient with respect to its logits [b,classes].
    pub fn backward(&mut self, dlogits_bc: &Tensor) -> Result<()> {
        self.backward_telling(dlogits_bc, &mut |_| Ok(()))
    }

    /// The same; `is_final_from` is told from which place on the flat gradients will not change any more.
    pub fn backward_telling(
        &mut self,
        dlogits_bc: &Tensor,
        is_final_from: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        if dlogits_bc.dims()[0] == 0 {
            return Ok(());
        }
        let Some(mut kept) = self.kept.take() else {
            let what = "backward without a forward before it".to_owned();
            return Err(Error::Tensor(candle_core::Error::Msg(what)));
        };
        let dlogits_b1c = dlogits_bc.unsqueeze(1)?;
        let classifier = part(Part::Classifier);
        self.classifier.backward_weights(&kept.features_b1d, &dlogits_b1c)?;
        let lowest = self.lowest();
        if lowest == self.blocks.len() && !self.norm.is_trained() {
            return Ok(());
        }
        let names = kept.names.take();
        let names = names.as_ref().map(OwnedNames::names);
        let dfeatures = self.classifier.backward(&dlogits_b1c)?;
        drop(classifier);
        if lowest == self.blocks.len() {
            return self.norm.backward_weights(&dfeatures, &kept.x_b1d, &kept.moments);
        }
        let mut dx = kept.x_b1d.zeros_like()?;
        self.norm.backward_into(&dx, &dfeatures, &kept.x_b1d, &kept.moments)?;
        for (i, block) in self.blocks.iter().enumerate().skip(lowest).rev() {
            let block_kept = match kept.blocks.pop().expect("one for every block from the lowest on") {
                OfBlock::All(kept) => kept,
                OfBlock::Input(x_bsd) => block.activations(&x_bsd, names.as_ref())?,
            };
            let below = match i == lowest && !self.embeddings.is_trained() {
                true => Below::NotNeeded,
                false => Below::Needed,
            };
            let next = block.backward(dx, block_kept, names.as_ref(), below)?;
            is_final_from(self.starts[i])?;
            match next {
                Some(next) => dx = next,
                None => return Ok(()),
            }
        }
        match &kept.patches_btk {
            Some(patches_btk) => self.embeddings.backward(&dx, patches_btk),
            None => Ok(()),
        }
    }

    /// Drops what the last [`Vit::forward`] kept.
    pub fn forget(&mut self) {
        self.kept = None;
    }

    /// pixels[b,c,h,w] → f32 logits [b,classes], keeping nothing.
    pub fn infer(&self, pixels_bchw: &Tensor) -> Result<Tensor> {
        if self.images(pixels_bchw)? == 0 {
            return self.no_logits();
        }
        let (mut x, _) = self.embed(pixels_bchw)?;
        for block in &self.blocks {
            x = block.forward(&x, None)?.0;
        }
        let (features_b1d, _) = self.norm.forward(&x)?;
        cast(&self.classifier.forward(&features_b1d)?.squeeze(1)?, DType::F32)
    }

    /// Writes `config.json` and `model.safetensors` into `dir`, which exists. Adapters are merged into the weights.
    pub fn save_full(&self, dir: &Path) -> Result<()> {
        let path = dir.join("config.json");
        let json = serde_json::to_string_pretty(&self.config.to_json()).expect("JSON out of JSON");
        std::fs::write(&path, json + "\n").at("write", &path)?;
        weights::write(&dir.join("model.safetensors"), &self.merged()?)
    }

    fn assemble(
        config: VitConfig,
        training: &Training,
        source: Source,
        seed: u64,
        placement: Placement,
    ) -> Result<(Vit, LoadReport)> {
        let Parts {
            embeddings,
            blocks,
            norm,
            classifier,
            parameters,
            named,
            report,
        } = build::assemble(&config, training, source, seed, &placement)?;
        let vit = Vit {
            starts: parameters.starts(blocks.len(), |layer| format!("encoder.layer.{layer}.")),
            config,
            training: training.clone(),
            compute: placement.compute,
            parameters,
            embeddings,
            blocks,
            norm,
            classifier,
            named,
            activations: Activations::Kept,
            copies: Copies::AtEveryForward,
            kept: None,
        };
        Ok((vit, report))
    }

    /// Pixels to tokens, and the patches on the way; all copies of weights are up to date afterwards.
    fn embed(&self, pixels_bchw: &Tensor) -> Result<(Tensor, Tensor)> {
        if self.copies == Copies::AtEveryForward {
            self.refresh()?;
        }
        self.embeddings.forward(&cast(pixels_bchw, self.compute)?)
    }

    /// How many images; an error if they are not of the model's size.
    fn images(&self, pixels_bchw: &Tensor) -> Result<usize> {
        let (b, c, h, w) = pixels_bchw.dims4()?;
        let VitConfig {
            channels,
            image_height,
            image_width,
            ..
        } = self.config;
        if [c, h, w] == [channels, image_height, image_width] {
            return Ok(b);
        }
        Err(Error::model(
            &self.config.path,
            format!("it takes images of {channels}x{image_height}x{image_width}, not {c}x{h}x{w}"),
            "set the size in preprocessor_config.json to the model's image_size",
        ))
    }

    fn no_logits(&self) -> Result<Tensor> {
        tensor(Vec::new(), (0, self.config.classes.len()))
    }

    /// The lowest block in which, or below which, something is trained; as many as there are blocks if that is nowhere.
    pub fn lowest(&self) -> usize {
        match self.embeddings.is_trained() {
            true => 0,
            false => self
                .blocks
                .iter()
                .position(Block::is_trained)
                .unwrap_or(self.blocks.len()),
        }
    }
}
