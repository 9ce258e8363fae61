//! Convolutions of single pixels: plain products of matrices. A stride leaves pixels out beforehand.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::error::Result;
use crate::ops::maps::{Maps, MapsShape};
use crate::ops::matmul::Factor::{Rows, Transposed};
use crate::ops::matmul::{self, Write};
use crate::ops::storage::{tensor, update, values};

/// y = x·wᵀ for every `stride`-th pixel of every `stride`-th line.
pub(super) fn convolution(x: &Maps, w_oikk: &Tensor, stride: usize) -> Result<Maps> {
    let x = taken(x, stride)?;
    Maps::new(matmul::linear(x.values(), &matrix(w_oikk)?, None)?, 0)
}

/// dx = dz·w at those pixels, and 0 between them.
pub(super) fn backward(dz: &Maps, w_oikk: &Tensor, stride: usize, like: MapsShape) -> Result<Maps> {
    if stride == 1 {
        let dz = taken(dz, 1)?;
        return Maps::new(matmul::product(dz.values(), &matrix(w_oikk)?)?, 0);
    }
    let dx = Maps::written(like, 0, |_, dx| dx.fill(0.0))?;
    backward_into(&dx, dz, w_oikk, stride)?;
    Ok(dx)
}

/// The same, added to `dx`, which has no margin.
pub(super) fn backward_into(dx: &Maps, dz: &Maps, w_oikk: &Tensor, stride: usize) -> Result<()> {
    let (dz, w_oi) = (taken(dz, 1)?, matrix(w_oikk)?);
    if stride == 1 {
        return matmul::product_into(dx.values(), Write::Add, 1.0, Rows(dz.values()), Rows(&w_oi));
    }
    let (shape, from) = (dx.shape(), dz.shape());
    let product = matmul::product(dz.values(), &w_oi)?;
    let product = values(&product)?;
    let c = shape.channels;
    update(dx.values(), |dx| {
        let lines = dx.par_chunks_mut((shape.pixels * c).max(1)).enumerate();
        lines.for_each(|(line, dx)| {
            let (image, y) = (line / shape.lines, line % shape.lines);
            if !y.is_multiple_of(stride) {
                return;
            }
            let line = image * from.lines + y / stride;
            let seen = &product[line * from.pixels * c..][..from.pixels * c];
            for (dx, seen) in dx.chunks_mut(stride * c).zip(seen.chunks_exact(c)) {
                dx.iter_mut().zip(seen).for_each(|(dx, seen)| *dx += seen);
            }
        })
    })
}

/// gw += dzᵀ·x
pub(super) fn backward_weights(gw_oikk: &Tensor, dz: &Maps, x: &Maps, stride: usize) -> Result<()> {
    let (dz, x) = (taken(dz, 1)?, taken(x, stride)?);
    if dz.shape().all_pixels() == 0 {
        return Ok(());
    }
    matmul::product_into(
        &matrix(gw_oikk)?,
        Write::Add,
        1.0,
        Transposed(dz.values()),
        Rows(x.values()),
    )
}

/// [o,i,1,1] as [o,i], the same memory.
fn matrix(w_oikk: &Tensor) -> Result<Tensor> {
    let (o, i, _, _) = w_oikk.dims4()?;
    Ok(w_oikk.reshape((o, i))?)
}

/// Every `stride`-th pixel of every `stride`-th line, without a margin.
fn taken(x: &Maps, stride: usize) -> Result<Maps> {
    if stride == 1 && x.margin() == 0 {
        return Ok(x.clone());
    }
    let from = x.shape();
    let to = MapsShape {
        lines: from.lines.div_ceil(stride),
        pixels: from.pixels.div_ceil(stride),
        ..from
    };
    if to.all_pixels() == 0 {
        let empty = tensor(Vec::new(), (to.images, to.lines, to.pixels, to.channels))?;
        return Maps::new(empty, 0);
    }
    let (all, c) = (values(x.values())?, from.channels);
    Maps::written(to, 0, |line, to_line| {
        let (image, y) = (line / to.lines, line % to.lines);
        let seen = &all[x.line(image * from.lines + y * stride)];
        for (to, seen) in to_line.chunks_exact_mut(c).zip(seen.chunks(stride * c)) {
            to.copy_from_slice(&seen[..c]);
        }
    })
}
