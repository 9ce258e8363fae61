//! The flags of the augmentations of training samples.

use clap::Args;
use serde::Serialize;

use crate::data::Augmentations;
use crate::recipe::{ColorJitter, ErasingMode, RandAugment};

#[derive(Args, Debug, Serialize)]
#[command(next_help_heading = "Data")]
pub struct Augmentation {
    /// torchvision's RandAugment of training samples: 2,9; 0,0: none
    #[arg(long, value_name = "NUM_OPS,MAGNITUDE[,BINS]", value_parser = rand_augment)]
    #[serde(skip_serializing_if = "Option::is_none")]
    rand_augment: Option<RandAugment>,
    /// torchvision's ColorJitter of training samples: 0.4,0.4,0.4,0.1; 0,0,0: none
    #[arg(long, value_name = "BRIGHTNESS,CONTRAST,SATURATION[,HUE]", value_parser = color_jitter)]
    #[serde(skip_serializing_if = "Option::is_none")]
    color_jitter: Option<ColorJitter>,
    /// Share of the training samples of which a random rectangle is erased
    #[arg(long, value_name = "P")]
    #[serde(skip_serializing_if = "Option::is_none")]
    random_erasing: Option<f64>,
    /// What it is filled with: 0, a normal deviate per channel, or one per pixel
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    random_erasing_mode: Option<ErasingMode>,
}

impl Augmentation {
    /// What is not typed is off.
    pub fn typed(&self) -> Augmentations {
        let off = Augmentations::default();
        Augmentations {
            rand_augment: self.rand_augment.unwrap_or(off.rand_augment),
            color_jitter: self.color_jitter.unwrap_or(off.color_jitter),
            random_erasing: self.random_erasing.unwrap_or(off.random_erasing),
            random_erasing_mode: self.random_erasing_mode.unwrap_or(off.random_erasing_mode),
        }
    }
}

fn rand_augment(typed: &str) -> Result<RandAugment, String> {
    Ok(list(typed)?.try_into()?)
}

fn color_jitter(typed: &str) -> Result<ColorJitter, String> {
    Ok(list(typed)?.try_into()?)
}

/// Numbers with commas between them.
fn list<T: std::str::FromStr<Err: std::fmt::Display>>(typed: &str) -> Result<Vec<T>, String> {
    typed
        .split(',')
        .map(|number| number.trim().parse().map_err(|error| format!("`{number}`: {error}")))
        .collect()
}
