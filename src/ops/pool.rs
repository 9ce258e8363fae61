//! Pooling of feature maps: the largest of 3x3 pixels at every second place, padded by one; the mean of a whole image.

use candle_core::Tensor;
use rayon::prelude::*;

use super::maps::{Maps, MapsShape};
use super::simd::vectorized;
use super::storage::{refused, tensor, unwritten, values};
use crate::error::Result;

const SIDE: usize = 3;
const STRIDE: usize = 2;

/// Which of a window's nine places was the largest: a value of the result each, on the result's device.
pub struct Places(Where);

enum Where {
    Here(Vec<u8>),
    #[cfg(feature = "cuda")]
    There(Tensor),
}

impl Places {
    fn count(&self) -> usize {
        match &self.0 {
            Where::Here(places) => places.len(),
            #[cfg(feature = "cuda")]
            Where::There(places) => places.elem_count(),
        }
    }
}

/// The largest of each window, and where it was. As in torch, the first of equal ones wins, and what is no number stays.
pub fn max_pool(x: &Maps, margin: usize) -> Result<(Maps, Places)> {
    let from = x.shape();
    let channels = from.channels;
    let to = MapsShape {
        lines: from.lines.div_ceil(STRIDE),
        pixels: from.pixels.div_ceil(STRIDE),
        ..from
    };
    #[cfg(feature = "cuda")]
    if x.values().device().is_cuda() {
        let (y, places) = super::cuda::pool::max_pool(x, to)?;
        return Ok((y, Places(Where::There(places))));
    }
    let values = values(x.values())?;
    let mut places = vec![0u8; to.all_pixels() * channels];
    let width = (to.pixels * channels).max(1);
    // Places are written with the values, line by line.
    let lines = std::sync::Mutex::new(places.chunks_mut(width).map(Some).collect::<Vec<_>>());
    let pooled = Maps::written(to, margin, |line, to_line| {
        let places = lines.lock().expect("no line panics")[line]
            .take()
            .expect("each line once");
        let (image, y) = (line / to.lines, line % to.lines);
        for (pixel, (to, places)) in to_line
            .chunks_exact_mut(channels)
            .zip(places.chunks_exact_mut(channels))
            .enumerate()
        {
            vectorized(
                #[inline(always)]
                || {
                    to.fill(f32::NEG_INFINITY);
                    for place in 0..SIDE * SIDE {
                        let Some(inside) = seen(&from, y, pixel, place) else {
                            continue;
                        };
                        let line = &values[x.line(image * from.lines + inside.0)];
                        let seen = &line[inside.1 * channels..][..channels];
                        for (to, (place_of, x)) in to.iter_mut().zip(places.iter_mut().zip(seen)) {
                            let larger = *x > *to || x.is_nan();
                            *to = if larger { *x } else { *to };
                            *place_of = if larger { place as u8 } else { *place_of };
                        }
                    }
                },
            )
        }
    })?;
    drop(lines);
    Ok((pooled, Places(Where::Here(places))))
}

/// The gradient with respect to x of shape `like`: every result's goes to where its value came from.
pub fn max_pool_backward(dy: &Maps, places: &Places, like: MapsShape) -> Result<Maps> {
    let shape = dy.shape();
    let channels = shape.channels;
    if places.count() != shape.all_pixels() * channels {
        return Err(refused(format!("{} places for {shape:?}", places.count())));
    }
    match &places.0 {
        Where::Here(places) => backward_here(dy, places, like),
        #[cfg(feature = "cuda")]
        Where::There(places) => super::cuda::pool::max_pool_backward(dy, places, like),
    }
}

/// The mean over the pixels of each image and channel, [b,c].
pub fn mean_pool(x: &Maps) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.values().device().is_cuda() {
        return super::cuda::pool::mean_pool(x);
    }
    let shape = x.shape();
    let channels = shape.channels;
    let values = values(x.values())?;
    let count = (shape.lines * shape.pixels) as f32;
    let mut means = unwritten(shape.images * channels);
    means
        .par_chunks_mut(channels.max(1))
        .enumerate()
        .for_each(|(image, means)| {
            means.fill(0.0);
            for line in 0..shape.lines {
                for pixel in values[x.line(image * shape.lines + line)].chunks_exact(channels) {
                    means.iter_mut().zip(pixel).for_each(|(mean, x)| *mean += x);
                }
            }
            means.iter_mut().for_each(|mean| *mean /= count);
        });
    tensor(means, (shape.images, channels))
}

/// The gradient with respect to x of shape `like`.
pub fn mean_pool_backward(dy_bc: &Tensor, like: MapsShape) -> Result<Maps> {
    #[cfg(feature = "cuda")]
    if dy_bc.device().is_cuda() {
        return super::cuda::pool::mean_pool_backward(dy_bc, like);
    }
    let dy = values(dy_bc)?;
    let channels = like.channels;
    let share = 1.0 / (like.lines * like.pixels) as f32;
    Maps::written(like, 0, |line, dx| {
        let dy = &dy[line / like.lines * channels..][..channels];
        for dx in dx.chunks_exact_mut(channels) {
            dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = dy * share);
        }
    })
}

fn backward_here(dy: &Maps, places: &[u8], like: MapsShape) -> Result<Maps> {
    let shape = dy.shape();
    let channels = shape.channels;
    let gradients = values(dy.values())?;
    Maps::written(like, 0, |line, dx| {
        let (image, y) = (line / like.lines, line % like.lines);
        for (pixel, dx) in dx.chunks_exact_mut(channels).enumerate() {
            vectorized(
                #[inline(always)]
                || {
                    dx.fill(0.0);
                    for (down, line_place) in reaching(y, shape.lines) {
                        let line = image * shape.lines + down;
                        let dy_line = &gradients[dy.line(line)];
                        for (across, place) in reaching(pixel, shape.pixels) {
                            let wanted = (line_place * SIDE + place) as u8;
                            let dy = &dy_line[across * channels..][..channels];
                            let places = &places[(line * shape.pixels + across) * channels..][..channels];
                            for (dx, (dy, place)) in dx.iter_mut().zip(dy.iter().zip(places)) {
                                *dx += if *place == wanted { *dy } else { 0.0 };
                            }
                        }
                    }
                },
            )
        }
    })
}

/// Where place `place` of the window of result (line, pixel) is in the image, if it is inside.
#[inline(always)]
fn seen(image: &MapsShape, line: usize, pixel: usize, place: usize) -> Option<(usize, usize)> {
    let y = (line * STRIDE + place / SIDE).checked_sub(1)?;
    let x = (pixel * STRIDE + place % SIDE).checked_sub(1)?;
    (y < image.lines && x < image.pixels).then_some((y, x))
}

/// The results whose windows see line (or pixel) `at`, each with the place at which it does, in order.
#[inline(always)]
fn reaching(at: usize, results: usize) -> impl Iterator<Item = (usize, usize)> + Clone {
    (0..SIDE).rev().filter_map(move |place| {
        let twice = (at + 1).checked_sub(place)?;
        (twice % STRIDE == 0 && twice / STRIDE < results).then_some((twice / STRIDE, place))
    })
}
