//! A residual layer (He et al. 2015): y = relu(main(x) + shortcut(x)), where main is two or three convolutions with
//! rectifiers between them, and the shortcut is x itself or a convolution of it.
//!
//! Kept for the backward pass are the results of convolutions before they are normalised, and the inputs of convolutions.

use super::batch_norm::{Together, Upstream};
use super::convolution::{Convolution, ConvolutionKept};
use crate::error::Result;
use crate::ops::batch_norm::Then;
use crate::ops::maps::Maps;
use crate::ops::meter::{Part, part};
use crate::ops::normalization::{Beside, normalized, rectified_gradient_sums};

/// Which gradients a backward pass shall find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Input,
    WeightsAlone,
}

#[derive(Clone)]
pub struct ResidualLayer {
    /// In order; at least one.
    pub main: Vec<Convolution>,
    pub shortcut: Option<Convolution>,
    /// Of the result: what the next layer's first convolution needs.
    pub margin: usize,
}

/// What the backward pass needs of the forward pass.
pub struct ResidualKept {
    /// Each convolution's input and result.
    main: Vec<(Maps, ConvolutionKept)>,
    shortcut: Option<ConvolutionKept>,
    y: Maps,
}

impl ResidualLayer {
    /// Are its weights trained?
    pub fn is_trained(&self) -> bool {
        self.main[0].weight.gradient.is_some()
    }

    /// How many there are, each with a normalisation.
    pub fn convolutions(&self) -> usize {
        self.main.len() + usize::from(self.shortcut.is_some())
    }

    pub fn forward(&self, x: &Maps, together: &Together) -> Result<(Maps, ResidualKept)> {
        let _norms = part(Part::BatchNorm);
        let mut main: Vec<(Maps, ConvolutionKept)> = Vec::with_capacity(self.main.len());
        for convolution in &self.main {
            let input = match main.last() {
                None => x.clone(),
                Some((_, kept)) => {
                    let margin = convolution.kernel.padding();
                    normalized(&kept.z, &kept.norm, Beside::Nothing, Then::Rectified, margin)?
                }
            };
            let kept = convolution.forward(&input, together)?;
            main.push((input, kept));
        }
        let shortcut = match &self.shortcut {
            Some(shortcut) => Some(shortcut.forward(x, together)?),
            None => None,
        };
        let beside = match &shortcut {
            Some(kept) => Beside::Normalized(&kept.z, &kept.norm),
            None => Beside::Maps(x),
        };
        let (_, last) = main.last().expect("a layer has convolutions");
        let y = normalized(&last.z, &last.norm, beside, Then::Rectified, self.margin)?;
        let kept = ResidualKept {
            main,
            shortcut,
            y: y.clone(),
        };
        Ok((y, kept))
    }

    /// The same as inference does it: normalised with the running statistics.
    pub fn infer(&self, x: &Maps) -> Result<Maps> {
        let mut input = x.clone();
        for (i, convolution) in self.main.iter().enumerate() {
            let z = convolution.convolve(&input)?;
            let affine = convolution.norm.running()?;
            if let Some(next) = self.main.get(i + 1) {
                input = normalized(&z, &affine, Beside::Nothing, Then::Rectified, next.kernel.padding())?;
                continue;
            }
            return match &self.shortcut {
                None => normalized(&z, &affine, Beside::Maps(x), Then::Rectified, self.margin),
                Some(shortcut) => {
                    let beside = shortcut.convolve(x)?;
                    let beside = Beside::Normalized(&beside, &shortcut.norm.running()?);
                    normalized(&z, &affine, beside, Then::Rectified, self.margin)
                }
            };
        }
        Ok(input)
    }

    /// From dy, which has no margin and is used up, to dx (None if it is not wanted); adds to the gradients of all weights.
    pub fn backward(
        &self,
        dy: Maps,
        mut kept: ResidualKept,
        together: &Together,
        wanted: Wanted,
    ) -> Result<Option<Maps>> {
        let _norms = part(Part::BatchNorm);
        let x = kept.main[0].0.clone();
        let (_, last) = kept.main.last().expect("a layer has convolutions");
        let mut of_last = Some(rectified_gradient_sums(&dy, &kept.y, &last.z, &last.norm)?);
        let dx = match (&self.shortcut, kept.shortcut.take()) {
            (Some(shortcut), Some(kept)) => {
                let upstream = kept.upstream(&dy)?;
                let dz = shortcut.backward_weights(upstream, &x, &kept, together, wanted)?;
                match wanted {
                    Wanted::Input => Some(shortcut.backward(&dz, x.shape())?),
                    Wanted::WeightsAlone => None,
                }
            }
            _ => None,
        };
        let mut g = dy.clone();
        for (i, convolution) in self.main.iter().enumerate().rev() {
            let (input, of_this) = kept.main.pop().expect("one for every convolution");
            let upstream = match of_last.take() {
                Some(sums) => Upstream::summed(&g, sums),
                None => of_this.rectified(&g)?,
            };
            let of_this_wanted = if i > 0 { Wanted::Input } else { wanted };
            let dz = convolution.backward_weights(upstream, &input, &of_this, together, of_this_wanted)?;
            drop(of_this);
            if i > 0 {
                g = convolution.backward(&dz, input.shape())?;
                continue;
            }
            if wanted == Wanted::WeightsAlone {
                return Ok(None);
            }
            // What went past the main way is there already.
            let dx = dx.unwrap_or(dy);
            convolution.backward_into(&dx, &dz)?;
            return Ok(Some(dx));
        }
        unreachable!("a layer has convolutions")
    }
}
