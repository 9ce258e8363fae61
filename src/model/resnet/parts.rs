//! The parts of a ResNet by name: what belongs to which, and which may be frozen.

use super::config::ResNetConfig;
use crate::error::{Error, Result};
use crate::model::anatomy::{Anatomy, Part};
use crate::recipe::FrozenPart;

/// What there is to freeze.
pub(super) fn anatomy(config: &ResNetConfig) -> Anatomy {
    Anatomy {
        bottom: "embedder",
        repeated: "stages",
        count: config.stages.len(),
        top: None,
    }
}

/// The part that a tensor belongs to; None: the classifier.
pub(super) fn part(name: &str) -> Option<Part> {
    match name.strip_prefix("resnet.encoder.stages.") {
        Some(rest) => Some(Part::Repeated(rest.split('.').next()?.parse().ok()?)),
        None => name.starts_with("resnet.").then_some(Part::Bottom),
    }
}

/// Errors: a part that there is not; one that lies above a trained one, through which no gradient goes: it computes as in
/// inference.
pub(super) fn check_frozen(config: &ResNetConfig, frozen: &[FrozenPart]) -> Result<()> {
    let anatomy = anatomy(config);
    anatomy.check(frozen, &config.path)?;
    let is_frozen = |part: Part| anatomy.is_frozen(part, frozen);
    let parts = std::iter::once(Part::Bottom).chain((0..config.stages.len()).map(Part::Repeated));
    match parts.skip_while(|part| is_frozen(*part)).any(is_frozen) {
        false => Ok(()),
        true => Err(Error::model(
            &config.path,
            "--freeze: the frozen parts of a ResNet must be its lowest ones",
            "freeze embedder and the stages from 0 on, or give how many of the lowest stages",
        )),
    }
}

/// The name that files have for a tensor, also if `name` is that of a model without a classifier.
pub(super) fn in_file(name: &str) -> String {
    match name.starts_with("embedder.") || name.starts_with("encoder.") {
        true => format!("resnet.{name}"),
        false => name.to_owned(),
    }
}
