//! The weights of a convolution, seen as matrices.

use candle_core::Tensor;

use super::Kernel;
use crate::error::Result;
use crate::ops::gemm::MatRef;
use crate::ops::maps::MapsShape;
use crate::ops::storage::{Values, refused, values};

/// [o,i,k,k] as matrices, one a place of the kernel.
pub(super) struct Weights<'a> {
    values: Values<'a>,
    pub outputs: usize,
    pub inputs: usize,
    pub kernel: Kernel,
}

impl<'a> Weights<'a> {
    pub fn new(w_oikk: &'a Tensor, kernel: Kernel) -> Result<Self> {
        let (outputs, inputs, side, across) = w_oikk.dims4()?;
        if side != kernel.side || across != side || side % 2 == 0 {
            return Err(refused(format!("a kernel {:?} with {kernel:?}", w_oikk.dims())));
        }
        Ok(Weights {
            values: values(w_oikk)?,
            outputs,
            inputs,
            kernel,
        })
    }

    pub fn taps(&self) -> usize {
        self.kernel.side * self.kernel.side
    }

    /// [o,i] of one tap.
    pub fn plain(&self, tap: usize) -> MatRef<'_> {
        let taps = self.taps();
        MatRef::strided(&self.values[tap..], self.outputs, self.inputs, self.inputs * taps, taps)
    }

    /// [i,o] of one tap.
    pub fn transposed(&self, tap: usize) -> MatRef<'_> {
        self.plain(tap).transposed()
    }

    pub fn result(&self, x: MapsShape) -> Result<MapsShape> {
        if x.channels != self.inputs {
            return Err(refused(format!("{} inputs for maps {x:?}", self.inputs)));
        }
        Ok(MapsShape {
            images: x.images,
            lines: self.kernel.outputs(x.lines),
            pixels: self.kernel.outputs(x.pixels),
            channels: self.outputs,
        })
    }
}
