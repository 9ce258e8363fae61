//! Models in Hugging Face's layout: explicit forward and backward walks over nn layers, loading and saving.

pub mod adapter;
pub mod architecture;
pub mod config;
pub mod lora;
mod kept;
pub mod names;
pub mod report;
pub mod resnet;
pub mod training;
pub mod vit;
pub mod weights;

mod anatomy;
mod build;
mod copies;
mod fields;
mod fit;
mod role;

pub use crate::ops::dropout::DropoutNames;
pub use architecture::Model;
pub use build::counts;
pub use config::VitConfig;
pub use kept::Activations;
pub use lora::LoraConfig;
pub use report::LoadReport;
pub use resnet::{PlacedConvolution, ResNet, ResNetConfig, Statistics};
pub use training::Training;
pub use vit::Vit;

#[cfg(test)]
mod tests;
