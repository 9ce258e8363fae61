//! A low-rank adapter beside a frozen projection: y += scale · dropout(x)·Aᵀ·Bᵀ (Hu et al., LoRA, 2021).

use candle_core::Tensor;

use super::Weight;
use crate::error::Result;
use crate::ops::dropout::{Dropout, DropoutNames, add_dropped, dropout};
use crate::ops::matmul::Factor::{Rows, Transposed};
use crate::ops::matmul::{self, Products, Write, product_into};
use crate::ops::meter::{Part, part};
use crate::ops::reduce;

#[derive(Clone)]
pub struct LowRank {
    /// [r,i]
    pub a: Weight,
    /// [o,r]
    pub b: Weight,
    /// α/r
    pub scale: f32,
    pub dropout: Dropout,
    pub products: Products,
}

impl LowRank {
    /// Adds to y[b,s,o], which may be columns of a wider tensor; returns u = dropout(x)·Aᵀ [b,s,r] for the backward pass.
    pub fn forward_into(&self, y_bso: &Tensor, x_bsi: &Tensor, names: Option<&DropoutNames>) -> Result<Tensor> {
        let _adapter = part(Part::Adapters);
        let u = match self.active(names) {
            Some(names) => matmul::linear(
                &dropout(x_bsi, self.dropout, names)?,
                &self.a.value,
                None,
                self.products,
            )?,
            None => matmul::linear(x_bsi, &self.a.value, None, self.products)?,
        };
        let b = Transposed(&self.b.value);
        product_into(y_bso, Write::Add, self.scale, Rows(&u), b, self.products)?;
        Ok(u)
    }

    /// Adds to the gradients of A and B, and to `dx` if somebody below needs it.
    ///
    /// dB += scale·dyᵀ·u, du = scale·dy·B, dA += duᵀ·dropout(x), dx += mask∘(du·A).
    pub fn backward(
        &self,
        dy_bso: &Tensor,
        x_bsi: &Tensor,
        u_bsr: &Tensor,
        names: Option<&DropoutNames>,
        dx_bsi: Option<&Tensor>,
    ) -> Result<()> {
        let _adapter = part(Part::Adapters);
        let names = self.active(names);
        if let Some(gradient) = &self.b.gradient {
            let (dy, u) = (Transposed(dy_bso), Rows(u_bsr));
            product_into(gradient, Write::Add, self.scale, dy, u, self.products)?;
        }
        let du = matmul::product(dy_bso, &self.b.value, self.products)?;
        reduce::scale(&du, self.scale)?;
        if let Some(gradient) = &self.a.gradient {
            let x = match names {
                Some(names) => &dropout(x_bsi, self.dropout, names)?,
                None => x_bsi,
            };
            product_into(gradient, Write::Add, 1.0, Transposed(&du), Rows(x), self.products)?;
        }
        let a = &self.a.value;
        match (dx_bsi, names) {
            (Some(dx), None) => product_into(dx, Write::Add, 1.0, Rows(&du), Rows(a), self.products),
            (Some(dx), Some(names)) => {
                let through = matmul::product(&du, a, self.products)?;
                add_dropped(dx, &through, self.dropout, names)
            }
            (None, _) => Ok(()),
        }
    }

    /// No names, or nothing to drop: no dropout.
    fn active<'a, 'b>(&self, names: Option<&'a DropoutNames<'b>>) -> Option<&'a DropoutNames<'b>> {
        names.filter(|_| self.dropout.probability > 0.0)
    }
}
