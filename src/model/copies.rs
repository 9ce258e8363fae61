//! Copies that a model computes with and that follow its trained values: in half precision, and of adapters' B in packed weights.

use super::Vit;
use crate::error::Result;
use crate::ops::low_rank;

/// When they are made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copies {
    /// Whoever changes values need not know of them.
    AtEveryForward,
    /// Whoever changes values says so.
    WhenTold,
}

impl Vit {
    /// From now on copies are made when [`Vit::refresh`] or [`Vit::place_adapters`] is called, and now: a training step computes
    /// with the same values in all its micro-batches.
    pub fn refresh_when_told(&mut self) -> Result<()> {
        self.copies = Copies::WhenTold;
        self.refresh()
    }

    /// After values were changed.
    pub fn refresh(&self) -> Result<()> {
        self.parameters.refresh()?;
        self.place_adapters()
    }

    /// After values were changed by somebody who rounded them, too: the optimizer on a GPU.
    pub fn place_adapters(&self) -> Result<()> {
        let mut layers = Vec::new();
        let mut scale = 1.0;
        for block in &self.blocks {
            let attention = &block.attention;
            if let Some(widened) = &attention.widened {
                scale = attention.adapters[0].1.scale;
                layers.push(widened.places(&attention.adapters)?);
            }
        }
        low_rank::place(&layers, scale)
    }
}
