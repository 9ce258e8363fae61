//! Batch normalisation with its weights and running statistics.

use std::sync::Arc;

use candle_core::Tensor;

use super::Weight;
use crate::collective::Collective;
use crate::error::{Error, Result};
use crate::ops::batch_norm::{self, Affine, Moments, Passes};
use crate::ops::maps::Maps;
use crate::ops::storage::{update, values};

#[derive(Clone)]
pub struct BatchNorm {
    /// [c]
    pub weight: Weight,
    /// [c]
    pub bias: Weight,
    /// [c], what inference normalises with.
    pub running_mean: Tensor,
    /// [c], unbiased.
    pub running_variance: Tensor,
    pub eps: f64,
    /// The share of a new batch in the running statistics.
    pub momentum: f64,
}

/// Which samples are normalised together while training.
#[derive(Clone)]
pub enum Together {
    /// The micro-batch of this rank, as DistributedDataParallel does.
    OfRank,
    /// Those of all ranks, as SyncBatchNorm does.
    OfAllRanks(Arc<dyn Collective>),
}

/// What the backward pass needs besides the input.
pub struct Normalization {
    pub moments: Moments,
    pub affine: Affine,
}

/// The gradient of normalised values, and its sums, which the gradients of all others need.
pub struct Upstream<'a> {
    g: &'a Maps,
    passes: Passes<'a>,
    sums: Vec<f64>,
}

impl<'a> Upstream<'a> {
    pub fn new(g: &'a Maps, passes: Passes<'a>, z: &Maps, kept: &Normalization) -> Result<Self> {
        let sums = batch_norm::gradient_sums(g, z, &kept.moments, passes)?;
        Ok(Upstream { g, passes, sums })
    }

    /// All of `g`, whose sums are known.
    pub fn summed(g: &'a Maps, sums: Vec<f64>) -> Self {
        let passes = Passes::All;
        Upstream { g, passes, sums }
    }
}

impl Together {
    fn sum(&self, sums: &mut [f64]) -> Result<()> {
        match self {
            Together::OfRank => Ok(()),
            Together::OfAllRanks(collective) => collective.sum_f64(sums),
        }
    }
}

impl BatchNorm {
    /// How the samples of `z` are normalised in training; the running statistics take them in.
    ///
    /// Errors: there is one value for each channel, which cannot be told from its mean.
    pub fn train(&self, z: &Maps, together: &Together) -> Result<Normalization> {
        let mut sums = batch_norm::sums(z)?;
        together.sum(&mut sums)?;
        let count = sums[0];
        if count == 1.0 {
            return Err(Error::usage(
                "batch normalisation needs more than one value for each channel, and a micro-batch has one small image",
                "raise --per-device-train-batch-size or the size of the images",
            ));
        }
        let moments = match count > 0.0 {
            true => Moments::of(&sums, self.eps),
            false => Moments::running(&values(&self.running_mean)?, &values(&self.running_variance)?, self.eps),
        };
        if count > 0.0 {
            let unbiased = count / (count - 1.0);
            let mean = moments.mean_c.iter().map(|mean| f64::from(*mean));
            self.take_in(&self.running_mean, mean)?;
            self.take_in(&self.running_variance, moments.variance_c.iter().map(|v| v * unbiased))?;
        }
        Ok(Normalization {
            affine: self.affine(&moments)?,
            moments,
        })
    }

    /// What normalises in inference.
    pub fn running(&self) -> Result<Affine> {
        let (mean, variance) = (values(&self.running_mean)?, values(&self.running_variance)?);
        self.affine(&Moments::running(&mean, &variance, self.eps))
    }

    /// From the gradient of the normalised values to that of `z`, inside of a new margin; adds to those of weight and bias.
    pub fn backward(
        &self,
        upstream: Upstream,
        z: &Maps,
        kept: &Normalization,
        together: &Together,
        margin: usize,
    ) -> Result<Maps> {
        let Upstream { g, passes, mut sums } = upstream;
        let c = sums.len() / 2;
        if let (Some(weight), Some(bias)) = (&self.weight.gradient, &self.bias.gradient) {
            let products = sums[c..].iter().zip(&kept.moments.rstd_c);
            add(weight, products.map(|(sum, rstd)| (sum * f64::from(*rstd)) as f32))?;
            add(bias, sums[..c].iter().map(|sum| *sum as f32))?;
        }
        together.sum(&mut sums)?;
        let weight = values(&self.weight.value)?;
        batch_norm::batch_norm_backward(g, z, &kept.moments, &weight, &sums, passes, margin)
    }

    fn affine(&self, moments: &Moments) -> Result<Affine> {
        Ok(moments.affine(&values(&self.weight.value)?, &values(&self.bias.value)?))
    }

    fn take_in(&self, running: &Tensor, new: impl Iterator<Item = f64>) -> Result<()> {
        update(running, |running| {
            for (running, new) in running.iter_mut().zip(new) {
                *running = ((1.0 - self.momentum) * f64::from(*running) + self.momentum * new) as f32;
            }
        })
    }
}

fn add(to: &Tensor, values: impl Iterator<Item = f32>) -> Result<()> {
    update(to, |to| to.iter_mut().zip(values).for_each(|(to, value)| *to += value))
}
