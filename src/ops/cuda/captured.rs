//! The CUDA side of ops::captured: a micro-batch's graph, and the memory that it reads its inputs from.

use candle_core::{DType, Device, Tensor};

use super::dropout::FixedNames;
use super::graph::Graph;
use super::memory::{copy_into, zeros};
use crate::error::Result;
use crate::ops::captured::MicroBatch;
use crate::ops::soft_cross_entropy::{MixedThere, TargetsThere};

pub struct Captured {
    /// Goes before the memory that it reads.
    graph: Graph,
    inputs: Inputs,
}

/// Like a micro-batch, in memory that stays.
struct Inputs {
    pixels_bchw: Tensor,
    targets: TargetsThere,
    names: FixedNames,
}

impl Captured {
    pub fn record(like: &MicroBatch, work: impl FnOnce(&MicroBatch) -> Result<()>) -> Result<Captured> {
        let device = like.pixels_bchw.device();
        let inputs = Inputs::like(like, device)?;
        inputs.fill(like)?;
        let fixed = MicroBatch {
            pixels_bchw: inputs.pixels_bchw.clone(),
            targets: inputs.targets.clone(),
            names: like.names,
        };
        let standing = inputs.names.stand_for(&like.names)?;
        let graph = Graph::record(device, || work(&fixed));
        drop(standing);
        Ok(Captured { graph: graph?, inputs })
    }

    /// Is a micro-batch like the one that was recorded?
    pub fn fits(&self, with: &MicroBatch) -> bool {
        let (ours, theirs) = (&self.inputs.pixels_bchw, &with.pixels_bchw);
        let is_mixed = [&self.inputs.targets, &with.targets].map(|targets| targets.mixed.is_some());
        (ours.dims(), ours.dtype()) == (theirs.dims(), theirs.dtype()) && is_mixed[0] == is_mixed[1]
    }

    pub fn replay(&self, with: &MicroBatch) -> Result<()> {
        self.inputs.fill(with)?;
        self.graph.replay()
    }
}

impl Inputs {
    fn like(micro_batch: &MicroBatch, device: &Device) -> Result<Inputs> {
        let MicroBatch {
            pixels_bchw,
            targets,
            names,
        } = micro_batch;
        let b = names.samples.len();
        Ok(Inputs {
            pixels_bchw: zeros(pixels_bchw.elem_count(), pixels_bchw.dtype(), device)?.reshape(pixels_bchw.shape())?,
            targets: TargetsThere {
                labels_b: zeros(b, DType::U32, device)?,
                mixed: match targets.mixed {
                    Some(_) => Some(MixedThere {
                        second_labels_b: zeros(b, DType::U32, device)?,
                        shares_b: zeros(b, DType::F32, device)?,
                    }),
                    None => None,
                },
                // The same in all micro-batches.
                weights_c: targets.weights_c.clone(),
                smoothing: targets.smoothing,
            },
            names: FixedNames::new(device, b)?,
        })
    }

    /// Copies on the GPU, but for the names, which the host alone has.
    fn fill(&self, from: &MicroBatch) -> Result<()> {
        copy_into(&self.pixels_bchw, &from.pixels_bchw)?;
        copy_into(&self.targets.labels_b, &from.targets.labels_b)?;
        if let (Some(to), Some(from)) = (&self.targets.mixed, &from.targets.mixed) {
            copy_into(&to.second_labels_b, &from.second_labels_b)?;
            copy_into(&to.shares_b, &from.shares_b)?;
        }
        self.names.fill(&from.names)
    }
}
