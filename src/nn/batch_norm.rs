//! Batch normalisation with its weights and running statistics.

use std::sync::Arc;

use candle_core::Tensor;

use super::Weight;
use crate::collective::Collective;
use crate::error::{Error, Result};
use crate::ops::maps::Maps;
use crate::ops::normalization::{self, Norm, Normalization, Passes, Sums};

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

/// The gradient of normalised values, and its sums, which the gradients of all others need.
pub struct Upstream<'a> {
    g: &'a Maps,
    passes: Passes,
    sums: Sums,
}

impl<'a> Upstream<'a> {
    pub fn new(g: &'a Maps, passes: Passes, z: &Maps, kept: &Normalization) -> Result<Self> {
        let sums = normalization::gradient_sums(g, z, kept, passes)?;
        Ok(Upstream { g, passes, sums })
    }

    /// All of `g`, whose sums are known.
    pub fn summed(g: &'a Maps, sums: Sums) -> Self {
        let passes = Passes::All;
        Upstream { g, passes, sums }
    }
}

impl Together {
    fn sum(&self, sums: &mut Sums) -> Result<()> {
        match (self, sums) {
            (Together::OfRank, _) => Ok(()),
            (Together::OfAllRanks(collective), Sums::Here(sums)) => collective.sum_f64(sums),
            #[cfg(feature = "cuda")]
            (Together::OfAllRanks(collective), Sums::There(sums)) => collective.sum_tensor(sums),
        }
    }
}

impl BatchNorm {
    /// How the samples of `z` are normalised in training; the running statistics take them in.
    ///
    /// Errors: there is one value for each channel, which cannot be told from its mean. (Only a GPU knows how many all ranks have.)
    pub fn train(&self, z: &Maps, together: &Together) -> Result<Normalization> {
        let mut sums = normalization::sums(z)?;
        together.sum(&mut sums)?;
        let of_rank = match together {
            Together::OfRank => Some(z.shape().all_pixels() as f64),
            Together::OfAllRanks(_) => None,
        };
        if of_rank.or(sums.count()) == Some(1.0) {
            return Err(Error::usage(
                "batch normalisation needs more than one value for each channel, and a micro-batch has one small image",
                "raise --per-device-train-batch-size or the size of the images",
            ));
        }
        Normalization::of_batch(sums, &self.norm())
    }

    /// What normalises in inference.
    pub fn running(&self) -> Result<Normalization> {
        Normalization::running(&self.norm())
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
        if let (Some(weight), Some(bias)) = (&self.weight.gradient, &self.bias.gradient) {
            normalization::add_weights(weight, bias, &sums, kept)?;
        }
        together.sum(&mut sums)?;
        normalization::backward(g, z, kept, &self.weight.value, &sums, passes, margin)
    }

    fn norm(&self) -> Norm<'_> {
        Norm {
            weight_c: &self.weight.value,
            bias_c: &self.bias.value,
            running_mean_c: &self.running_mean,
            running_variance_c: &self.running_variance,
            eps: self.eps,
            momentum: self.momentum,
        }
    }
}
