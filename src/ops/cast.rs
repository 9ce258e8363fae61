//! Number formats: f32 everywhere, and on a GPU f16 or bf16 for what is multiplied.

use candle_core::{DType, Device, Tensor};

use super::storage::{refused, update, values};
use crate::error::Result;

/// x in the format `dtype`, rounded to nearest; x itself if it has it. On a CPU there is f32 only.
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.dtype() == dtype {
        return Ok(x.clone());
    }
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return super::cuda::elementwise::cast(x, dtype);
    }
    Err(refused(format!("{dtype:?} on {:?}", x.device())))
}

/// y = x, rounded to y's format; of the same count.
pub fn cast_into(y: &Tensor, x: &Tensor) -> Result<()> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return super::cuda::elementwise::cast_into(y, x);
    }
    let x = values(x)?;
    match y.elem_count() == x.len() && y.is_contiguous() {
        true => update(y, |y| y.copy_from_slice(&x)),
        false => Err(refused(format!("{} values into {:?}", x.len(), y.layout()))),
    }
}

/// The f32 tensor of a CPU on `device`, rounded to `dtype`; itself if it is there.
pub fn sent(here: &Tensor, device: &Device, dtype: DType) -> Result<Tensor> {
    match (device, dtype) {
        (Device::Cpu, DType::F32) => Ok(here.clone()),
        #[cfg(feature = "cuda")]
        (Device::Cuda(_), _) if here.device().is_cuda() && here.dtype() == dtype => Ok(here.clone()),
        #[cfg(feature = "cuda")]
        (Device::Cuda(_), _) => super::cuda::memory::sent(here, device, dtype),
        _ => Err(refused(format!("{dtype:?} on {device:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::storage::tensor;

    #[test]
    fn a_cpu_has_f32_only() {
        let x = tensor(vec![1.0, -2.5], 2).unwrap();
        assert_eq!(cast(&x, DType::F32).unwrap().to_vec1::<f32>().unwrap(), [1.0, -2.5]);
        assert!(cast(&x, DType::F16).is_err() && sent(&x, &Device::Cpu, DType::BF16).is_err());
        let y = tensor(vec![0.0; 2], (1, 2)).unwrap();
        cast_into(&y, &x).unwrap();
        assert_eq!(y.to_vec2::<f32>().unwrap(), [[1.0, -2.5]]);
        assert!(cast_into(&x.narrow(0, 0, 1).unwrap(), &x).is_err());
    }
}
