//! Images into tokens: patches through a dense layer, CLS in front, position embeddings on top.

use candle_core::Tensor;

use super::{Linear, Weight};
use crate::error::Result;
use crate::ops::meter::{Part, part};
use crate::ops::patches;

#[derive(Clone)]
pub struct Embeddings {
    /// The patch convolution as a matrix, [d, c·p·p].
    pub projection: Linear,
    /// [d]
    pub cls: Weight,
    /// [s,d]
    pub position: Weight,
    pub patch_size: usize,
}

impl Embeddings {
    /// Are they trained?
    pub fn is_trained(&self) -> bool {
        self.cls.gradient.is_some()
    }

    /// x[b,c,h,w] → tokens [b,s,d], and the patches for the backward pass.
    pub fn forward(&self, x_bchw: &Tensor) -> Result<(Tensor, Tensor)> {
        let _embeddings = part(Part::Embeddings);
        let patches_btk = patches::patches(x_bchw, self.patch_size)?;
        let embedded = self.projection.forward(&patches_btk)?;
        let tokens = patches::tokens(&embedded, &self.cls.value, &self.position.value)?;
        Ok((tokens, patches_btk))
    }

    /// Adds to the gradients of projection, CLS and positions. There is nothing below.
    pub fn backward(&self, dx_bsd: &Tensor, patches_btk: &Tensor) -> Result<()> {
        let _embeddings = part(Part::Embeddings);
        let (Some(cls), Some(position)) = (&self.cls.gradient, &self.position.gradient) else {
            return Ok(());
        };
        let embedded = patches::tokens_backward(dx_bsd, cls, position)?;
        self.projection.backward_weights(patches_btk, &embedded)
    }
}
