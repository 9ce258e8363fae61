//! Self-attention with packed projections and low-rank adapters on some of them.

use candle_core::Tensor;

use super::{Linear, LowRank, Widened};
use crate::error::Result;
use crate::ops::attention::{self, Attention, AttentionGradient, AttentionOutput, Wanted};
use crate::ops::dropout::DropoutNames;
use crate::ops::meter::{Part, part};

/// One of the projections that adapters may sit on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Projection {
    Query,
    Key,
    Value,
}

impl Projection {
    pub const ALL: [Projection; 3] = [Projection::Query, Projection::Key, Projection::Value];
}

#[derive(Clone)]
pub struct SelfAttention {
    /// [3d,d]: query, key and value one after the other.
    pub qkv: Linear,
    /// At most one per projection.
    pub adapters: Vec<(Projection, LowRank)>,
    /// Where a GPU computes the adapters with the projections.
    pub widened: Option<Widened>,
    pub output: Linear,
    pub heads: usize,
}

/// What the backward pass needs of the forward pass.
pub struct AttentionKept {
    q_bqd: Tensor,
    k_bsd: Tensor,
    v_bsd: Tensor,
    output: AttentionOutput,
    /// dropout(x)·Aᵀ of every adapter, in their order; side by side if they are computed with the projections.
    u: Vec<Tensor>,
}

impl SelfAttention {
    /// The length of the rows that `h` must lie in.
    pub fn row_width(&self) -> Result<usize> {
        match &self.widened {
            Some(widened) => Ok(widened.width()),
            None => Ok(self.qkv.weight.value.dims()[1]),
        }
    }

    /// h[b,s,d], in rows of [`SelfAttention::row_width`] → the heads' output before the last projection [b,q,d]; q = `queries`
    /// first tokens of each image.
    pub fn forward(&self, h_bsd: &Tensor, queries: usize, names: Option<&DropoutNames>) -> Result<AttentionKept> {
        let _attention = part(Part::Attention);
        let (qkv, mut u) = match &self.widened {
            Some(widened) => {
                let (qkv, u) = widened.fill(h_bsd, names)?;
                (qkv, vec![u])
            }
            None => (self.qkv.clone(), Vec::with_capacity(self.adapters.len())),
        };
        let asking = h_bsd.narrow(1, 0, queries)?;
        let [q_bqd, k_bsd, v_bsd] = projected(&qkv, h_bsd, &asking)?;
        let beside = self.adapters.iter().filter(|_| self.widened.is_none());
        for (projection, adapter) in beside {
            let (y, x) = match projection {
                Projection::Query => (&q_bqd, &asking),
                Projection::Key => (&k_bsd, h_bsd),
                Projection::Value => (&v_bsd, h_bsd),
            };
            u.push(adapter.forward_into(y, x, names)?);
        }
        let output = attention::attention(&Attention {
            q_bqd: &q_bqd,
            k_bsd: &k_bsd,
            v_bsd: &v_bsd,
            heads: self.heads,
            products: self.qkv.products,
        })?;
        Ok(AttentionKept {
            q_bqd,
            k_bsd,
            v_bsd,
            output,
            u,
        })
    }

    /// From the gradient of the heads' output to that of h (None if nobody below needs it), adding to all weights'. Here h is
    /// [b,s,d]; its gradient may be a part of wider rows.
    pub fn backward(
        &self,
        do_bqd: &Tensor,
        h_bsd: &Tensor,
        kept: &AttentionKept,
        names: Option<&DropoutNames>,
        below: Below,
    ) -> Result<Option<Tensor>> {
        let operands = Attention {
            q_bqd: &kept.q_bqd,
            k_bsd: &kept.k_bsd,
            v_bsd: &kept.v_bsd,
            heads: self.heads,
            products: self.qkv.products,
        };
        let _attention = part(Part::Attention);
        let gradient = attention::attention_backward(&operands, &kept.output, do_bqd, self.wanted(below))?;
        if let (Some(widened), [u]) = (&self.widened, &kept.u[..]) {
            return widened.backward(&gradient, &self.adapters, h_bsd, u, names, below);
        }
        let asking = h_bsd.narrow(1, 0, kept.q_bqd.dims()[1])?;
        self.backward_weights(&gradient, h_bsd, &asking)?;
        let dh = match below {
            Below::Needed => Some(self.backward_input(&gradient)?),
            Below::NotNeeded => None,
        };
        for ((projection, adapter), u) in self.adapters.iter().zip(&kept.u) {
            let (dy, x) = match projection {
                Projection::Query => (gradient.dq_bqd()?, &asking),
                Projection::Key => match gradient.dk_bsd()? {
                    Some(dk) => (dk, h_bsd),
                    None => continue,
                },
                Projection::Value => (gradient.dv_bsd()?, h_bsd),
            };
            let dx = match &dh {
                Some(dh) => Some(dh.narrow(1, 0, x.dims()[1])?),
                None => None,
            };
            adapter.backward(&dy, x, u, names, dx.as_ref())?;
        }
        Ok(dh)
    }

    /// dK is only of use to what lies below, to trained weights, or to an adapter on the keys.
    fn wanted(&self, below: Below) -> Wanted {
        let on_keys = self
            .adapters
            .iter()
            .any(|(projection, _)| *projection == Projection::Key);
        match below == Below::Needed || self.qkv.is_trained() || on_keys {
            true => Wanted::QueryKeyValue,
            false => Wanted::QueryValue,
        }
    }

    fn backward_weights(&self, gradient: &AttentionGradient, h_bsd: &Tensor, asking_bqd: &Tensor) -> Result<()> {
        if !self.qkv.is_trained() {
            return Ok(());
        }
        let _product = part(Part::QkvProduct);
        let d = h_bsd.dims()[2];
        match gradient {
            AttentionGradient::Together { dqkv_bsd } => self.qkv.backward_weights(h_bsd, dqkv_bsd),
            AttentionGradient::Apart { dq_bqd, dkv_bsd } => {
                self.qkv.outputs(0, d)?.backward_weights(asking_bqd, dq_bqd)?;
                self.qkv.outputs(d, 2 * d)?.backward_weights(h_bsd, dkv_bsd)
            }
            AttentionGradient::WithoutKey { .. } => unreachable!("trained weights want dK"),
        }
    }

    fn backward_input(&self, gradient: &AttentionGradient) -> Result<Tensor> {
        let _product = part(Part::QkvProduct);
        match gradient {
            AttentionGradient::Together { dqkv_bsd } => self.qkv.backward(dqkv_bsd),
            AttentionGradient::Apart { dq_bqd, dkv_bsd } => {
                let (_, queries, d) = dq_bqd.dims3()?;
                let dh = self.qkv.outputs(d, 2 * d)?.backward(dkv_bsd)?;
                let asking = dh.narrow(1, 0, queries)?;
                self.qkv.outputs(0, d)?.backward_into(&asking, dq_bqd)?;
                Ok(dh)
            }
            AttentionGradient::WithoutKey { .. } => unreachable!("whoever lies below wants dK"),
        }
    }
}

impl AttentionKept {
    /// The heads' output [b,q,d].
    pub fn o_bqd(&self) -> &Tensor {
        &self.output.o_bqd
    }
}

/// Query, key and value of tokens; the query of those alone that ask.
fn projected(qkv: &Linear, h_bsd: &Tensor, asking_bqd: &Tensor) -> Result<[Tensor; 3]> {
    let _product = part(Part::QkvProduct);
    let (_, s, _) = h_bsd.dims3()?;
    let d = qkv.weight.value.dims()[0] / 3;
    if asking_bqd.dims()[1] == s {
        let qkv = qkv.forward(h_bsd)?;
        return Ok([qkv.narrow(2, 0, d)?, qkv.narrow(2, d, d)?, qkv.narrow(2, 2 * d, d)?]);
    }
    let kv = qkv.outputs(d, 2 * d)?.forward(h_bsd)?;
    let q = qkv.outputs(0, d)?.forward(asking_bqd)?;
    Ok([q, kv.narrow(2, 0, d)?, kv.narrow(2, d, d)?])
}

/// Does anything below a layer need the gradient with respect to its input?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    Needed,
    NotNeeded,
}
