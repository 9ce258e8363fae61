//! Packed projections whose product also adds the low-rank adapters that sit on them (ops::low_rank), where a GPU can do it.
//!
//! Beside the projections, two adapters cost 28 passes over the tokens forward and backward; so they cost 6 and a few percent
//! more of the packed product.

use candle_core::Tensor;

use super::{Below, Linear, LowRank, Projection, Weight};
use crate::error::Result;
use crate::ops::attention::AttentionGradient;
use crate::ops::dropout::{Dropout, DropoutNames};
use crate::ops::low_rank::{self, LowRanks, Placed};
use crate::ops::matmul::Factor::{Rows, Transposed};
use crate::ops::matmul::{self, Products, Write, product_into};
use crate::ops::meter::{Part, part};
use crate::ops::storage::zeros;

/// On a GPU the tensors' own format is multiplied in.
const FORMAT: Products = Products::F32;

#[derive(Clone)]
pub struct Widened {
    /// [3d,d+R]: query, key and value; behind each row d the scaled B's of all adapters, zeros where one sits elsewhere.
    weight: Tensor,
    bias: Option<Tensor>,
    a: Vec<Tensor>,
    dropout: Vec<Dropout>,
    d: usize,
    r: usize,
}

impl Widened {
    /// None where adapters must be computed one by one. `qkv` is a frozen [3d,d]; `room` gives zeros of 3d rows of a width.
    pub fn new(
        qkv: &Linear,
        adapters: &[(Projection, LowRank)],
        room: impl FnOnce(usize) -> Result<Tensor>,
    ) -> Result<Option<Widened>> {
        let Some((_, first)) = adapters.first() else {
            return Ok(None);
        };
        let (r, d) = first.a.value.dims2()?;
        let dropout: Vec<Dropout> = adapters.iter().map(|(_, adapter)| adapter.dropout).collect();
        let value = &qkv.weight.value;
        let same_rank = adapters.iter().all(|(_, adapter)| adapter.a.value.dims() == [r, d]);
        let are_trained = adapters.iter().all(|(_, adapter)| adapter.a.gradient.is_some());
        let fits = low_rank::fits(value.device(), value.dtype(), d, r, &dropout);
        if !fits || !same_rank || !are_trained || qkv.is_trained() {
            return Ok(None);
        }
        let width = d + r * adapters.len();
        let weight = room(width)?;
        let own = Placed {
            w_or: weight.narrow(1, 0, d)?,
            b_or: value.clone(),
        };
        low_rank::place(&[vec![own]], 1.0)?;
        Ok(Some(Widened {
            weight,
            bias: qkv.bias.as_ref().map(|bias| bias.value.clone()),
            a: adapters.iter().map(|(_, adapter)| adapter.a.value.clone()).collect(),
            dropout,
            d,
            r,
        }))
    }

    /// Of the rows that tokens lie in.
    pub fn width(&self) -> usize {
        self.weight.dims()[1]
    }

    /// The projections' own weights [3d,d].
    pub fn projections(&self) -> Result<Tensor> {
        Ok(self.weight.narrow(1, 0, self.d)?)
    }

    /// Where the B's of its adapters stand, once [`low_rank::place`] has placed them.
    pub fn places(&self, adapters: &[(Projection, LowRank)]) -> Result<Vec<Placed>> {
        let place = |(i, (projection, adapter)): (usize, &(Projection, LowRank))| {
            Ok(Placed {
                w_or: self.rows_of(*projection, i)?,
                b_or: adapter.b.value.clone(),
            })
        };
        adapters.iter().enumerate().map(place).collect()
    }

    /// The projections, and rows whose ends are filled here: u_i = dropout_i(h)·A_iᵀ of all adapters [b,s,R].
    pub fn fill(&self, h_bsw: &Tensor, names: Option<&DropoutNames>) -> Result<(Linear, Tensor)> {
        let _adapters = part(Part::Adapters);
        let u_bsr = low_rank::forward(h_bsw, self.low_ranks(), names)?;
        let qkv = Linear {
            weight: Weight::frozen(self.weight.clone()),
            bias: self.bias.clone().map(Weight::frozen),
            products: FORMAT,
        };
        Ok((qkv, u_bsr))
    }

    /// From the projections' gradients to those of all adapters and of h[b,s,d] (None if nobody needs it), which may be a part
    /// of wider rows.
    pub fn backward(
        &self,
        gradient: &AttentionGradient,
        adapters: &[(Projection, LowRank)],
        h_bsd: &Tensor,
        u_bsr: &Tensor,
        names: Option<&DropoutNames>,
        below: Below,
    ) -> Result<Option<Tensor>> {
        let _adapters = part(Part::Adapters);
        for (i, (projection, adapter)) in adapters.iter().enumerate() {
            let (Some(gb), Some(dy)) = (&adapter.b.gradient, gradient_of(gradient, *projection)?) else {
                continue;
            };
            let u = u_bsr.narrow(2, i * self.r, self.r)?.narrow(1, 0, dy.dims()[1])?;
            product_into(gb, Write::Add, adapter.scale, Transposed(&dy), Rows(&u), FORMAT)?;
        }
        let all = self.width() - self.d;
        let (du_bsr, dh_bsw) = match gradient {
            AttentionGradient::Together { dqkv_bsd } => {
                let _product = part(Part::QkvProduct);
                let dh = matmul::product(dqkv_bsd, &self.weight, FORMAT)?;
                (dh.narrow(2, self.d, all)?, Some(dh))
            }
            AttentionGradient::Apart { dq_bqd, dkv_bsd } => {
                let _product = part(Part::QkvProduct);
                let dh = matmul::product(dkv_bsd, &self.weight.narrow(0, self.d, 2 * self.d)?, FORMAT)?;
                let asking = dh.narrow(1, 0, dq_bqd.dims()[1])?;
                let weight = self.weight.narrow(0, 0, self.d)?;
                product_into(&asking, Write::Add, 1.0, Rows(dq_bqd), Rows(&weight), FORMAT)?;
                (dh.narrow(2, self.d, all)?, Some(dh))
            }
            AttentionGradient::WithoutKey { .. } => (self.alone(gradient, adapters, u_bsr)?, None),
        };
        let ga: Vec<Tensor> = adapters
            .iter()
            .filter_map(|(_, adapter)| adapter.a.gradient.clone())
            .collect();
        low_rank::gradients(&ga, h_bsd, &du_bsr, self.low_ranks(), names)?;
        match (dh_bsw, below) {
            (Some(dh), Below::Needed) => {
                low_rank::backward(&dh, self.low_ranks(), names)?;
                Ok(Some(dh.narrow(2, 0, self.d)?))
            }
            _ => Ok(None),
        }
    }

    /// du_i = scale·dy_i·B_i of all adapters, where nothing below needs more.
    fn alone(
        &self,
        gradient: &AttentionGradient,
        adapters: &[(Projection, LowRank)],
        u_bsr: &Tensor,
    ) -> Result<Tensor> {
        let du = zeros(u_bsr.elem_count(), u_bsr.dtype(), u_bsr.device())?.reshape(u_bsr.dims())?;
        for (i, (projection, _)) in adapters.iter().enumerate() {
            if let Some(dy) = gradient_of(gradient, *projection)? {
                let to = du.narrow(2, i * self.r, self.r)?.narrow(1, 0, dy.dims()[1])?;
                let b = self.rows_of(*projection, i)?;
                product_into(&to, Write::Replace, 1.0, Rows(&dy), Rows(&b), FORMAT)?;
            }
        }
        Ok(du)
    }

    /// Where scale·B of adapter `i` lies, [d,r].
    fn rows_of(&self, projection: Projection, i: usize) -> Result<Tensor> {
        let rows = self.weight.narrow(0, projection as usize * self.d, self.d)?;
        Ok(rows.narrow(1, self.d + i * self.r, self.r)?)
    }

    fn low_ranks(&self) -> LowRanks<'_> {
        LowRanks {
            a: &self.a,
            dropout: &self.dropout,
        }
    }
}

/// None: that of the keys was not asked for.
fn gradient_of(gradient: &AttentionGradient, projection: Projection) -> Result<Option<Tensor>> {
    match projection {
        Projection::Query => Ok(Some(gradient.dq_bqd()?)),
        Projection::Key => gradient.dk_bsd(),
        Projection::Value => Ok(Some(gradient.dv_bsd()?)),
    }
}
