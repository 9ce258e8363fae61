//! What low-rank adapters need of the tokens beside the products of the projections that they sit on, on a GPU.
//!
//! Tokens lie in rows of d + R values: h, then u_i = dropout_i(h)·A_iᵀ of each adapter, R of them in all; the rows of the packed
//! weights are as long, weights first, then scale·B_i. So the projections' own product adds the adapters, and backward it
//! gives du_i beside dh. On a CPU adapters stay what they are, products beside the projection: nothing here is for it.

use candle_core::{DType, Device, Tensor};

use super::dropout::{Dropout, DropoutNames};
use super::storage::refused;
use crate::error::Result;

/// Adapters on one tensor, with the same rank r.
#[derive(Clone, Copy)]
pub struct LowRanks<'a> {
    /// Of each [r,d]; equally far apart in one buffer.
    pub a: &'a [Tensor],
    /// Of each; equally probable, with modules equally far apart.
    pub dropout: &'a [Dropout],
}

/// A matrix, and where it is to stand.
pub struct Placed {
    pub w_or: Tensor,
    pub b_or: Tensor,
}

/// Can adapters of these ranks be computed so?
pub fn fits(device: &Device, dtype: DType, d: usize, r: usize, dropout: &[Dropout]) -> bool {
    let apart = |pair: &[Dropout]| pair[1].module.wrapping_sub(pair[0].module);
    let pairs: Vec<&[Dropout]> = dropout.windows(2).collect();
    let alike = pairs
        .iter()
        .all(|pair| apart(pair) == apart(pairs[0]) && pair[0].probability == pair[1].probability);
    device.is_cuda()
        && matches!(dtype, DType::F16 | DType::BF16)
        && d.is_multiple_of(64)
        && r.is_multiple_of(16)
        && (16..=64).contains(&(r * dropout.len()))
        && alike
}

/// Writes u_i behind h in the rows of h[b,s,d+R]; returns them once more [b,s,R].
pub fn forward(h_bsw: &Tensor, adapters: LowRanks, names: Option<&DropoutNames>) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if h_bsw.device().is_cuda() {
        return super::cuda::low_rank::forward(h_bsw, adapters, names);
    }
    Err(elsewhere(h_bsw, &adapters, names))
}

/// dh += Σ mask_i∘(du_i·A_i), with du_i behind dh in the rows of dh[b,s,d+R].
pub fn backward(dh_bsw: &Tensor, adapters: LowRanks, names: Option<&DropoutNames>) -> Result<()> {
    #[cfg(feature = "cuda")]
    if dh_bsw.device().is_cuda() {
        return super::cuda::low_rank::backward(dh_bsw, adapters, names);
    }
    Err(elsewhere(dh_bsw, &adapters, names))
}

/// Adds du_iᵀ·dropout_i(h) to the gradient of A_i; h[b,s,d], du[b,s,R], which may be parts of wider rows.
pub fn gradients(
    ga_rd: &[Tensor],
    h_bsd: &Tensor,
    du_bsr: &Tensor,
    adapters: LowRanks,
    names: Option<&DropoutNames>,
) -> Result<()> {
    #[cfg(feature = "cuda")]
    if h_bsd.device().is_cuda() {
        return super::cuda::low_rank::gradients(ga_rd, h_bsd, du_bsr, adapters, names);
    }
    let _ = (ga_rd, du_bsr);
    Err(elsewhere(h_bsd, &adapters, names))
}

/// w = scale·b of the same adapters in all layers, at once; each w[o,r] is a part of wider rows. Layer after layer they lie
/// equally far apart, and so do those of a layer.
pub fn place(layers: &[Vec<Placed>], scale: f32) -> Result<()> {
    let Some(first) = layers.iter().flatten().next() else {
        return Ok(());
    };
    #[cfg(feature = "cuda")]
    if first.w_or.device().is_cuda() {
        return super::cuda::low_rank::place(layers, scale);
    }
    let _ = scale;
    Err(refused(format!("adapters in wider rows on {:?}", first.w_or.device())))
}

fn elsewhere(x: &Tensor, adapters: &LowRanks, _: Option<&DropoutNames>) -> crate::error::Error {
    refused(format!("{} adapters in one pass on {:?}", adapters.a.len(), x.device()))
}
