//! Layer normalisation with its weights.

use candle_core::Tensor;

use super::Weight;
use crate::error::Result;
use crate::ops::layer_norm::{self, Moments};
use crate::ops::meter::{Part, part};

#[derive(Clone)]
pub struct LayerNorm {
    /// [d]
    pub weight: Weight,
    /// [d]
    pub bias: Weight,
    pub eps: f64,
}

impl LayerNorm {
    /// x[…,d] → […,d], and what the backward pass needs besides x.
    pub fn forward(&self, x_nd: &Tensor) -> Result<(Tensor, Moments)> {
        let _norm = part(Part::LayerNorm);
        layer_norm::layer_norm(x_nd, &self.weight.value, &self.bias.value, self.eps)
    }

    /// The same in rows of `width`, whose rest somebody else fills.
    pub fn forward_in_rows(&self, x_nd: &Tensor, width: usize) -> Result<(Tensor, Moments)> {
        match width == self.weight.value.elem_count() {
            true => self.forward(x_nd),
            false => {
                let _norm = part(Part::LayerNorm);
                layer_norm::layer_norm_in_rows(x_nd, &self.weight.value, &self.bias.value, self.eps, width)
            }
        }
    }

    /// The output of forward once more.
    pub fn again(&self, x_nd: &Tensor, moments: &Moments) -> Result<Tensor> {
        let _norm = part(Part::LayerNorm);
        layer_norm::layer_norm_again(x_nd, moments, &self.weight.value, &self.bias.value)
    }

    /// Adds the gradient with respect to x to `dx` in place, and those of weight and bias if they are trained.
    pub fn backward_into(&self, dx_nd: &Tensor, dy_nd: &Tensor, x_nd: &Tensor, moments: &Moments) -> Result<()> {
        let _norm = part(Part::LayerNorm);
        self.backward_weights(dy_nd, x_nd, moments)?;
        layer_norm::layer_norm_backward(dx_nd, dy_nd, x_nd, moments, &self.weight.value)
    }

    /// Is it trained?
    pub fn is_trained(&self) -> bool {
        self.weight.gradient.is_some()
    }

    /// Adds to the gradients of weight and bias if they are trained.
    pub fn backward_weights(&self, dy_nd: &Tensor, x_nd: &Tensor, moments: &Moments) -> Result<()> {
        match (&self.weight.gradient, &self.bias.gradient) {
            (Some(gw), Some(gb)) => layer_norm::layer_norm_backward_weights(gw, gb, dy_nd, x_nd, moments),
            _ => Ok(()),
        }
    }
}
