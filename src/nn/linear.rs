//! A dense layer, y = x·wᵀ + b, and the weight type that all layers share.

use candle_core::Tensor;

use crate::error::Result;
use crate::ops::matmul::{self, Factor, Products, Write};
use crate::ops::reduce;

/// A weight, and the place where its gradient is summed up if it is trained.
#[derive(Clone)]
pub struct Weight {
    pub value: Tensor,
    pub gradient: Option<Tensor>,
}

impl Weight {
    pub fn frozen(value: Tensor) -> Self {
        Weight { value, gradient: None }
    }

    /// The rows `start..start+count` (of the first dimension) of value and gradient.
    pub fn rows(&self, start: usize, count: usize) -> Result<Weight> {
        Ok(Weight {
            value: self.value.narrow(0, start, count)?,
            gradient: match &self.gradient {
                Some(gradient) => Some(gradient.narrow(0, start, count)?),
                None => None,
            },
        })
    }
}

#[derive(Clone)]
pub struct Linear {
    /// [o,i]
    pub weight: Weight,
    /// [o]
    pub bias: Option<Weight>,
    pub products: Products,
}

impl Linear {
    /// x[…,i] → […,o]
    pub fn forward(&self, x_ni: &Tensor) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|b| &b.value);
        matmul::linear(x_ni, &self.weight.value, bias, self.products)
    }

    /// residual[b,q,o], whose images may lie apart, plus the layer's output for x[b,q,i].
    pub fn forward_onto(&self, residual_bqo: &Tensor, x_bqi: &Tensor) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|b| &b.value);
        matmul::linear_onto(residual_bqo, x_bqi, &self.weight.value, bias, self.products)
    }

    /// Gradient with respect to x: dy[…,o]·w.
    pub fn backward(&self, dy_no: &Tensor) -> Result<Tensor> {
        matmul::product(dy_no, &self.weight.value, self.products)
    }

    /// As [`Linear::backward`], added to `dx` in place.
    pub fn backward_into(&self, dx_ni: &Tensor, dy_no: &Tensor) -> Result<()> {
        matmul::product_into(
            dx_ni,
            Write::Add,
            1.0,
            Factor::Rows(dy_no),
            Factor::Rows(&self.weight.value),
            self.products,
        )
    }

    /// Is anything of this layer trained?
    pub fn is_trained(&self) -> bool {
        self.weight.gradient.is_some() || self.bias.as_ref().is_some_and(|b| b.gradient.is_some())
    }

    /// Adds to the gradients of weight and bias, as far as they are trained.
    pub fn backward_weights(&self, x_ni: &Tensor, dy_no: &Tensor) -> Result<()> {
        if let Some(gradient) = &self.weight.gradient {
            let (dy, x) = (Factor::Transposed(dy_no), Factor::Rows(x_ni));
            matmul::product_into(gradient, Write::Add, 1.0, dy, x, self.products)?;
        }
        if let Some(gradient) = self.bias.as_ref().and_then(|b| b.gradient.as_ref()) {
            reduce::add_column_sums(gradient, dy_no)?;
        }
        Ok(())
    }

    /// The layer that gives only outputs `start..start+count`.
    pub fn outputs(&self, start: usize, count: usize) -> Result<Linear> {
        Ok(Linear {
            weight: self.weight.rows(start, count)?,
            bias: match &self.bias {
                Some(bias) => Some(bias.rows(start, count)?),
                None => None,
            },
            products: self.products,
        })
    }
}
