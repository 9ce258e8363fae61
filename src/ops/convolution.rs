//! Convolutions of feature maps with square kernels, padded by half a kernel: forward, and both gradients.
//!
//! On a CPU all are products over maps as they lie (`gemm::sliding`, `gemm::correlation`); weights are [o,i,k,k] as in files.

mod classes;
mod pointwise;
mod weights;

use candle_core::Tensor;
use rayon::prelude::*;

pub(crate) use classes::Class;
use weights::Weights;

use super::gemm::{Correlation, Extent, Images, MatRef, Old, PackedB, Products, Raster, Sliding, Window};
use super::maps::{Maps, MapsShape};
use super::reduce;
use super::storage::{refused, tensor, unwritten, update, values};
use crate::error::Result;

/// Of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Pixels of a side; odd.
    pub side: usize,
    pub stride: usize,
}

impl Kernel {
    /// Zeros that are thought around an image on each side.
    pub fn padding(&self) -> usize {
        self.side / 2
    }

    /// Does a pixel of the result see one of the image, and each its own?
    #[cfg(feature = "cuda")]
    pub(super) fn is_pointwise(&self) -> bool {
        (self.side, self.stride) == (1, 1)
    }

    /// Lines (or pixels of a line) of the result for `n` of the image.
    pub fn outputs(&self, n: usize) -> usize {
        (n + 2 * self.padding()).saturating_sub(self.side) / self.stride + usize::from(n > 0)
    }
}

/// y = x * w, without a margin. The margin of x must be the padding at least.
pub fn convolution(x: &Maps, w_oikk: &Tensor, kernel: Kernel, products: Products) -> Result<Maps> {
    #[cfg(feature = "cuda")]
    if x.values().device().is_cuda() {
        return super::cuda::convolution::convolution(x, w_oikk, kernel);
    }
    let weights = Weights::new(w_oikk, kernel)?;
    let shape = weights.result(x.shape())?;
    if kernel.side == 1 {
        return pointwise::convolution(x, w_oikk, kernel.stride, products);
    }
    let slack = slack(x, kernel)?;
    let taps: Vec<MatRef> = (0..weights.taps()).map(|tap| weights.transposed(tap)).collect();
    let (raster, c, products) = (x.raster(), weights.inputs, products.of_pixels(weights.inputs));
    let mut y = unwritten(shape.all_pixels() * shape.channels);
    Sliding {
        extent: shape.extent(),
        x: &Images::new(&values(x.values())?, c, products),
        from: Raster {
            start: slack * (raster.line_stride + c),
            image_stride: raster.image_stride,
            line_stride: kernel.stride * raster.line_stride,
            pixel_stride: kernel.stride * c,
        },
        window: Window {
            lines: kernel.side,
            values: kernel.side * c,
            line_stride: raster.line_stride,
        },
        b: &PackedB::stacked(&taps, products),
        to: plain(shape),
    }
    .write(&mut y, Old::Replaced);
    Maps::new(tensor(y, shape.dims())?, 0)
}

/// The gradient with respect to x of shape `like`, without a margin. The margin of dz must be the padding at least.
pub fn convolution_backward(
    dz: &Maps,
    w_oikk: &Tensor,
    kernel: Kernel,
    like: MapsShape,
    products: Products,
) -> Result<Maps> {
    #[cfg(feature = "cuda")]
    if dz.values().device().is_cuda() {
        return super::cuda::convolution::backward(dz, w_oikk, kernel, like);
    }
    let weights = Weights::new(w_oikk, kernel)?;
    if kernel.side == 1 {
        return pointwise::backward(dz, w_oikk, kernel.stride, like, products);
    }
    let mut dx = unwritten(like.all_pixels() * like.channels);
    let old = match kernel.side < kernel.stride {
        // Pixels between windows have no gradient.
        true => {
            dx.par_chunks_mut(64 * 1024).for_each(|dx| dx.fill(0.0));
            Old::AddedTo
        }
        false => Old::Replaced,
    };
    backward_into(&mut dx, old, dz, &weights, like, products)?;
    Maps::new(tensor(dx, like.dims())?, 0)
}

/// The same, added to `dx` in place, which has no margin.
pub fn convolution_backward_into(
    dx: &Maps,
    dz: &Maps,
    w_oikk: &Tensor,
    kernel: Kernel,
    products: Products,
) -> Result<()> {
    #[cfg(feature = "cuda")]
    if dz.values().device().is_cuda() {
        return super::cuda::convolution::backward_into(dx, dz, w_oikk, kernel);
    }
    let weights = Weights::new(w_oikk, kernel)?;
    if dx.margin() != 0 {
        return Err(refused("gradients are added to maps without a margin".into()));
    }
    if kernel.side == 1 {
        return pointwise::backward_into(dx, dz, w_oikk, kernel.stride, products);
    }
    let like = dx.shape();
    update(dx.values(), |dx| {
        backward_into(dx, Old::AddedTo, dz, &weights, like, products)
    })?
}

/// Adds the gradient with respect to the weights to gw[o,i,k,k].
pub fn convolution_backward_weights(
    gw_oikk: &Tensor,
    dz: &Maps,
    x: &Maps,
    kernel: Kernel,
    products: Products,
) -> Result<()> {
    #[cfg(feature = "cuda")]
    if dz.values().device().is_cuda() {
        return super::cuda::convolution::backward_weights(gw_oikk, dz, x, kernel);
    }
    let (o, i, k, _) = gw_oikk.dims4()?;
    let (shape, slack) = (dz.shape(), slack(x, kernel)?);
    let raster = x.raster();
    if shape.channels != o || x.shape().channels != i || k != kernel.side {
        return Err(refused(format!("a gradient of {:?} for {shape:?}", gw_oikk.dims())));
    }
    if k == 1 {
        return pointwise::backward_weights(gw_oikk, dz, x, kernel.stride, products);
    }
    // What one line of a narrow window sees may be taken for one wide pixel.
    let across = if k * i <= 32 { 1 } else { k };
    let taps: Vec<usize> = (0..k)
        .flat_map(|line| (0..across).map(move |place| line * raster.line_stride + place * i))
        .collect();
    let correlation = Correlation {
        extent: shape.extent(),
        g: &values(dz.values())?,
        g_raster: dz.raster(),
        rows: o,
        x: &values(x.values())?,
        x_raster: Raster {
            start: slack * (raster.line_stride + i),
            image_stride: raster.image_stride,
            line_stride: kernel.stride * raster.line_stride,
            pixel_stride: kernel.stride * i,
        },
        columns: k * i / across,
        taps: &taps,
        products,
    };
    // Summed with inputs innermost, as pixels have them, and then turned.
    let sums = tensor(unwritten(o * k * k * i), (o, k * k, i))?;
    reduce::set_zero(&sums)?;
    update(&sums, |sums| correlation.add_to(sums))?;
    let sums = values(&sums)?;
    update(gw_oikk, |gw| {
        let rows = gw.par_chunks_mut(k * k * i).zip(sums.par_chunks(k * k * i));
        rows.for_each(|(gw, sums)| {
            for (channel, gw) in gw.chunks_exact_mut(k * k).enumerate() {
                for (gw, sums) in gw.iter_mut().zip(sums.chunks_exact(i)) {
                    *gw += sums[channel];
                }
            }
        })
    })
}

/// Pixels of x are reached by windows of kernel places that differ by the stride: by places r, r+s, r+2s, … Those of one
/// r in each direction see a stretch of adjacent pixels of dz; so each (r, r') is a convolution of dz without a stride.
fn backward_into(
    dx: &mut [f32],
    old: Old,
    dz: &Maps,
    weights: &Weights,
    like: MapsShape,
    products: Products,
) -> Result<()> {
    let kernel = weights.kernel;
    let (shape, padding) = (dz.shape(), kernel.padding());
    if weights.result(like)? != shape || dz.margin() < padding {
        return Err(refused(format!("gradients {shape:?} of a convolution of {like:?}")));
    }
    let (raster, c, products) = (dz.raster(), weights.outputs, products.of_pixels(weights.outputs));
    let gradient = values(dz.values())?;
    let gradient = Images::new(&gradient, c, products);
    let destination = plain(like);
    for down in Class::all(kernel, like.lines) {
        for across in Class::all(kernel, like.pixels) {
            let taps: Vec<MatRef> = (down.places.iter().rev())
                .flat_map(|line| across.places.iter().rev().map(move |place| line * kernel.side + place))
                .map(|tap| weights.plain(tap))
                .collect();
            // The first place that is seen, counted from the corner of the margin.
            let seen = |class: &Class| dz.margin() + class.shift + 1 - class.places.len();
            Sliding {
                extent: Extent {
                    images: like.images,
                    lines: down.count,
                    pixels: across.count,
                },
                x: &gradient,
                from: Raster {
                    start: seen(&down) * raster.line_stride + seen(&across) * c,
                    ..raster
                },
                window: Window {
                    lines: down.places.len(),
                    values: across.places.len() * c,
                    line_stride: raster.line_stride,
                },
                b: &PackedB::stacked(&taps, products),
                to: Raster {
                    start: down.first * destination.line_stride + across.first * destination.pixel_stride,
                    image_stride: destination.image_stride,
                    line_stride: kernel.stride * destination.line_stride,
                    pixel_stride: kernel.stride * destination.pixel_stride,
                },
            }
            .write(dx, old);
        }
    }
    Ok(())
}

/// How much wider the margin is than the padding.
fn slack(x: &Maps, kernel: Kernel) -> Result<usize> {
    x.margin()
        .checked_sub(kernel.padding())
        .ok_or_else(|| refused(format!("a margin of {} for {kernel:?}", x.margin())))
}

/// Maps without a margin.
fn plain(shape: MapsShape) -> Raster {
    let line_stride = shape.pixels * shape.channels;
    Raster {
        start: 0,
        image_stride: shape.lines * line_stride,
        line_stride,
        pixel_stride: shape.channels,
    }
}
