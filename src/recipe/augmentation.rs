//! Values of the augmentations that have several: lists in the order of torchvision's arguments, in TOML and as flags.

use serde::{Deserialize, Serialize};

/// torchvision's `RandAugment(num_ops, magnitude, num_magnitude_bins)`: `[2, 9]`, or `[2, 9, 31]`. Without ops it is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u32>", into = "Vec<u32>")]
pub struct RandAugment {
    pub num_ops: u32,
    /// 0 changes nothing, or little; below the number of bins.
    pub magnitude: u32,
    pub num_magnitude_bins: u32,
}

/// torchvision's `ColorJitter(brightness, contrast, saturation, hue)`: `[0.4, 0.4, 0.4, 0.1]`, or without the hue. Where all
/// are 0 it is off.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<f64>", into = "Vec<f64>")]
pub struct ColorJitter {
    /// The factor lies between 1 - x, not below 0, and 1 + x; that of contrast and saturation likewise.
    pub brightness: f64,
    pub contrast: f64,
    pub saturation: f64,
    /// Largest turn of the hue, in whole circles.
    pub hue: f64,
}

/// What random erasing fills rectangles with, under timm's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum ErasingMode {
    /// 0, after normalization: torchvision's `value=0`.
    Const,
    /// One normal deviate per channel.
    Rand,
    /// One normal deviate per channel and pixel: torchvision's `value="random"`.
    Pixel,
}

impl RandAugment {
    pub fn is_on(&self) -> bool {
        self.num_ops > 0
    }
}

impl ColorJitter {
    pub fn is_on(&self) -> bool {
        *self != ColorJitter::default()
    }
}

impl Default for RandAugment {
    fn default() -> Self {
        RandAugment {
            num_ops: 0,
            magnitude: 9,
            num_magnitude_bins: 31,
        }
    }
}

impl Default for ColorJitter {
    fn default() -> Self {
        ColorJitter {
            brightness: 0.0,
            contrast: 0.0,
            saturation: 0.0,
            hue: 0.0,
        }
    }
}

impl TryFrom<Vec<u32>> for RandAugment {
    type Error = &'static str;

    fn try_from(values: Vec<u32>) -> Result<Self, Self::Error> {
        let (num_ops, magnitude, num_magnitude_bins) = match values[..] {
            [num_ops, magnitude] => (num_ops, magnitude, RandAugment::default().num_magnitude_bins),
            [num_ops, magnitude, num_magnitude_bins] => (num_ops, magnitude, num_magnitude_bins),
            _ => return Err("RandAugment takes num_ops,magnitude or num_ops,magnitude,num_magnitude_bins"),
        };
        Ok(RandAugment {
            num_ops,
            magnitude,
            num_magnitude_bins,
        })
    }
}

impl From<RandAugment> for Vec<u32> {
    fn from(of: RandAugment) -> Vec<u32> {
        vec![of.num_ops, of.magnitude, of.num_magnitude_bins]
    }
}

impl TryFrom<Vec<f64>> for ColorJitter {
    type Error = &'static str;

    fn try_from(values: Vec<f64>) -> Result<Self, Self::Error> {
        let (brightness, contrast, saturation, hue) = match values[..] {
            [brightness, contrast, saturation] => (brightness, contrast, saturation, 0.0),
            [brightness, contrast, saturation, hue] => (brightness, contrast, saturation, hue),
            _ => return Err("ColorJitter takes brightness,contrast,saturation or brightness,contrast,saturation,hue"),
        };
        Ok(ColorJitter {
            brightness,
            contrast,
            saturation,
            hue,
        })
    }
}

impl From<ColorJitter> for Vec<f64> {
    fn from(of: ColorJitter) -> Vec<f64> {
        vec![of.brightness, of.contrast, of.saturation, of.hue]
    }
}
