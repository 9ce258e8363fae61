//! Gradients of batch normalisation, and of a rectifier behind it.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::lanes::{self, filled_up, vectors};
use super::{Affine, BlockSums, Blocks, Moments, over_blocks, total};
use crate::error::Result;
use crate::ops::maps::Maps;
use crate::ops::storage::{Values, refused, update, values};

/// Which gradients of a result reach its normalised value.
#[derive(Clone, Copy)]
pub enum Passes<'a> {
    All,
    /// Those where x·scale + shift is positive: a rectifier follows.
    Positive(&'a Affine),
}

/// Σ g and Σ g·(x - mean) of each channel, [2c].
pub fn gradient_sums(g: &Maps, x: &Maps, moments: &Moments, passes: Passes) -> Result<Vec<f64>> {
    let shape = x.shape();
    let (gradients, input) = operands(g, x)?;
    let gate = Gate::new(moments, passes);
    Ok(over_blocks(shape, |lines, sum, product| {
        for line in lines {
            Arch::new().dispatch(AddUp {
                channels: shape.channels,
                g: &gradients[g.line(line)],
                x: &input[x.line(line)],
                gate: &gate,
                sum,
                product,
            });
        }
    }))
}

/// The same where a rectifier follows an addition whose rectified result is y: g becomes 0 in place wherever y is not
/// positive, and is summed on the way. It has no margin.
pub fn rectified_gradient_sums(g: &Maps, y: &Maps, x: &Maps, moments: &Moments) -> Result<Vec<f64>> {
    let shape = x.shape();
    let channels = shape.channels;
    if g.shape() != shape || y.shape() != shape || g.margin() != 0 {
        let shapes = [g.shape(), y.shape(), shape];
        return Err(refused(format!("gradients, results and inputs {shapes:?}")));
    }
    let (results, input) = (values(y.values())?, values(x.values())?);
    let mean = filled_up(&moments.mean_c);
    let (blocks, width) = (Blocks::of(shape), (shape.pixels * channels).max(1));
    let partial: Vec<BlockSums> = update(g.values(), |g| {
        let of_blocks = g.par_chunks_mut(blocks.at_a_time * width).enumerate();
        let partial = of_blocks.map(|(block, g)| {
            let mut sums = BlockSums::new(channels);
            for (line, g) in blocks.lines(block).zip(g.chunks_exact_mut(width)) {
                Arch::new().dispatch(RectifyAndAddUp {
                    channels,
                    g,
                    y: &results[y.line(line)],
                    x: &input[x.line(line)],
                    mean: &mean,
                    sum: &mut sums.first,
                    product: &mut sums.second,
                });
            }
            sums
        });
        partial.collect()
    })?;
    Ok(total(channels, &partial))
}

/// The gradient with respect to x, inside of a new margin, from [`gradient_sums`] over all values that were normalised
/// together.
///
/// dx = w·rstd·(g - Σg/n - (x - mean)·rstd²·Σg(x - mean)/n)
pub fn batch_norm_backward(
    g: &Maps,
    x: &Maps,
    moments: &Moments,
    weight_c: &[f32],
    sums: &[f64],
    passes: Passes,
    margin: usize,
) -> Result<Maps> {
    let shape = x.shape();
    let c = shape.channels;
    let (gradients, input) = operands(g, x)?;
    let n = moments.count;
    let factor = |channel: usize| f64::from(weight_c[channel]) * f64::from(moments.rstd_c[channel]);
    let of_g: Vec<f32> = (0..c).map(|channel| factor(channel) as f32).collect();
    let constant: Vec<f32> = (0..c)
        .map(|channel| (factor(channel) * sums[channel] / n) as f32)
        .collect();
    let of_x: Vec<f32> = (0..c)
        .map(|channel| {
            let rstd = f64::from(moments.rstd_c[channel]);
            (factor(channel) * rstd * rstd * sums[c + channel] / n) as f32
        })
        .collect();
    let gate = Gate::new(moments, passes);
    let [of_g, constant, of_x] = [of_g, constant, of_x].map(|values| filled_up(&values));
    Maps::written(shape, margin, |line, dx| {
        Arch::new().dispatch(Weigh {
            channels: c,
            dx,
            g: &gradients[g.line(line)],
            x: &input[x.line(line)],
            gate: &gate,
            of_g: &of_g,
            constant: &constant,
            of_x: &of_x,
        })
    })
}

/// What lets gradients through, and the mean, of all channels, filled up.
struct Gate {
    /// Scale and shift whose result is positive where gradients pass.
    scale: Vec<f32>,
    shift: Vec<f32>,
    mean: Vec<f32>,
}

impl Gate {
    fn new(moments: &Moments, passes: Passes) -> Gate {
        let c = moments.mean_c.len();
        let (scale, shift) = match passes {
            Passes::All => (vec![0.0; c], vec![1.0; c]),
            Passes::Positive(affine) => (affine.scale_c.clone(), affine.shift_c.clone()),
        };
        Gate {
            scale: filled_up(&scale),
            shift: filled_up(&shift),
            mean: filled_up(&moments.mean_c),
        }
    }
}

/// Adds g, where it passes, and g·(x - mean) of a line.
struct AddUp<'a> {
    channels: usize,
    g: &'a [f32],
    x: &'a [f32],
    gate: &'a Gate,
    sum: &'a mut [f32],
    product: &'a mut [f32],
}

impl WithSimd for AddUp<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let AddUp {
            channels, g, x, gate, ..
        } = self;
        let [scale, shift, mean] = [&gate.scale, &gate.shift, &gate.mean].map(
            #[inline(always)]
            |values| vectors::<S>(values),
        );
        let (sum, product) = (S::as_mut_simd_f32s(self.sum).0, S::as_mut_simd_f32s(self.product).0);
        lanes::over_two(
            simd,
            channels,
            g,
            x,
            #[inline(always)]
            |at, g, x| {
                let g = where_positive(simd, simd.mul_add_f32s(x, scale[at], shift[at]), g);
                sum[at] = simd.add_f32s(sum[at], g);
                product[at] = simd.mul_add_f32s(g, simd.sub_f32s(x, mean[at]), product[at]);
            },
        )
    }
}

/// Lets g of a line pass where y is positive, and adds it and g·(x - mean).
struct RectifyAndAddUp<'a> {
    channels: usize,
    g: &'a mut [f32],
    y: &'a [f32],
    x: &'a [f32],
    mean: &'a [f32],
    sum: &'a mut [f32],
    product: &'a mut [f32],
}

impl WithSimd for RectifyAndAddUp<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mean = vectors::<S>(self.mean);
        let (sum, product) = (S::as_mut_simd_f32s(self.sum).0, S::as_mut_simd_f32s(self.product).0);
        lanes::change(
            simd,
            self.channels,
            self.g,
            self.y,
            self.x,
            #[inline(always)]
            |at, g, y, x| {
                let g = where_positive(simd, y, g);
                sum[at] = simd.add_f32s(sum[at], g);
                product[at] = simd.mul_add_f32s(g, simd.sub_f32s(x, mean[at]), product[at]);
                g
            },
        )
    }
}

/// dx = of_g·g - constant - of_x·(x - mean) of a line, where g passes.
struct Weigh<'a> {
    channels: usize,
    dx: &'a mut [f32],
    g: &'a [f32],
    x: &'a [f32],
    gate: &'a Gate,
    of_g: &'a [f32],
    constant: &'a [f32],
    of_x: &'a [f32],
}

impl WithSimd for Weigh<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let gate = self.gate;
        let tables: [&[f32]; 6] = [
            &gate.scale,
            &gate.shift,
            &gate.mean,
            self.of_g,
            self.constant,
            self.of_x,
        ];
        let [scale, shift, mean, of_g, constant, of_x] = tables.map(
            #[inline(always)]
            |values| vectors::<S>(values),
        );
        lanes::write(
            simd,
            self.channels,
            self.dx,
            self.g,
            self.x,
            #[inline(always)]
            |at, g, x| {
                let g = where_positive(simd, simd.mul_add_f32s(x, scale[at], shift[at]), g);
                let rest = simd.mul_add_f32s(simd.sub_f32s(x, mean[at]), of_x[at], constant[at]);
                simd.mul_add_f32s(of_g[at], g, simd.neg_f32s(rest))
            },
        )
    }
}

/// g where `what` is positive, 0 elsewhere.
#[inline(always)]
fn where_positive<S: Simd>(simd: S, what: S::f32s, g: S::f32s) -> S::f32s {
    let passes = simd.greater_than_f32s(what, simd.splat_f32s(0.0));
    let (g, zero) = (simd.transmute_u32s_f32s(g), simd.splat_u32s(0));
    simd.transmute_f32s_u32s(simd.select_u32s(passes, g, zero))
}

fn operands<'a>(g: &'a Maps, x: &'a Maps) -> Result<(Values<'a>, Values<'a>)> {
    if g.shape() != x.shape() {
        return Err(refused(format!("gradients {:?} of {:?}", g.shape(), x.shape())));
    }
    Ok((values(g.values())?, values(x.values())?))
}
