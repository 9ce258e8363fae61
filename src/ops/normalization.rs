//! Batch normalisation with weights and running statistics, on whichever device the maps lie.
//!
//! On a CPU what is known of channels are numbers of the host (`batch_norm`); on a GPU it stays there, so that no step waits for it.

use candle_core::Tensor;

use super::batch_norm::{self, Affine, Moments, Then};
#[cfg(feature = "cuda")]
use super::cuda::batch_norm as gpu;
use super::maps::Maps;
#[cfg(feature = "cuda")]
use super::storage::refused;
use super::storage::{update, values};
use crate::error::Result;

/// What a normalisation has learned. All [c] f32.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    pub weight_c: &'a Tensor,
    pub bias_c: &'a Tensor,
    /// What inference normalises with.
    pub running_mean_c: &'a Tensor,
    /// Unbiased.
    pub running_variance_c: &'a Tensor,
    pub eps: f64,
    /// The share of a new batch in the running statistics.
    pub momentum: f64,
}

/// f64 sums over maps, which ranks that normalise together add up.
pub enum Sums {
    Here(Vec<f64>),
    #[cfg(feature = "cuda")]
    There(Tensor),
}

/// How maps are normalised.
pub enum Normalization {
    Here {
        moments: Moments,
        affine: Affine,
    },
    #[cfg(feature = "cuda")]
    There(gpu::Moments),
}

/// What is added to the normalised values.
#[derive(Clone, Copy)]
pub enum Beside<'a> {
    Nothing,
    Maps(&'a Maps),
    /// These maps, normalised, too.
    Normalized(&'a Maps, &'a Normalization),
}

/// Which gradients of a result reach its normalised value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passes {
    All,
    /// Those where the normalised value is positive: a rectifier follows.
    Positive,
}

/// Of each channel of x: how many values, their sum and that of their squares.
pub fn sums(x: &Maps) -> Result<Sums> {
    #[cfg(feature = "cuda")]
    if x.values().device().is_cuda() {
        return Ok(Sums::There(gpu::sums(x)?));
    }
    Ok(Sums::Here(batch_norm::sums(x)?))
}

impl Sums {
    /// Of sums over maps: how many values each channel has, where the host knows.
    pub fn count(&self) -> Option<f64> {
        match self {
            Sums::Here(sums) => Some(sums[0]),
            #[cfg(feature = "cuda")]
            Sums::There(_) => None,
        }
    }
}

impl Normalization {
    /// By the moments of a batch, which the running statistics take in; by these if the sums are of nothing.
    pub fn of_batch(sums: Sums, norm: &Norm) -> Result<Normalization> {
        match sums {
            Sums::Here(sums) => Normalization::of_batch_here(&sums, norm),
            #[cfg(feature = "cuda")]
            Sums::There(sums) => Ok(Normalization::There(gpu::train(sums, norm)?)),
        }
    }

    /// By the running statistics, as inference does it.
    pub fn running(norm: &Norm) -> Result<Normalization> {
        #[cfg(feature = "cuda")]
        if norm.weight_c.device().is_cuda() {
            return Ok(Normalization::There(gpu::running(norm)?));
        }
        let (mean, variance) = (values(norm.running_mean_c)?, values(norm.running_variance_c)?);
        Normalization::here(Moments::running(&mean, &variance, norm.eps), norm)
    }

    fn of_batch_here(sums: &batch_norm::Sums, norm: &Norm) -> Result<Normalization> {
        let count = sums[0];
        if count == 0.0 {
            return Normalization::running(norm);
        }
        let moments = Moments::of(sums, norm.eps);
        let unbiased = count / (count - 1.0);
        let mean = moments.mean_c.iter().map(|mean| f64::from(*mean));
        take_in(norm.running_mean_c, norm.momentum, mean)?;
        take_in(
            norm.running_variance_c,
            norm.momentum,
            moments.variance_c.iter().map(|v| v * unbiased),
        )?;
        Normalization::here(moments, norm)
    }

    fn here(moments: Moments, norm: &Norm) -> Result<Normalization> {
        let affine = moments.affine(&values(norm.weight_c)?, &values(norm.bias_c)?);
        Ok(Normalization::Here { moments, affine })
    }
}

/// then(normalised x + beside), inside of a new margin.
pub fn normalized(x: &Maps, how: &Normalization, beside: Beside, then: Then, margin: usize) -> Result<Maps> {
    match how {
        Normalization::Here { affine, .. } => {
            let beside = match beside {
                Beside::Nothing => batch_norm::Beside::Nothing,
                Beside::Maps(maps) => batch_norm::Beside::Maps(maps),
                Beside::Normalized(maps, Normalization::Here { affine, .. }) => {
                    batch_norm::Beside::Normalized(maps, affine)
                }
                #[cfg(feature = "cuda")]
                Beside::Normalized(..) => return Err(apart()),
            };
            batch_norm::normalized(x, affine, beside, then, margin)
        }
        #[cfg(feature = "cuda")]
        Normalization::There(moments) => {
            let beside = match beside {
                Beside::Nothing => None,
                Beside::Maps(maps) => Some((maps, None)),
                Beside::Normalized(maps, Normalization::There(moments)) => Some((maps, Some(moments))),
                Beside::Normalized(..) => return Err(apart()),
            };
            gpu::normalized(x, moments, beside, then)
        }
    }
}

/// Of each channel: the sum of g, and that of g·(x - mean).
pub fn gradient_sums(g: &Maps, x: &Maps, how: &Normalization, passes: Passes) -> Result<Sums> {
    Ok(match how {
        Normalization::Here { moments, affine } => {
            Sums::Here(batch_norm::gradient_sums(g, x, moments, gate(passes, affine))?)
        }
        #[cfg(feature = "cuda")]
        Normalization::There(moments) => Sums::There(gpu::gradient_sums(g, x, moments, passes == Passes::Positive)?),
    })
}

/// The same where a rectifier follows an addition whose rectified result is y: g becomes 0 in place wherever y is not
/// positive, and is summed on the way. It has no margin.
pub fn rectified_gradient_sums(g: &Maps, y: &Maps, x: &Maps, how: &Normalization) -> Result<Sums> {
    Ok(match how {
        Normalization::Here { moments, .. } => Sums::Here(batch_norm::rectified_gradient_sums(g, y, x, moments)?),
        #[cfg(feature = "cuda")]
        Normalization::There(moments) => Sums::There(gpu::rectified_gradient_sums(g, y, x, moments)?),
    })
}

/// Adds the gradients of weight and bias, from gradient sums.
pub fn add_weights(gw_c: &Tensor, gb_c: &Tensor, sums: &Sums, how: &Normalization) -> Result<()> {
    match (sums, how) {
        (Sums::Here(sums), Normalization::Here { moments, .. }) => {
            let (of_bias, products) = sums.split_at(sums.len() / 2);
            let products = products.iter().zip(&moments.rstd_c);
            add(gw_c, products.map(|(sum, rstd)| (sum * f64::from(*rstd)) as f32))?;
            add(gb_c, of_bias.iter().map(|sum| *sum as f32))
        }
        #[cfg(feature = "cuda")]
        (Sums::There(sums), Normalization::There(moments)) => gpu::add_weights(gw_c, gb_c, sums, moments),
        #[cfg(feature = "cuda")]
        _ => Err(apart()),
    }
}

/// The gradient with respect to x, inside of a new margin, from gradient sums over all values that were normalised together.
pub fn backward(
    g: &Maps,
    x: &Maps,
    how: &Normalization,
    weight_c: &Tensor,
    sums: &Sums,
    passes: Passes,
    margin: usize,
) -> Result<Maps> {
    match (sums, how) {
        (Sums::Here(sums), Normalization::Here { moments, affine }) => {
            let weight = values(weight_c)?;
            batch_norm::batch_norm_backward(g, x, moments, &weight, sums, gate(passes, affine), margin)
        }
        #[cfg(feature = "cuda")]
        (Sums::There(sums), Normalization::There(moments)) => {
            gpu::backward(g, x, moments, weight_c, sums, passes == Passes::Positive)
        }
        #[cfg(feature = "cuda")]
        _ => Err(apart()),
    }
}

fn gate(passes: Passes, affine: &Affine) -> batch_norm::Passes<'_> {
    match passes {
        Passes::All => batch_norm::Passes::All,
        Passes::Positive => batch_norm::Passes::Positive(affine),
    }
}

fn take_in(running: &Tensor, momentum: f64, new: impl Iterator<Item = f64>) -> Result<()> {
    update(running, |running| {
        for (running, new) in running.iter_mut().zip(new) {
            *running = ((1.0 - momentum) * f64::from(*running) + momentum * new) as f32;
        }
    })
}

fn add(to: &Tensor, values: impl Iterator<Item = f32>) -> Result<()> {
    update(to, |to| to.iter_mut().zip(values).for_each(|(to, value)| *to += value))
}

#[cfg(feature = "cuda")]
fn apart() -> crate::error::Error {
    refused("statistics of a batch on another device".into())
}
