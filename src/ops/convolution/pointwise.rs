//! Convolutions of single pixels: plain products of matrices where nothing lies between the pixels, and products over pixels
//! where they lie otherwise.

use candle_core::Tensor;

use super::{Kernel, plain};
use crate::error::Result;
use crate::ops::gemm::{Correlation, Images, MatRef, Old, PackedB, Products, Raster, Sliding, Window};
use crate::ops::maps::{Maps, MapsShape};
use crate::ops::matmul::Factor::Rows;
use crate::ops::matmul::{self, Write};
use crate::ops::storage::{refused, tensor, unwritten, update, values};

/// y = x·wᵀ for every `stride`-th pixel of every `stride`-th line.
pub(super) fn convolution(x: &Maps, w_oikk: &Tensor, stride: usize, products: Products) -> Result<Maps> {
    let w_oi = matrix(w_oikk)?;
    if stride == 1 && x.margin() == 0 {
        return Maps::new(matmul::linear(x.values(), &w_oi, None, products)?, 0);
    }
    let (o, i) = w_oi.dims2()?;
    let shape = taken(x.shape(), stride, o);
    let products = products.of_pixels(i);
    let mut y = unwritten(shape.all_pixels() * o);
    Sliding {
        extent: shape.extent(),
        x: &Images::new(&values(x.values())?, i, products),
        from: strided(x.raster(), stride),
        window: single(i),
        b: &PackedB::new(MatRef::row_major(&values(&w_oi)?, o, i).transposed(), products),
        to: plain(shape),
    }
    .write(&mut y, Old::Replaced);
    Maps::new(tensor(y, shape.dims())?, 0)
}

/// dx = dz·w at those pixels, and 0 between them.
pub(super) fn backward(dz: &Maps, w_oikk: &Tensor, stride: usize, like: MapsShape, products: Products) -> Result<Maps> {
    if stride == 1 && dz.margin() == 0 {
        return Maps::new(matmul::product(dz.values(), &matrix(w_oikk)?, products)?, 0);
    }
    let dx = Maps::written(like, 0, |_, dx| dx.fill(0.0))?;
    backward_into(&dx, dz, w_oikk, stride, products)?;
    Ok(dx)
}

/// The same, added to `dx`, which has no margin.
pub(super) fn backward_into(dx: &Maps, dz: &Maps, w_oikk: &Tensor, stride: usize, products: Products) -> Result<()> {
    let w_oi = matrix(w_oikk)?;
    if stride == 1 && dz.margin() == 0 {
        let (dz, w) = (Rows(dz.values()), Rows(&w_oi));
        return matmul::product_into(dx.values(), Write::Add, 1.0, dz, w, products);
    }
    let (o, i) = w_oi.dims2()?;
    let (shape, products) = (dz.shape(), products.of_pixels(o));
    let gradient = values(dz.values())?;
    if taken(dx.shape(), stride, o) != shape || dx.shape().channels != i {
        return Err(refused(format!(
            "gradients {shape:?} of a convolution of {:?}",
            dx.shape()
        )));
    }
    let weights = values(&w_oi)?;
    let gradient = Images::new(&gradient, o, products);
    update(dx.values(), |dx_values| {
        Sliding {
            extent: shape.extent(),
            x: &gradient,
            from: dz.raster(),
            window: single(o),
            b: &PackedB::new(MatRef::row_major(&weights, o, i), products),
            to: strided(dx.raster(), stride),
        }
        .write(dx_values, Old::AddedTo)
    })
}

/// gw += dzᵀ·x
pub(super) fn backward_weights(gw_oikk: &Tensor, dz: &Maps, x: &Maps, stride: usize, products: Products) -> Result<()> {
    let (o, i, _, _) = gw_oikk.dims4()?;
    let correlation = Correlation {
        extent: dz.shape().extent(),
        g: &values(dz.values())?,
        g_raster: dz.raster(),
        rows: o,
        x: &values(x.values())?,
        x_raster: strided(x.raster(), stride),
        columns: i,
        taps: &[0],
        products,
    };
    update(gw_oikk, |gw| correlation.add_to(gw))
}

/// [o,i,1,1] as [o,i], the same memory.
fn matrix(w_oikk: &Tensor) -> Result<Tensor> {
    let (o, i, _, _) = w_oikk.dims4()?;
    Ok(w_oikk.reshape((o, i))?)
}

/// The shape of what is computed of every `stride`-th pixel of every `stride`-th line.
fn taken(x: MapsShape, stride: usize, channels: usize) -> MapsShape {
    let kernel = Kernel { side: 1, stride };
    MapsShape {
        lines: kernel.outputs(x.lines),
        pixels: kernel.outputs(x.pixels),
        channels,
        ..x
    }
}

/// Every `stride`-th pixel of every `stride`-th line.
fn strided(raster: Raster, stride: usize) -> Raster {
    Raster {
        line_stride: stride * raster.line_stride,
        pixel_stride: stride * raster.pixel_stride,
        ..raster
    }
}

/// A window of one pixel.
fn single(channels: usize) -> Window {
    Window {
        lines: 1,
        values: channels,
        line_stride: 0,
    }
}
