//! What PyTorch computed for single layers.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::{close, common};

/// One layer's tensors of `layers.safetensors`.
pub struct Stored {
    layer: &'static str,
    tensors: BTreeMap<String, Tensor>,
}

impl Stored {
    pub fn open(layer: &'static str) -> Option<Stored> {
        let bytes = std::fs::read(common::shared("parity/layers.safetensors")?).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let floats = file
            .tensors()
            .into_iter()
            .filter(|(_, t)| t.dtype() == safetensors::Dtype::F32);
        let tensors = floats
            .map(|(name, t)| {
                let values: Vec<f32> = t
                    .data()
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                    .collect();
                (name, Tensor::from_vec(values, t.shape(), &Device::Cpu).unwrap())
            })
            .collect();
        Some(Stored { layer, tensors })
    }

    /// A copy: some operations write in place.
    pub fn get(&self, name: &str) -> Tensor {
        self.tensors[&format!("{}.{name}", self.layer)].copy().unwrap()
    }

    /// Both sides are f32: 1e-5.
    pub fn check(&self, name: &str, ours: &Tensor) {
        close(&format!("{}.{name}", self.layer), ours, &self.get(name), 1e-5);
    }
}
