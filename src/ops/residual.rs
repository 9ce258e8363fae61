//! The residual stream: starting a sum with residual and bias, and handing the first tokens' gradient down.

use candle_core::Tensor;
use rayon::prelude::*;

use super::storage::{refused, spanned, tensor, unwritten, values};
use crate::error::Result;

/// x[b,q,d] + bias[d] as a new tensor. Images of x may lie apart (the first token of each).
pub fn with_bias(x_bqd: &Tensor, bias_d: Option<&Tensor>) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x_bqd.device().is_cuda() {
        return super::cuda::tokens::with_bias(x_bqd, bias_d);
    }
    let (b, q, d) = x_bqd.dims3()?;
    let stride = x_bqd.stride();
    if stride[2] != 1 || (q > 1 && stride[1] != d) {
        return Err(refused(format!("a residual of {:?}", x_bqd.layout())));
    }
    let x = spanned(x_bqd)?;
    let bias = bias_d.map(values).transpose()?;
    if bias.as_ref().is_some_and(|bias| bias.len() != d) {
        return Err(refused(format!(
            "a bias of {:?} for width {d}",
            bias_d.map(Tensor::shape)
        )));
    }
    let mut y = unwritten(b * q * d);
    y.par_chunks_mut((q * d).max(1)).enumerate().for_each(|(image, y)| {
        let x = &x[image * stride[0]..][..q * d];
        y.par_chunks_mut(32 * d)
            .zip(x.par_chunks(32 * d))
            .for_each(|(y, x)| match &bias {
                Some(bias) => {
                    for (y, x) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
                        for (y, (x, bias)) in y.iter_mut().zip(x.iter().zip(bias.iter())) {
                            *y = x + bias;
                        }
                    }
                }
                None => y.copy_from_slice(x),
            })
    });
    tensor(y, (b, q, d))
}

/// [b,s,d] with x[b,1,d] as the first token of each image and zeros elsewhere.
pub fn first_tokens(x_b1d: &Tensor, s: usize) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x_b1d.device().is_cuda() {
        return super::cuda::tokens::first_tokens(x_b1d, s);
    }
    let (b, _, d) = x_b1d.dims3()?;
    let x = values(x_b1d)?;
    let mut y = unwritten(b * s * d);
    y.par_chunks_mut((s * d).max(1))
        .zip(x.par_chunks(d))
        .for_each(|(y, x)| {
            let (first, rest) = y.split_at_mut(d);
            first.copy_from_slice(x);
            rest.fill(0.0);
        });
    tensor(y, (b, s, d))
}
