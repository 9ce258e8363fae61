//! Pictures mixed with others of the same batch: Mixup's sums and CutMix's rectangles.

use candle_core::Tensor;
use rayon::prelude::*;

use super::jpeg::Rect;
use super::storage::{refused, tensor, unwritten, values};
use crate::error::Result;

/// How one result is made of two pictures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Blend {
    /// Which pictures; they may be the same one.
    pub own: usize,
    pub partner: usize,
    /// Of the own picture in every value outside of `cut`; 1: nothing of the partner.
    pub share: f32,
    /// Where the partner stands; it lies within the pictures.
    pub cut: Rect,
}

/// x[n,c,h,w] → one result for each of `blends`, [b,c,h,w]: own·share + partner·(1-share), each product and the sum rounded,
/// and the partner's own values in the cut. Errors: a picture that is not there.
pub fn mix(x_nchw: &Tensor, blends: &[Blend]) -> Result<Tensor> {
    let (n, c, height, width) = x_nchw.dims4()?;
    let lies_within = |cut: &Rect| cut.right() <= width && cut.bottom() <= height;
    if let Some(blend) = blends
        .iter()
        .find(|b| b.own >= n || b.partner >= n || !lies_within(&b.cut))
    {
        return Err(refused(format!("{blend:?} of {n} pictures of {width}x{height}")));
    }
    #[cfg(feature = "cuda")]
    if x_nchw.device().is_cuda() {
        return super::cuda::mixing::mix(x_nchw, blends);
    }
    let (x, len) = (values(x_nchw)?, c * height * width);
    let mut y = unwritten(blends.len() * len);
    y.par_chunks_mut(len.max(1)).zip(blends).for_each(|(y, blend)| {
        let (own, partner) = (&x[blend.own * len..][..len], &x[blend.partner * len..][..len]);
        let (share, rest) = (blend.share, 1.0 - blend.share);
        match share == 1.0 {
            true => y.copy_from_slice(own),
            false => {
                for (y, (own, partner)) in y.iter_mut().zip(own.iter().zip(partner)) {
                    *y = own * share + partner * rest;
                }
            }
        }
        let cut = blend.cut;
        for row in (0..c).flat_map(|channel| (cut.y..cut.bottom()).map(move |y| channel * height + y)) {
            let columns = row * width + cut.x..row * width + cut.right();
            y[columns.clone()].copy_from_slice(&partner[columns]);
        }
    });
    tensor(y, (blends.len(), c, height, width))
}
