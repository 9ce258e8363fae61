//! Feature maps: images with channels innermost, inside of a margin of zeros.
//!
//! With the channels of a pixel side by side, a convolution is a product of matrices over memory as it lies; with a margin
//! as wide as its padding, its windows need no cases at the borders. Legend: b images, h lines, w pixels of a line, c
//! channels, m margin.

use candle_core::Tensor;
use rayon::prelude::*;

use super::gemm::{Extent, Raster};
use super::storage::{refused, tensor, unwritten, values};
use crate::error::Result;

/// [b, h+2m, w+2m, c], f32. On a GPU, where windows are unfolded, there is no margin whatever is asked for, and they are in the
/// format that products take.
#[derive(Clone, Debug)]
pub struct Maps {
    values: Tensor,
    margin: usize,
}

/// Images, lines, pixels of a line, channels: all without margins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapsShape {
    pub images: usize,
    pub lines: usize,
    pub pixels: usize,
    pub channels: usize,
}

impl MapsShape {
    /// Of the tensor, without a margin: images, lines, pixels, channels.
    pub fn dims(&self) -> (usize, usize, usize, usize) {
        (self.images, self.lines, self.pixels, self.channels)
    }

    /// Pixels of all images.
    pub fn all_pixels(&self) -> usize {
        self.images * self.lines * self.pixels
    }

    pub fn extent(&self) -> Extent {
        Extent {
            images: self.images,
            lines: self.lines,
            pixels: self.pixels,
        }
    }
}

impl Maps {
    /// Takes `values` [b, h+2m, w+2m, c] over; the margin holds zeros already.
    pub fn new(values: Tensor, margin: usize) -> Result<Maps> {
        let (_, h, w, _) = values.dims4()?;
        if h < 2 * margin || w < 2 * margin || !values.is_contiguous() {
            return Err(refused(format!(
                "{:?} are no maps with a margin of {margin}",
                values.layout()
            )));
        }
        Ok(Maps { values, margin })
    }

    /// Maps whose lines are written by `write(line of all images, values of the line)`, in parallel.
    pub fn written(shape: MapsShape, margin: usize, write: impl Fn(usize, &mut [f32]) + Send + Sync) -> Result<Maps> {
        let MapsShape {
            images,
            lines,
            pixels,
            channels,
        } = shape;
        let (down, across) = (lines + 2 * margin, pixels + 2 * margin);
        let mut all = unwritten(images * down * across * channels);
        all.par_chunks_mut((across * channels).max(1))
            .enumerate()
            .with_min_len(4)
            .for_each(|(at, line)| {
                let (image, y) = (at / down, at % down);
                if y < margin || y >= margin + lines {
                    line.fill(0.0);
                    return;
                }
                let (left, rest) = line.split_at_mut(margin * channels);
                let (inside, right) = rest.split_at_mut(pixels * channels);
                left.fill(0.0);
                right.fill(0.0);
                write(image * lines + y - margin, inside);
            });
        Maps::new(tensor(all, (images, down, across, channels))?, margin)
    }

    /// From images with channels outermost, [b,c,h,w].
    pub fn from_bchw(x_bchw: &Tensor, margin: usize) -> Result<Maps> {
        #[cfg(feature = "cuda")]
        if x_bchw.device().is_cuda() {
            return super::cuda::windows::channels_inside(x_bchw);
        }
        let (b, c, h, w) = x_bchw.dims4()?;
        let x = values(x_bchw)?;
        let shape = MapsShape {
            images: b,
            lines: h,
            pixels: w,
            channels: c,
        };
        Maps::written(shape, margin, |line, to| {
            let (image, y) = (line / h, line % h);
            for channel in 0..c {
                let from = &x[((image * c + channel) * h + y) * w..][..w];
                for (to, from) in to[channel..].iter_mut().step_by(c).zip(from) {
                    *to = *from;
                }
            }
        })
    }

    /// With channels outermost and without the margin, [b,c,h,w].
    pub fn to_bchw(&self) -> Result<Tensor> {
        let MapsShape { lines, pixels, .. } = self.shape();
        let inside = self.values.narrow(1, self.margin, lines)?;
        let inside = inside.narrow(2, self.margin, pixels)?;
        Ok(inside.permute((0, 3, 1, 2))?.contiguous()?)
    }

    /// [b, h+2m, w+2m, c]
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    pub fn margin(&self) -> usize {
        self.margin
    }

    pub fn shape(&self) -> MapsShape {
        let dims = self.values.dims();
        MapsShape {
            images: dims[0],
            lines: dims[1] - 2 * self.margin,
            pixels: dims[2] - 2 * self.margin,
            channels: dims[3],
        }
    }

    /// Where the pixels inside of the margin lie.
    pub fn raster(&self) -> Raster {
        let dims = self.values.dims();
        let line_stride = dims[2] * dims[3];
        Raster {
            start: self.margin * (line_stride + dims[3]),
            image_stride: dims[1] * line_stride,
            line_stride,
            pixel_stride: dims[3],
        }
    }

    /// Where each line inside of the margin lies in the values: start and length.
    pub(crate) fn line(&self, line: usize) -> std::ops::Range<usize> {
        let shape = self.shape();
        let start = self.raster().line(&shape.extent(), line);
        start..start + shape.pixels * shape.channels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_come_back_from_inside_of_the_margin() {
        let x = tensor((0..2 * 3 * 4 * 5).map(|v| v as f32 + 1.0).collect(), (2, 3, 4, 5)).unwrap();
        for margin in [0, 1, 3] {
            let maps = Maps::from_bchw(&x, margin).unwrap();
            assert_eq!(maps.values().dims(), [2, 4 + 2 * margin, 5 + 2 * margin, 3]);
            let back = maps.to_bchw().unwrap();
            assert_eq!(values(&back).unwrap()[..], values(&x).unwrap()[..]);
            let sum = |t: &Tensor| values(t).unwrap().iter().sum::<f32>();
            assert_eq!(sum(maps.values()), sum(&x));
            assert_eq!(
                values(maps.values()).unwrap()[maps.line(5)][..3],
                [26.0, 46.0, 66.0].map(|v| v + 40.0)
            );
        }
    }
}
