//! Changes of u8 pictures, equal to what torchvision makes of Pillow images, bit for bit.
//!
//! A picture lies in three planes, `[3, height, width]` (chw), rows without gaps. Pillow's Blend.c, Convert.c, Filter.c,
//! Geometry.c, ImageEnhance and ImageOps are the specification, in the versions of Pillow 13; torchvision's `functional` says
//! with which numbers they are called. What is changed, and by how much, is decided in `data`.

mod affine;
mod blend;
mod clip;
mod erase;
mod hue;
mod planes;
mod smooth;
mod tables;

use affine::Affine;
pub use erase::{Erased, Filling};

/// A change of a whole picture. Pixels that nothing is moved to become black.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    Identity,
    /// Rows are moved by this many pixels per row of their height, to the left if it is positive.
    ShearX(f64),
    /// Columns are moved likewise, upwards.
    ShearY(f64),
    /// To the right.
    TranslateX(i64),
    /// Downwards.
    TranslateY(i64),
    /// By so many degrees, counterclockwise.
    Rotate(f64),
    /// 0 is black, 1 the picture itself.
    Brightness(f32),
    /// 0 is gray, 1 the picture itself.
    Saturation(f32),
    /// 0 is the mean gray, 1 the picture itself.
    Contrast(f32),
    /// 0 is smoothed, 1 the picture itself.
    Sharpness(f32),
    /// Turns hues by this share of the circle, from -0.5 to 0.5.
    Hue(f64),
    /// Keeps so many bits of a value, 1 to 8.
    Posterize(u32),
    /// Inverts values from this one on.
    Solarize(f64),
    /// Spreads each channel's values from 0 to 255.
    AutoContrast,
    /// Makes each channel's values equally frequent.
    Equalize,
}

/// A picture that is being changed. Its memory only ever grows.
#[derive(Debug, Default)]
pub struct Canvas {
    width: usize,
    height: usize,
    values_chw: Vec<u8>,
    /// For changes that need all of the old picture while they make the new one.
    spare: Vec<u8>,
}

impl Canvas {
    /// Takes on this size; what the values are is then undefined.
    pub fn reshape(&mut self, width: usize, height: usize) {
        (self.width, self.height) = (width, height);
        self.values_chw.resize(3 * width * height, 0);
        self.spare.resize(3 * width * height, 0);
    }

    pub fn values_chw(&self) -> &[u8] {
        &self.values_chw
    }

    pub fn values_chw_mut(&mut self) -> &mut [u8] {
        &mut self.values_chw
    }

    pub fn row_mut(&mut self, channel: usize, y: usize) -> &mut [u8] {
        &mut self.values_chw[(channel * self.height + y) * self.width..][..self.width]
    }

    pub fn apply(&mut self, change: Change) {
        if self.values_chw.is_empty() {
            return;
        }
        let (width, height) = (self.width, self.height);
        let values = &mut self.values_chw[..];
        match change {
            Change::Identity => {}
            Change::ShearX(level) => self.transform(Affine::shear_x(level)),
            Change::ShearY(level) => self.transform(Affine::shear_y(level)),
            Change::TranslateX(pixels) => self.transform(Affine::translation(pixels, 0)),
            Change::TranslateY(pixels) => self.transform(Affine::translation(0, pixels)),
            Change::Rotate(degrees) => self.transform(Affine::rotation(degrees, width, height)),
            Change::Brightness(factor) => tables::apply(values, &[tables::brightness(factor); 3]),
            Change::Contrast(factor) => {
                let mean = blend::mean_gray(values);
                tables::apply(values, &[tables::contrast(mean, factor); 3]);
            }
            Change::Saturation(factor) => blend::saturate(values, factor),
            Change::Sharpness(factor) => {
                smooth::smooth(values, &mut self.spare, (width, height));
                blend::blend(&self.spare, values, factor);
            }
            Change::Hue(share) => hue::turn(values, share),
            Change::Posterize(bits) => tables::apply(values, &[tables::posterize(bits); 3]),
            Change::Solarize(threshold) => tables::apply(values, &[tables::solarize(threshold); 3]),
            Change::AutoContrast => {
                let tables = tables::histograms(values).map(|histogram| tables::auto_contrast(&histogram));
                tables::apply(values, &tables);
            }
            Change::Equalize => {
                let tables = tables::histograms(values).map(|histogram| tables::equalize(&histogram));
                tables::apply(values, &tables);
            }
        }
    }

    fn transform(&mut self, map: Affine) {
        map.transform(&self.values_chw, &mut self.spare, (self.width, self.height));
        std::mem::swap(&mut self.values_chw, &mut self.spare);
    }
}

#[cfg(test)]
mod tests;
