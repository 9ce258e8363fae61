//! Windows of maps as rows of a matrix, and rows back among the pixels of maps (kernels/windows.cu); their products with weights
//! on tensor cores, without a matrix (kernels/convolution_tensor.cu).

use candle_core::{DType, Tensor};

use super::memory::contiguous;
use super::{Gpu, Output, failed};
use crate::error::Result;
use crate::ops::convolution::Kernel;
use crate::ops::launch::{ConvolutionTiles, eights, pieces, pixels};
use crate::ops::maps::{Maps, MapsShape};
use crate::ops::matmul::Write;
use crate::ops::meter;

/// Where the windows lie that a product takes: one for each of `lines` x `pixels` of an image.
pub struct Windows {
    pub lines: usize,
    pub pixels: usize,
    pub down: usize,
    pub across: usize,
    pub stride: usize,
    /// Of the first window.
    pub y0: i32,
    pub x0: i32,
}

impl Windows {
    /// What each pixel of the result of a convolution sees.
    pub fn seen_by(kernel: Kernel, result: MapsShape) -> Windows {
        let Kernel { side, stride } = kernel;
        let start = -(kernel.padding() as i32);
        Windows {
            lines: result.lines,
            pixels: result.pixels,
            down: side,
            across: side,
            stride,
            y0: start,
            x0: start,
        }
    }

    /// Values of a row: whole vectors, so that products may take the fast way.
    pub fn row(&self, channels: usize) -> usize {
        (self.down * self.across * channels).next_multiple_of(8)
    }

    /// Can [`Windows::multiply`] take maps of this format and so many channels?
    pub fn suit_tensor_cores(&self, dtype: DType, channels: usize) -> bool {
        matches!(dtype, DType::F16 | DType::BF16) && channels.is_multiple_of(32)
    }

    /// Windows of `x` times packed weights [n, row]ᵀ, each into its pixel of y: every `stride`-th of every `stride`-th line from
    /// (y0, x0) on.
    pub fn multiply(
        &self,
        y: &Maps,
        write: Write,
        x: &Maps,
        packed_nk: &Tensor,
        stride: usize,
        [y0, x0]: [usize; 2],
    ) -> Result<()> {
        let gpu = Gpu::of(x.values().device())?;
        let (to, from, weights) = (contiguous(y.values())?, contiguous(x.values())?, contiguous(packed_nk)?);
        let (from_shape, to_shape) = (x.shape(), y.shape());
        let (rows, (n, k)) = (from_shape.images * self.lines * self.pixels, packed_nk.dims2()?);
        let fits = self.suit_tensor_cores(from.dtype, from_shape.channels)
            && k == self.row(from_shape.channels)
            && n == to_shape.channels
            && (to.dtype, weights.dtype) == (from.dtype, from.dtype);
        let aligned = [&to, &from, &weights].iter().all(|operand| operand.address() % 16 == 0);
        if !fits || !aligned {
            return Err(failed(
                "a convolution",
                format!("{from_shape:?} by {:?}", packed_nk.layout()),
            ));
        }
        meter::operations(2 * rows * n * k);
        let tiles = ConvolutionTiles::new(rows, n);
        let call = gpu.kernel(tiles.kernel, from.dtype)?.arg(&to).arg(&from).arg(&weights);
        let call = call
            .arg(rows as u32)
            .arg(n as u32)
            .arg(self.lines as u32)
            .arg(self.pixels as u32);
        let call = call
            .arg(from_shape.lines as u32)
            .arg(from_shape.pixels as u32)
            .arg(from_shape.channels as u32);
        let call = call
            .arg(self.down as u32)
            .arg(self.across as u32)
            .arg(self.stride as u32);
        let call = call
            .arg(self.y0)
            .arg(self.x0)
            .arg(to_shape.lines as u32)
            .arg(to_shape.pixels as u32);
        let call = call.arg(stride as u32).arg(y0 as u32).arg(x0 as u32);
        // SAFETY: convolution_tensor_*_T(y, x, w, rows, n, lines, pixels, h, w, c, down, across, stride, y0, x0, to_h, to_w, to_stride,
        // to_y0, to_x0, add); pixels of y lie inside of it, as results of convolutions and classes do.
        unsafe { call.arg(u32::from(write == Write::Add)).launch(tiles.launch) }
    }

    /// Calls `each` with the windows of all images of `x`, some rows at a time, and the number of the first.
    pub fn each_piece(&self, x: &Maps, mut each: impl FnMut(usize, &Tensor) -> Result<()>) -> Result<()> {
        let gpu = Gpu::of(x.values().device())?;
        let (from, shape) = (contiguous(x.values())?, x.shape());
        let (row, rows) = (self.row(shape.channels), shape.images * self.lines * self.pixels);
        let is_wide = shape.channels % 8 == 0;
        let kernel = if is_wide { "windows" } else { "narrow_windows" };
        for (first, count) in pieces(rows, row * from.dtype.size_in_bytes()) {
            let to = Output::new(&gpu, count * row, from.dtype)?;
            let call = gpu.kernel(kernel, from.dtype)?.arg(&to).arg(&from);
            let call = call.arg(self.lines as u32).arg(self.pixels as u32);
            let call = call
                .arg(shape.lines as u32)
                .arg(shape.pixels as u32)
                .arg(shape.channels as u32);
            let call = call
                .arg(self.down as u32)
                .arg(self.across as u32)
                .arg(self.stride as u32);
            let call = call.arg(self.y0).arg(self.x0).arg(row as u32).arg(first as u32);
            let launch = match is_wide {
                true => pixels(count, shape.channels),
                false => eights(count * row),
            };
            // SAFETY: (narrow_)windows_T(to, x, lines, pixels, h, w, c, down, across, stride, y0, x0, row, first, rows).
            unsafe { call.arg(count as u32).launch(launch) }?;
            each(first, &to.into_tensor((count, row)))?;
        }
        Ok(())
    }

    /// Rows that were made of these windows, from row `first` on, to every `stride`-th pixel of every `stride`-th line from (y0, x0) on.
    pub fn spread(
        &self,
        dx: &Maps,
        write: Write,
        part_ni: &Tensor,
        stride: usize,
        [y0, x0]: [usize; 2],
        first: usize,
    ) -> Result<()> {
        let gpu = Gpu::of(part_ni.device())?;
        let (to, from, shape) = (contiguous(dx.values())?, contiguous(part_ni)?, dx.shape());
        let rows = part_ni.dims()[0];
        let call = gpu.kernel("spread", from.dtype)?.arg(&to).arg(&from);
        let call = call.arg(self.lines as u32).arg(self.pixels as u32);
        let call = call
            .arg(shape.lines as u32)
            .arg(shape.pixels as u32)
            .arg(shape.channels as u32);
        let call = call.arg(stride as u32).arg(y0 as u32).arg(x0 as u32);
        let call = call
            .arg(u32::from(write == Write::Add))
            .arg(first as u32)
            .arg(rows as u32);
        // SAFETY: spread_T(dx, from, lines, pixels, h, w, c, stride, y0, x0, add, first, rows); a class lies inside of the image.
        unsafe { call.launch(pixels(rows, shape.channels)) }
    }
}

/// Images with channels outermost, [b,c,h,w], as maps.
pub fn channels_inside(x_bchw: &Tensor) -> Result<Maps> {
    let gpu = Gpu::of(x_bchw.device())?;
    let (b, c, h, w) = x_bchw.dims4()?;
    let (x, count) = (contiguous(x_bchw)?, x_bchw.elem_count());
    let y = Output::new(&gpu, count, x.dtype)?;
    let call = gpu.kernel("channels_inside", x.dtype)?.arg(&y).arg(&x);
    // SAFETY: channels_inside_T(y, x, c, area, count).
    unsafe {
        call.arg(c as u32)
            .arg((h * w) as u32)
            .arg(count as u64)
            .launch(eights(count))
    }?;
    Maps::new(y.into_tensor((b, h, w, c)), 0)
}
