//! A pre-norm transformer block: x_mid = x + attention(norm(x)), y = x_mid + mlp(norm(x_mid)).
//!
//! Kept for the backward pass: x, q, k, v, the heads' output, x_mid, the MLP's input to GELU, and a few numbers per row.
//! Outputs of layer norms and of GELU and the attention probabilities are made again.

use candle_core::Tensor;

use super::self_attention::{AttentionKept, Below};
use super::{LayerNorm, Linear, SelfAttention};
use crate::error::Result;
use crate::ops::dropout::DropoutNames;
use crate::ops::layer_norm::Moments;
use crate::ops::meter::{Part, part};
use crate::ops::{gelu, residual};

/// Which tokens leave a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    All,
    /// Only CLS: nobody reads the others after the last block.
    First,
}

#[derive(Clone)]
pub struct Mlp {
    pub up: Linear,
    pub down: Linear,
}

#[derive(Clone)]
pub struct Block {
    pub norm_before: LayerNorm,
    pub attention: SelfAttention,
    pub norm_after: LayerNorm,
    pub mlp: Mlp,
    pub tokens: Tokens,
}

/// What the backward pass needs of the forward pass.
pub struct BlockKept {
    x_bsd: Tensor,
    moments_before: Moments,
    attention: AttentionKept,
    x_mid_bqd: Tensor,
    moments_after: Moments,
    z_bqm: Tensor,
}

impl Block {
    /// x[b,s,d] → [b,s,d], or [b,1,d] if only CLS leaves the block.
    pub fn forward(&self, x_bsd: &Tensor, names: Option<&DropoutNames>) -> Result<(Tensor, BlockKept)> {
        let kept = self.activations(x_bsd, names)?;
        let _mlp = part(Part::Mlp);
        let y = self.mlp.down.forward_onto(&kept.x_mid_bqd, &activated(&kept.z_bqm)?)?;
        Ok((y, kept))
    }

    /// What the backward pass needs, out of the block's input: all of the forward pass but its last product.
    pub fn activations(&self, x_bsd: &Tensor, names: Option<&DropoutNames>) -> Result<BlockKept> {
        let queries = self.queries(x_bsd)?;
        let (h, moments_before) = self.norm_before.forward_in_rows(x_bsd, self.attention.row_width()?)?;
        let attention = self.attention.forward(&h, queries, names)?;
        let x_mid_bqd = {
            let _projection = part(Part::Projection);
            let residual = x_bsd.narrow(1, 0, queries)?;
            self.attention.output.forward_onto(&residual, attention.o_bqd())?
        };
        let (h, moments_after) = self.norm_after.forward(&x_mid_bqd)?;
        let z_bqm = {
            let _mlp = part(Part::Mlp);
            self.mlp.up.forward(&h)?
        };
        Ok(BlockKept {
            x_bsd: x_bsd.clone(),
            moments_before,
            attention,
            x_mid_bqd,
            moments_after,
            z_bqm,
        })
    }

    /// From dy to dx (None if nobody below needs it), adding to the gradients of all trained weights. `dy` is used up.
    pub fn backward(
        &self,
        dy_bqd: Tensor,
        kept: BlockKept,
        names: Option<&DropoutNames>,
        below: Below,
    ) -> Result<Option<Tensor>> {
        let dx_mid = self.backward_mlp(dy_bqd, &kept)?;
        let do_bqd = {
            let _projection = part(Part::Projection);
            let output = &self.attention.output;
            output.backward_weights(kept.attention.o_bqd(), &dx_mid)?;
            output.backward(&dx_mid)?
        };
        let h = self.norm_before.again(&kept.x_bsd, &kept.moments_before)?;
        // The norm's own weights need dh even if nothing below needs dx.
        let of_input = match self.norm_before.is_trained() {
            true => Below::Needed,
            false => below,
        };
        let Some(dh) = self.attention.backward(&do_bqd, &h, &kept.attention, names, of_input)? else {
            return Ok(None);
        };
        if below == Below::NotNeeded {
            self.norm_before
                .backward_weights(&dh, &kept.x_bsd, &kept.moments_before)?;
            return Ok(None);
        }
        let dx = match self.tokens {
            Tokens::All => dx_mid,
            Tokens::First => residual::first_tokens(&dx_mid, kept.x_bsd.dims()[1])?,
        };
        self.norm_before
            .backward_into(&dx, &dh, &kept.x_bsd, &kept.moments_before)?;
        Ok(Some(dx))
    }

    /// Is anything of this block trained?
    pub fn is_trained(&self) -> bool {
        let linears = [
            &self.attention.qkv,
            &self.attention.output,
            &self.mlp.up,
            &self.mlp.down,
        ];
        !self.attention.adapters.is_empty() || linears.iter().any(|linear| linear.is_trained())
    }

    fn backward_mlp(&self, dy_bqd: Tensor, kept: &BlockKept) -> Result<Tensor> {
        let _mlp = part(Part::Mlp);
        let Mlp { up, down } = &self.mlp;
        if down.is_trained() {
            down.backward_weights(&activated(&kept.z_bqm)?, &dy_bqd)?;
        }
        let dz = down.backward(&dy_bqd)?;
        {
            let _gelu = part(Part::Gelu);
            gelu::gelu_backward(&dz, &kept.z_bqm)?;
        }
        if up.is_trained() {
            up.backward_weights(&self.norm_after.again(&kept.x_mid_bqd, &kept.moments_after)?, &dz)?;
        }
        let dh = up.backward(&dz)?;
        self.norm_after
            .backward_into(&dy_bqd, &dh, &kept.x_mid_bqd, &kept.moments_after)?;
        Ok(dy_bqd)
    }

    fn queries(&self, x_bsd: &Tensor) -> Result<usize> {
        let (_, s, _) = x_bsd.dims3()?;
        Ok(match self.tokens {
            Tokens::All => s,
            Tokens::First => 1,
        })
    }
}

fn activated(z_bqm: &Tensor) -> Result<Tensor> {
    let _gelu = part(Part::Gelu);
    gelu::gelu(z_bqm)
}
