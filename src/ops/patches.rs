//! Images cut into patches, and patches put together with CLS and position embeddings into tokens.

use candle_core::Tensor;
use rayon::prelude::*;

use super::storage::{refused, tensor, unwritten, update, values};
use crate::error::Result;

/// x[b,c,h,w] → [b, (h/p)·(w/p), c·p·p]: the rows that a convolution with kernel = stride = p multiplies.
pub fn patches(x_bchw: &Tensor, p: usize) -> Result<Tensor> {
    let (b, c, h, w) = x_bchw.dims4()?;
    if p == 0 || h % p != 0 || w % p != 0 {
        return Err(refused(format!(
            "images of {h}x{w} cannot be cut into patches of {p}x{p}"
        )));
    }
    #[cfg(feature = "cuda")]
    if x_bchw.device().is_cuda() {
        return super::cuda::tokens::patches(x_bchw, p);
    }
    let (down, across) = (h / p, w / p);
    let x = values(x_bchw)?;
    let mut out = unwritten(x.len());
    let row = c * p * p;
    out.par_chunks_mut((across * row).max(1))
        .enumerate()
        .for_each(|(strip, out)| {
            let (image, y) = (strip / down, strip % down);
            for (patch, out) in out.chunks_exact_mut(row).enumerate() {
                for (line, out) in out.chunks_exact_mut(p).enumerate() {
                    let (channel, dy) = (line / p, line % p);
                    let from = ((image * c + channel) * h + y * p + dy) * w + patch * p;
                    out.copy_from_slice(&x[from..from + p]);
                }
            }
        });
    tensor(out, (b, down * across, row))
}

/// Tokens [b, 1+t, d]: CLS first, then the embedded patches y[b,t,d]; position embeddings [1+t, d] added to all.
pub fn tokens(y_btd: &Tensor, cls_d: &Tensor, position_sd: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if y_btd.device().is_cuda() {
        return super::cuda::tokens::tokens(y_btd, cls_d, position_sd);
    }
    let (b, t, d) = y_btd.dims3()?;
    let (y, cls, position) = (values(y_btd)?, values(cls_d)?, values(position_sd)?);
    if cls.len() != d || position.len() != (t + 1) * d {
        return Err(refused(format!(
            "{} position embeddings for {t} patches of width {d}",
            position.len() / d.max(1)
        )));
    }
    let mut x = unwritten(b * (t + 1) * d);
    x.par_chunks_mut((t + 1) * d)
        .zip(y.par_chunks(t * d))
        .for_each(|(x, y)| {
            let (first, rest) = x.split_at_mut(d);
            let (position_first, position_rest) = position.split_at(d);
            for (x, (cls, position)) in first.iter_mut().zip(cls.iter().zip(position_first)) {
                *x = cls + position;
            }
            for (x, (y, position)) in rest.iter_mut().zip(y.iter().zip(position_rest)) {
                *x = y + position;
            }
        });
    tensor(x, (b, t + 1, d))
}

/// Takes the tokens' gradient apart: returns that of the embedded patches, adds those of CLS and positions in place.
pub fn tokens_backward(dx_bsd: &Tensor, gcls_d: &Tensor, gposition_sd: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if dx_bsd.device().is_cuda() {
        return super::cuda::tokens::tokens_backward(dx_bsd, gcls_d, gposition_sd);
    }
    let (b, s, d) = dx_bsd.dims3()?;
    let dx = values(dx_bsd)?;
    update(gposition_sd, |total| {
        total.par_chunks_mut(d).enumerate().for_each(|(token, total)| {
            for image in 0..b {
                let from = &dx[(image * s + token) * d..][..d];
                total.iter_mut().zip(from).for_each(|(total, x)| *total += x);
            }
        })
    })?;
    update(gcls_d, |total| {
        for image in 0..b {
            let from = &dx[image * s * d..][..d];
            total.iter_mut().zip(from).for_each(|(total, x)| *total += x);
        }
    })?;
    let mut dy = unwritten(b * (s - 1) * d);
    dy.par_chunks_mut((s - 1) * d)
        .zip(dx.par_chunks(s * d))
        .for_each(|(dy, dx)| dy.copy_from_slice(&dx[d..]));
    tensor(dy, (b, s - 1, d))
}
