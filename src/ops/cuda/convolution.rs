//! The CUDA side of ops::convolution: products by cuBLASLt. Pointwise convolutions are products of maps as they lie; for the others
//! windows are unfolded to rows of a matrix (kernels/windows.cu), a piece at a time.
//!
//! What is unfolded is written and read once in place of being read once for each place of the kernel. Sums have the products' own
//! order, and those of weights' gradients are f32, so a step's bits depend on nothing but shapes.

use candle_core::{DType, Tensor};

use super::memory::{clear, contiguous};
use super::windows::Windows;
use super::{Gpu, Output, failed, matmul};
use crate::error::Result;
use crate::ops::convolution::{Class, Kernel};
use crate::ops::launch::eights;
use crate::ops::maps::{Maps, MapsShape};
use crate::ops::matmul::Factor::{Rows, Transposed};
use crate::ops::matmul::Write;

pub fn convolution(x: &Maps, w_oikk: &Tensor, kernel: Kernel) -> Result<Maps> {
    let weights = Weights::of(w_oikk, kernel)?;
    let shape = weights.result(x.shape())?;
    if kernel.is_pointwise() {
        return Maps::new(matmul::linear(x.values(), &weights.matrix()?, None, None)?, 0);
    }
    let windows = Windows::seen_by(kernel, shape);
    let (y_no, y) = fresh(x, shape)?;
    let packed = weights.packed(&windows, Side::Outputs, 0, kernel.side as i32, 1)?;
    if windows.suit_tensor_cores(w_oikk.dtype(), weights.inputs) {
        windows.multiply(&y, Write::Replace, x, &packed, 1, [0, 0])?;
        return Ok(y);
    }
    windows.each_piece(x, |first, rows_nk| {
        let y = y_no.narrow(0, first, rows_nk.dims()[0])?;
        matmul::product_into(&y, Write::Replace, 1.0, Rows(rows_nk), Transposed(&packed))
    })?;
    Ok(y)
}

pub fn backward(dz: &Maps, w_oikk: &Tensor, kernel: Kernel, like: MapsShape) -> Result<Maps> {
    let weights = Weights::of(w_oikk, kernel)?;
    weights.fits(dz, like)?;
    if kernel.is_pointwise() {
        return Maps::new(matmul::product(dz.values(), &weights.matrix()?)?, 0);
    }
    let (_, dx) = fresh(dz, like)?;
    if kernel.side < kernel.stride {
        // Pixels between windows have no gradient.
        let at = contiguous(dx.values())?;
        let bytes = dx.values().elem_count() * at.dtype.size_in_bytes();
        clear(&*Gpu::of(dx.values().device())?, at.address(), bytes)?;
    }
    backward_by_classes(&dx, Write::Replace, dz, &weights)?;
    Ok(dx)
}

pub fn backward_into(dx: &Maps, dz: &Maps, w_oikk: &Tensor, kernel: Kernel) -> Result<()> {
    let weights = Weights::of(w_oikk, kernel)?;
    weights.fits(dz, dx.shape())?;
    match kernel.is_pointwise() {
        true => {
            let (to, from) = (dx.values(), Rows(dz.values()));
            matmul::product_into(to, Write::Add, 1.0, from, Rows(&weights.matrix()?))
        }
        false => backward_by_classes(dx, Write::Add, dz, &weights),
    }
}

pub fn backward_weights(gw_oikk: &Tensor, dz: &Maps, x: &Maps, kernel: Kernel) -> Result<()> {
    let weights = Weights::of(gw_oikk, kernel)?;
    weights.fits(dz, x.shape())?;
    let (o, i) = (weights.outputs, weights.inputs);
    let dz_no = dz.values().reshape((dz.shape().all_pixels(), o))?;
    if kernel.is_pointwise() {
        let gw_oi = weights.matrix()?;
        return matmul::product_into(&gw_oi, Write::Add, 1.0, Transposed(&dz_no), Rows(x.values()));
    }
    let gpu = Gpu::of(gw_oikk.device())?;
    let windows = Windows::seen_by(kernel, dz.shape());
    let row = windows.row(i);
    let sums_ok = Output::new(&gpu, o * row, DType::F32)?.into_tensor((o, row));
    let mut write = Write::Replace;
    windows.each_piece(x, |first, rows_nk| {
        let dz_no = dz_no.narrow(0, first, rows_nk.dims()[0])?;
        matmul::product_into(&sums_ok, write, 1.0, Transposed(&dz_no), Rows(rows_nk))?;
        write = Write::Add;
        Ok(())
    })?;
    if write == Write::Replace {
        return Ok(()); // no images
    }
    let count = gw_oikk.elem_count();
    if gw_oikk.dtype() != DType::F32 {
        return Err(failed("a gradient of weights", format!("in {:?}", gw_oikk.dtype())));
    }
    let (gw, sums) = (contiguous(gw_oikk)?, contiguous(&sums_ok)?);
    let call = gpu.exact_kernel("add_unpacked")?.arg(&gw).arg(&sums);
    let call = call
        .arg((kernel.side * kernel.side) as u32)
        .arg(i as u32)
        .arg(row as u32);
    // SAFETY: add_unpacked(dw, sums, taps, i, row, count) of f32.
    unsafe { call.arg(count as u64).launch(eights(count)) }
}

/// Pixels whose places in kernels differ by the stride see a stretch of adjacent pixels of dz: each class of them is a convolution
/// of dz without a stride (ops::convolution).
fn backward_by_classes(dx: &Maps, write: Write, dz: &Maps, weights: &Weights) -> Result<()> {
    let (like, kernel) = (dx.shape(), weights.kernel);
    let dx_ni = dx.values().reshape((like.all_pixels(), like.channels))?;
    for down in Class::all(kernel, like.lines) {
        for across in Class::all(kernel, like.pixels) {
            // The first place that is seen.
            let start = |class: &Class| class.shift as i32 + 1 - class.places.len() as i32;
            let windows = Windows {
                lines: down.count,
                pixels: across.count,
                down: down.places.len(),
                across: across.places.len(),
                stride: 1,
                y0: start(&down),
                x0: start(&across),
            };
            let last = |class: &Class| class.places.last().map_or(0, |place| *place as i32);
            let (side, stride) = (kernel.side as i32, kernel.stride as i32);
            let tap = last(&down) * side + last(&across);
            let packed = weights.packed(&windows, Side::Inputs, tap, -stride * side, -stride)?;
            let firsts = [down.first, across.first];
            if windows.suit_tensor_cores(weights.values.dtype(), weights.outputs) {
                windows.multiply(dx, write, dz, &packed, kernel.stride, firsts)?;
                continue;
            }
            windows.each_piece(dz, |first, rows_nk| match kernel.stride {
                1 => {
                    let dx = dx_ni.narrow(0, first, rows_nk.dims()[0])?;
                    matmul::product_into(&dx, write, 1.0, Rows(rows_nk), Transposed(&packed))
                }
                _ => {
                    let part_ni = matmul::linear(rows_nk, &packed, None, None)?;
                    windows.spread(dx, write, &part_ni, kernel.stride, [down.first, across.first], first)
                }
            })?;
        }
    }
    Ok(())
}

/// What a row of packed weights belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Outputs,
    Inputs,
}

/// [o,i,k,k]
struct Weights<'a> {
    values: &'a Tensor,
    outputs: usize,
    inputs: usize,
    kernel: Kernel,
}

impl<'a> Weights<'a> {
    fn of(values: &'a Tensor, kernel: Kernel) -> Result<Self> {
        let (outputs, inputs, side, across) = values.dims4()?;
        match side == kernel.side && across == side && side % 2 == 1 {
            true => Ok(Weights {
                values,
                outputs,
                inputs,
                kernel,
            }),
            false => Err(failed("a convolution", format!("{:?} with {kernel:?}", values.shape()))),
        }
    }

    /// [o,i] of single pixels, the same memory.
    fn matrix(&self) -> Result<Tensor> {
        Ok(self.values.reshape((self.outputs, self.inputs))?)
    }

    fn result(&self, x: MapsShape) -> Result<MapsShape> {
        match x.channels == self.inputs {
            true => Ok(MapsShape {
                images: x.images,
                lines: self.kernel.outputs(x.lines),
                pixels: self.kernel.outputs(x.pixels),
                channels: self.outputs,
            }),
            false => Err(failed("a convolution", format!("{} inputs of {x:?}", self.inputs))),
        }
    }

    fn fits(&self, dz: &Maps, x: MapsShape) -> Result<()> {
        match self.result(x)? == dz.shape() && dz.margin() == 0 {
            true => Ok(()),
            false => Err(failed("a convolution", format!("gradients {:?} of {x:?}", dz.shape()))),
        }
    }

    /// [o or i, row], in the order of rows of windows, which begin with place `tap` of the kernel.
    fn packed(&self, windows: &Windows, rows: Side, tap: i32, of_down: i32, of_across: i32) -> Result<Tensor> {
        let gpu = Gpu::of(self.values.device())?;
        let from = contiguous(self.values)?;
        let taps = (self.kernel.side * self.kernel.side) as i32;
        let of_output = taps * self.inputs as i32;
        let (count, channels, of_row, of_channel) = match rows {
            Side::Outputs => (self.outputs, self.inputs, of_output, taps),
            Side::Inputs => (self.inputs, self.outputs, taps, of_output),
        };
        let row = windows.row(channels);
        let to = Output::new(&gpu, count * row, from.dtype)?;
        let call = gpu.kernel("pack_weights", from.dtype)?.arg(&to).arg(&from);
        let call = call.arg(channels as u32).arg(row as u32);
        let call = call.arg(windows.down as u32).arg(windows.across as u32);
        let call = call.arg(of_row).arg(of_channel).arg(tap).arg(of_down).arg(of_across);
        // SAFETY: pack_weights_T(to, w, c, row, down, across, of_row, of_channel, tap, of_down, of_across, count): places of the
        // kernel, as classes and kernels have them.
        unsafe { call.arg((count * row) as u64).launch(eights(count * row)) }?;
        Ok(to.into_tensor((count, row)))
    }
}

/// Maps of this shape with whatever is in their memory, also seen as a row for each pixel.
fn fresh(like: &Maps, shape: MapsShape) -> Result<(Tensor, Maps)> {
    let gpu = Gpu::of(like.values().device())?;
    let (rows, c) = (shape.all_pixels(), shape.channels);
    let values = Output::new(&gpu, rows * c, like.values().dtype())?.into_tensor((rows, c));
    let maps = Maps::new(values.reshape((shape.images, shape.lines, shape.pixels, c))?, 0)?;
    Ok((values, maps))
}
