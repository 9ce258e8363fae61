//! The CUDA side of ops::pool (kernels/pool.cu).

use candle_core::{DType, Tensor};

use super::memory::{Operand, contiguous};
use super::{Gpu, Output, failed};
use crate::error::Result;
use crate::ops::launch::pixels;
use crate::ops::maps::{Maps, MapsShape};

/// The largest of each window, of shape `to`, and its number in the window, u8.
pub fn max_pool(x: &Maps, to: MapsShape) -> Result<(Maps, Tensor)> {
    let gpu = Gpu::of(x.values().device())?;
    let (from, shape) = (whole(x)?, x.shape());
    let count = to.all_pixels() * to.channels;
    let y = Output::new(&gpu, count, from.dtype)?;
    let places = Output::new(&gpu, count, DType::U8)?;
    let call = gpu.kernel("max_pool", from.dtype)?.arg(&y).arg(&places).arg(&from);
    let call = call.arg(to.images as u32).arg(to.lines as u32).arg(to.pixels as u32);
    let call = call
        .arg(shape.lines as u32)
        .arg(shape.pixels as u32)
        .arg(to.channels as u32);
    // SAFETY: max_pool_T(y, places, x, b, lines, pixels, h, w, c); ops::pool has computed the shape of y from that of x.
    unsafe { call.launch(pixels(to.all_pixels(), to.channels)) }?;
    Ok((Maps::new(y.into_tensor(to.dims()), 0)?, places.into_tensor(count)))
}

pub fn max_pool_backward(dy: &Maps, places: &Tensor, like: MapsShape) -> Result<Maps> {
    let gpu = Gpu::of(dy.values().device())?;
    let (from, from_places, shape) = (whole(dy)?, contiguous(places)?, dy.shape());
    if (shape.images, shape.channels) != (like.images, like.channels) {
        return Err(failed("max_pool", format!("gradients {shape:?} of {like:?}")));
    }
    let dx = Output::new(&gpu, like.all_pixels() * like.channels, from.dtype)?;
    let call = gpu.kernel("max_pool_backward", from.dtype)?;
    let call = call.arg(&dx).arg(&from).arg(&from_places);
    let call = call
        .arg(shape.images as u32)
        .arg(shape.lines as u32)
        .arg(shape.pixels as u32);
    let call = call
        .arg(like.lines as u32)
        .arg(like.pixels as u32)
        .arg(like.channels as u32);
    // SAFETY: max_pool_backward_T(dx, dy, places, b, lines, pixels, h, w, c); ops::pool has seen that there are as many places as
    // gradients.
    unsafe { call.launch(pixels(like.all_pixels(), like.channels)) }?;
    Maps::new(dx.into_tensor(like.dims()), 0)
}

pub fn mean_pool(x: &Maps) -> Result<Tensor> {
    let gpu = Gpu::of(x.values().device())?;
    let (from, shape) = (whole(x)?, x.shape());
    let (b, c) = (shape.images, shape.channels);
    let y = Output::new(&gpu, b * c, from.dtype)?;
    let call = gpu.kernel("mean_pool", from.dtype)?.arg(&y).arg(&from).arg(b as u32);
    let call = call.arg((shape.lines * shape.pixels) as u32).arg(c as u32);
    // SAFETY: mean_pool_T(y, x, b, area, c).
    unsafe { call.launch(pixels(b, c)) }?;
    Ok(y.into_tensor((b, c)))
}

pub fn mean_pool_backward(dy_bc: &Tensor, like: MapsShape) -> Result<Maps> {
    let gpu = Gpu::of(dy_bc.device())?;
    let from = contiguous(dy_bc)?;
    if dy_bc.dims() != [like.images, like.channels] {
        return Err(failed(
            "mean_pool",
            format!("gradients {:?} of {like:?}", dy_bc.shape()),
        ));
    }
    let dx = Output::new(&gpu, like.all_pixels() * like.channels, from.dtype)?;
    let call = gpu.kernel("mean_pool_backward", from.dtype)?.arg(&dx).arg(&from);
    let call = call.arg(like.images as u32).arg((like.lines * like.pixels) as u32);
    // SAFETY: mean_pool_backward_T(dx, dy, b, area, c).
    unsafe {
        call.arg(like.channels as u32)
            .launch(pixels(like.all_pixels(), like.channels))
    }?;
    Maps::new(dx.into_tensor(like.dims()), 0)
}

fn whole(x: &Maps) -> Result<Operand<'_>> {
    match x.margin() {
        0 => contiguous(x.values()),
        margin => Err(failed("pooling", format!("maps with a margin of {margin}"))),
    }
}
