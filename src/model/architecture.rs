//! Any of the models that there are, behind the calls that training makes.

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;

use super::fields;
use super::{Activations, DropoutNames, LoadReport, ResNet, Statistics, Training, Vit};
use crate::collective::Collective;
use crate::error::{Error, Result};
use crate::ops::device::Placement;
use crate::optim::Parameters;
use crate::recipe::AdapterFormat;

/// A classifier of images.
pub enum Model {
    Vit(Box<Vit>),
    ResNet(Box<ResNet>),
}

impl Model {
    /// Loads the checkpoint directory `dir` for these classes, as the model that its `config.json` names.
    ///
    /// Errors: no such model; whatever that model refuses.
    pub fn load(
        dir: &Path,
        classes: &[String],
        training: &Training,
        seed: u64,
        placement: impl Into<Placement>,
    ) -> Result<(Model, LoadReport)> {
        let (json, path) = fields::read(dir)?;
        match json.get("model_type").and_then(|name| name.as_str()) {
            Some("resnet") => {
                let (resnet, report) = ResNet::load(dir, classes, training, seed, placement)?;
                Ok((Model::ResNet(Box::new(resnet)), report))
            }
            // Says itself what is wrong with a file without a model_type.
            Some("vit") | None => {
                let (vit, report) = Vit::load(dir, classes, training, seed, placement)?;
                Ok((Model::Vit(Box::new(vit)), report))
            }
            Some(other) => Err(Error::model(
                &path,
                format!("model_type is \"{other}\", which dtrain does not know"),
                "give a checkpoint of a ViT (model_type \"vit\") or a ResNet (\"resnet\")",
            )),
        }
    }

    /// Names of the classes in `dir/config.json`, by number.
    pub fn classes_in(dir: &Path) -> Result<Vec<String>> {
        Ok(fields::class_names(&fields::read(dir)?.0))
    }

    /// Names of the classes, by number.
    pub fn classes(&self) -> &[String] {
        match self {
            Model::Vit(vit) => &vit.config().classes,
            Model::ResNet(resnet) => &resnet.config().classes,
        }
    }

    /// Takes the values of an adapter over. Errors: it does not fit; the model takes none.
    pub fn load_adapter(&mut self, dir: &Path) -> Result<LoadReport> {
        match self {
            Model::Vit(vit) => vit.load_adapter(dir),
            Model::ResNet(_) => Err(no_adapters(dir)),
        }
    }

    pub fn training(&self) -> &Training {
        match self {
            Model::Vit(vit) => vit.training(),
            Model::ResNet(resnet) => resnet.training(),
        }
    }

    pub fn parameters(&self) -> &Parameters {
        match self {
            Model::Vit(vit) => vit.parameters(),
            Model::ResNet(resnet) => resnet.parameters(),
        }
    }

    /// Running statistics of normalisations, if the model has such.
    pub fn statistics(&self) -> Option<&Statistics> {
        match self {
            Model::Vit(_) => None,
            Model::ResNet(resnet) => Some(resnet.statistics()),
        }
    }

    pub fn statistics_mut(&mut self) -> Option<&mut Statistics> {
        match self {
            Model::Vit(_) => None,
            Model::ResNet(resnet) => Some(resnet.statistics_mut()),
        }
    }

    /// Whatever is normalised over samples is normalised over those of all ranks from now on.
    pub fn normalize_over(&mut self, collective: Arc<dyn Collective>) {
        if let Model::ResNet(resnet) = self {
            resnet.normalize_over(collective);
        }
    }

    /// Must a rank without images take part in forward and backward, because others wait for it?
    pub fn needs_all_ranks(&self) -> bool {
        match self {
            Model::Vit(_) => false,
            Model::ResNet(resnet) => resnet.needs_all_ranks(),
        }
    }

    /// Is all that forward and backward do asked of the device? Otherwise they cannot be recorded and replayed.
    pub fn computes_on_device_alone(&self) -> bool {
        match self {
            Model::Vit(_) => true,
            // Counts the batches of its running statistics.
            Model::ResNet(_) => false,
        }
    }

    /// From now on whoever changes trained values says so, by [`Model::refresh`] or [`Model::place_adapters`]: copies that are
    /// computed with are not made anew at every forward pass.
    pub fn refresh_when_told(&mut self) -> Result<()> {
        match self {
            Model::Vit(vit) => vit.refresh_when_told(),
            Model::ResNet(resnet) => resnet.refresh_when_told(),
        }
    }

    /// After trained values were changed.
    pub fn refresh(&self) -> Result<()> {
        match self {
            Model::Vit(vit) => vit.refresh(),
            Model::ResNet(resnet) => resnet.parameters().refresh(),
        }
    }

    /// After the optimizer changed them, which on a GPU rounds them, too.
    pub fn place_adapters(&self) -> Result<()> {
        match self {
            Model::Vit(vit) => vit.place_adapters(),
            Model::ResNet(_) => Ok(()),
        }
    }

    /// Drops what was kept for a backward pass that does not come.
    pub fn forget(&mut self) {
        if let Model::Vit(vit) = self {
            vit.forget();
        }
    }

    /// What is kept for the backward pass. Errors: the model cannot recompute.
    pub fn set_activations(&mut self, activations: Activations) -> Result<()> {
        match (self, activations) {
            (Model::Vit(vit), _) => vit.set_activations(activations),
            (Model::ResNet(_), Activations::Kept) => {}
            (Model::ResNet(_), Activations::Recomputed) => {
                return Err(Error::usage(
                    "--gradient-checkpointing is for ViTs: a ResNet keeps what its backward pass needs",
                    "leave the flag out",
                ));
            }
        }
        Ok(())
    }

    /// In peft's words: `trainable params`.
    pub fn trainable_count(&self) -> usize {
        match self {
            Model::Vit(vit) => vit.trainable_count(),
            Model::ResNet(resnet) => resnet.trainable_count(),
        }
    }

    /// In peft's words: `all params`.
    pub fn total_count(&self) -> usize {
        match self {
            Model::Vit(vit) => vit.total_count(),
            Model::ResNet(resnet) => resnet.total_count(),
        }
    }

    /// pixels[b,c,h,w], normalized → logits [b,classes]. Keeps what [`Model::backward`] needs. Without `dropout` none is
    /// done.
    pub fn forward(&mut self, pixels_bchw: &Tensor, dropout: Option<&DropoutNames>) -> Result<Tensor> {
        match self {
            Model::Vit(vit) => vit.forward(pixels_bchw, dropout),
            Model::ResNet(resnet) => resnet.forward(pixels_bchw),
        }
    }

    /// Adds the gradients of one [`Model::forward`], given the loss's gradient with respect to its logits [b,classes].
    pub fn backward(&mut self, dlogits_bc: &Tensor) -> Result<()> {
        match self {
            Model::Vit(vit) => vit.backward(dlogits_bc),
            Model::ResNet(resnet) => resnet.backward(dlogits_bc),
        }
    }

    /// The same; `is_final_from` is told, again and again, from which place on the flat gradients will not change any more. At
    /// the end they are final everywhere.
    pub fn backward_telling(
        &mut self,
        dlogits_bc: &Tensor,
        is_final_from: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        match self {
            Model::Vit(vit) => vit.backward_telling(dlogits_bc, is_final_from),
            Model::ResNet(resnet) => resnet.backward_telling(dlogits_bc, is_final_from),
        }
    }

    /// pixels[b,c,h,w] → logits [b,classes], keeping nothing.
    pub fn infer(&self, pixels_bchw: &Tensor) -> Result<Tensor> {
        match self {
            Model::Vit(vit) => vit.infer(pixels_bchw),
            Model::ResNet(resnet) => resnet.infer(pixels_bchw),
        }
    }

    /// Writes `config.json` and `model.safetensors` into `dir`, which exists. Adapters are merged into the weights.
    pub fn save_full(&self, dir: &Path) -> Result<()> {
        match self {
            Model::Vit(vit) => vit.save_full(dir),
            Model::ResNet(resnet) => resnet.save_full(dir),
        }
    }

    /// Writes the adapter as peft does. Errors: the model has none.
    pub fn save_adapter(&self, dir: &Path, format: AdapterFormat, base_model: &str) -> Result<()> {
        match self {
            Model::Vit(vit) => vit.save_adapter(dir, format, base_model),
            Model::ResNet(_) => Err(no_adapters(dir)),
        }
    }
}

fn no_adapters(dir: &Path) -> Error {
    let what = "adapters are for the projections of a transformer, and a ResNet has none";
    Error::model(dir, what, "choose --method full or --method head")
}
