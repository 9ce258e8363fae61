//! Which of a model's parameters are trained.

use super::LoraConfig;
use crate::recipe::FrozenPart;

/// Which parameters are trained.
#[derive(Clone, Debug, PartialEq)]
pub enum Training {
    /// Adapters and the classifier.
    Lora(LoraConfig),
    /// Everything.
    Full,
    /// Everything but these parts.
    AllBut(Vec<FrozenPart>),
    /// The classifier.
    Head,
}
