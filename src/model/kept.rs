//! What a model keeps between the forward and the backward pass.

use candle_core::Tensor;

use crate::nn::BlockKept;
use crate::ops::dropout::DropoutNames;
use crate::ops::layer_norm::Moments;

/// How much is kept of each block. Which one changes no bit of the gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// All that the backward pass reads.
    Kept,
    /// The block's input; the rest is computed once more (Chen et al., Training deep nets with sublinear memory cost, 2016).
    Recomputed,
}

/// What backward needs of the last forward.
pub(super) struct Kept {
    pub patches_btk: Option<Tensor>,
    /// From the lowest trained block on.
    pub blocks: Vec<OfBlock>,
    pub x_b1d: Tensor,
    pub moments: Moments,
    pub features_b1d: Tensor,
    pub names: Option<OwnedNames>,
}

pub(super) enum OfBlock {
    All(BlockKept),
    Input(Tensor),
}

pub(super) struct OwnedNames {
    seed: u64,
    epoch: u32,
    samples: Vec<u64>,
}

impl OwnedNames {
    pub fn of(names: &DropoutNames) -> Self {
        OwnedNames {
            seed: names.seed,
            epoch: names.epoch,
            samples: names.samples.to_vec(),
        }
    }

    pub fn names(&self) -> DropoutNames<'_> {
        DropoutNames {
            seed: self.seed,
            epoch: self.epoch,
            samples: &self.samples,
        }
    }
}
