//! ResNets out of checkpoint directories, out of random values, and back into files.

use std::path::Path;

use super::config::ResNetConfig;
use super::parts::in_file;
use super::{ResNet, build};
use crate::error::{Error, IoContext, Result};
use crate::model::copies::Copies;
use crate::model::weights::{self, Checkpoint};
use crate::model::{LoadReport, Training};
use crate::nn::Together;
use crate::ops::device::Placement;

impl ResNet {
    /// Loads a checkpoint directory (`config.json` and safetensors) for these classes.
    ///
    /// A classifier of another size, or none, is replaced by a new one, drawn as torch draws a dense layer, from `seed`.
    /// Errors: not a ResNet, tensors missing or of the wrong shape, no safetensors; adapters are asked for.
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
        let build::Parts {
            stem,
            layers,
            classifier,
            parameters,
            statistics,
            named,
            report,
        } = build::assemble(&config, training, file, seed, &placement)?;
        let resnet = ResNet {
            training: training.clone(),
            compute: placement.compute,
            starts: build::starts(&config, &parameters),
            config,
            parameters,
            statistics,
            together: Together::OfRank,
            stem,
            layers,
            classifier,
            named,
            copies: Copies::AtEveryForward,
            kept: None,
        };
        Ok((resnet, report))
    }
}
