//! A convolution without a bias and the batch normalisation behind it.

use candle_core::Tensor;

use super::batch_norm::{BatchNorm, Together, Upstream};
use super::{Weight, residual_layer::Wanted};
use crate::error::Result;
use crate::ops::batch_norm::Then;
use crate::ops::convolution::{self, Kernel};
use crate::ops::maps::{Maps, MapsShape};
use crate::ops::matmul::Products;
use crate::ops::meter::{Part, UnderWay, part};
use crate::ops::normalization::{Beside, Normalization, Passes, normalized};
use crate::ops::pool::{self, Places};

#[derive(Clone)]
pub struct Convolution {
    /// [o,i,k,k]
    pub weight: Weight,
    pub kernel: Kernel,
    pub products: Products,
    pub norm: BatchNorm,
}

/// What the backward pass needs of a convolution besides its input.
pub struct ConvolutionKept {
    /// Its result, not normalised.
    pub z: Maps,
    pub norm: Normalization,
}

impl ConvolutionKept {
    /// The gradient of its normalised values, of which all are used.
    pub fn upstream<'a>(&self, g: &'a Maps) -> Result<Upstream<'a>> {
        Upstream::new(g, Passes::All, &self.z, &self.norm)
    }

    /// The gradient of its normalised and rectified values.
    pub fn rectified<'a>(&self, g: &'a Maps) -> Result<Upstream<'a>> {
        Upstream::new(g, Passes::Positive, &self.z, &self.norm)
    }
}

impl Convolution {
    /// The convolution of x, and how it is to be normalised.
    pub fn forward(&self, x: &Maps, together: &Together) -> Result<ConvolutionKept> {
        let z = self.convolve(x)?;
        let norm = self.norm.train(&z, together)?;
        Ok(ConvolutionKept { z, norm })
    }

    pub fn convolve(&self, x: &Maps) -> Result<Maps> {
        let _convolution = self.under_way();
        convolution::convolution(x, &self.weight.value, self.kernel, self.products)
    }

    /// From the gradient of the normalised values to that of the convolution's result; adds to the gradients of all
    /// weights. `x` is what forward got.
    pub fn backward_weights(
        &self,
        upstream: Upstream,
        x: &Maps,
        kept: &ConvolutionKept,
        together: &Together,
        wanted: Wanted,
    ) -> Result<Maps> {
        let margin = match wanted {
            Wanted::Input => self.kernel.padding(),
            Wanted::WeightsAlone => 0,
        };
        let dz = self.norm.backward(upstream, &kept.z, &kept.norm, together, margin)?;
        if let Some(gradient) = &self.weight.gradient {
            let _convolution = self.under_way();
            convolution::convolution_backward_weights(gradient, &dz, x, self.kernel, self.products)?;
        }
        Ok(dz)
    }

    /// From there to the gradient with respect to x.
    pub fn backward(&self, dz: &Maps, like: MapsShape) -> Result<Maps> {
        let _convolution = self.under_way();
        convolution::convolution_backward(dz, &self.weight.value, self.kernel, like, self.products)
    }

    /// The same, added to `dx` in place.
    pub fn backward_into(&self, dx: &Maps, dz: &Maps) -> Result<()> {
        let _convolution = self.under_way();
        convolution::convolution_backward_into(dx, dz, &self.weight.value, self.kernel, self.products)
    }

    fn under_way(&self) -> UnderWay {
        let Kernel { side, stride } = self.kernel;
        part(Part::Convolution { side, stride })
    }
}

/// Images into maps: a convolution, normalised and rectified, and the largest of neighbours.
#[derive(Clone)]
pub struct Stem {
    pub convolution: Convolution,
    /// Of the result.
    pub margin: usize,
}

pub struct StemKept {
    x: Maps,
    convolution: ConvolutionKept,
    places: Places,
    pooled: MapsShape,
}

impl Stem {
    /// Are its weights trained?
    pub fn is_trained(&self) -> bool {
        self.convolution.weight.gradient.is_some()
    }

    /// Images with channels outermost [b,c,h,w] → maps.
    pub fn forward(&self, x_bchw: &Tensor, together: &Together) -> Result<(Maps, StemKept)> {
        let _norm = part(Part::BatchNorm);
        let x = Maps::from_bchw(x_bchw, self.convolution.kernel.padding())?;
        let kept = self.convolution.forward(&x, together)?;
        let a = normalized(&kept.z, &kept.norm, Beside::Nothing, Then::Rectified, 0)?;
        let pooled = a.shape();
        let (y, places) = {
            let _pooling = part(Part::Pooling);
            pool::max_pool(&a, self.margin)?
        };
        let kept = StemKept {
            x,
            convolution: kept,
            places,
            pooled,
        };
        Ok((y, kept))
    }

    /// The same as inference does it.
    pub fn infer(&self, x_bchw: &Tensor) -> Result<Maps> {
        let x = Maps::from_bchw(x_bchw, self.convolution.kernel.padding())?;
        let z = self.convolution.convolve(&x)?;
        let a = normalized(
            &z,
            &self.convolution.norm.running()?,
            Beside::Nothing,
            Then::Rectified,
            0,
        )?;
        Ok(pool::max_pool(&a, self.margin)?.0)
    }

    /// Adds to the gradients of all weights. There is nothing below.
    pub fn backward(&self, dy: &Maps, kept: StemKept, together: &Together) -> Result<()> {
        let _norm = part(Part::BatchNorm);
        let da = {
            let _pooling = part(Part::Pooling);
            pool::max_pool_backward(dy, &kept.places, kept.pooled)?
        };
        let upstream = kept.convolution.rectified(&da)?;
        let wanted = Wanted::WeightsAlone;
        self.convolution
            .backward_weights(upstream, &kept.x, &kept.convolution, together, wanted)?;
        Ok(())
    }
}
