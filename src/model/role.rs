//! How layers use weights, and so in which number format these are held where layers read them.

use candle_core::DType;

use crate::ops::device::Placement;

/// How a layer uses a weight.
#[derive(Clone, Copy)]
pub(super) enum Role {
    /// In matrix products, in the compute format.
    Multiplied,
    /// Value by value, in f32.
    Added,
}

impl Role {
    pub(super) fn format(self, placement: &Placement) -> DType {
        match self {
            Role::Multiplied => placement.compute,
            Role::Added => DType::F32,
        }
    }
}
