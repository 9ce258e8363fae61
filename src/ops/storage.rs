//! The f32 values of tensors as slices: read without a copy, written in place, made without a zeroing pass.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::{Deref, Range};

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Shape, Storage, StorageRef, Tensor};

use super::meter;
use crate::error::{Error, Result};

/// The values under a tensor, held for reading as long as this lives.
pub struct Values<'a>(Held<'a>);

enum Held<'a> {
    Here {
        storage: StorageRef<'a>,
        range: Range<usize>,
    },
    /// A copy of what lies on a GPU.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    Brought(Vec<f32>),
}

impl Deref for Values<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            Held::Here { storage, range } => match &**storage {
                Storage::Cpu(CpuStorage::F32(all)) => &all[range.clone()],
                _ => unreachable!("checked when the values were taken"),
            },
            Held::Brought(values) => values,
        }
    }
}

/// The values of a contiguous f32 tensor in row-major order. Those of a GPU (also f16 and bf16) are copied, and waited for.
pub fn values(tensor: &Tensor) -> Result<Values<'_>> {
    if !tensor.is_contiguous() {
        return Err(refused(format!(
            "a contiguous tensor is needed, not {:?}",
            tensor.layout()
        )));
    }
    spanned(tensor)
}

/// The stretch of storage from the first to the last value of an f32 tensor; its strides say what is whose.
pub fn spanned(tensor: &Tensor) -> Result<Values<'_>> {
    meter::bytes(size_of::<f32>() * tensor.elem_count());
    let (storage, layout) = tensor.storage_and_layout();
    let range = span(layout);
    match &*storage {
        Storage::Cpu(CpuStorage::F32(_)) => Ok(Values(Held::Here { storage, range })),
        Storage::Cpu(_) => Err(refused(format!("f32 is needed, not {:?}", tensor.dtype()))),
        #[cfg(feature = "cuda")]
        Storage::Cuda(_) => Ok(Values(Held::Brought(super::cuda::memory::to_host(
            tensor,
            range.len(),
        )?))),
        other => Err(refused(format!("no values on {:?}", other.device()))),
    }
}

/// Lets `write` change the values of an f32 tensor in place; it gets the stretch that [`spanned`] gives.
///
/// All views of the same storage see the change. Nobody may hold [`Values`] of the same storage. The values of a GPU are
/// brought here and back: for loading and the like, not for a step.
pub fn update<R>(tensor: &Tensor, write: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
    meter::bytes(2 * size_of::<f32>() * tensor.elem_count());
    change(tensor, write)
}

/// The same where `write` reads no old value.
pub(super) fn overwrite<R>(tensor: &Tensor, write: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
    meter::bytes(size_of::<f32>() * tensor.elem_count());
    change(tensor, write)
}

fn change<R>(tensor: &Tensor, write: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
    #[cfg(feature = "cuda")]
    if tensor.device().is_cuda() {
        use super::cuda::memory;
        let mut values = memory::to_host(tensor, span(tensor.layout()).len())?;
        let result = write(&mut values);
        memory::from_host(tensor, &values)?;
        return Ok(result);
    }
    let op = Update {
        write: Cell::new(Some(write)),
        result: Cell::new(None),
    };
    tensor.inplace_op1(&op)?;
    op.result
        .into_inner()
        .ok_or_else(|| refused("an update did not run".into()))
}

/// `n` floats with whatever values the allocator left there. The caller writes every one before anybody reads it.
pub(crate) fn unwritten(n: usize) -> Vec<f32> {
    let mut fresh: Vec<MaybeUninit<f32>> = Vec::with_capacity(n);
    // SAFETY: the capacity is n, and MaybeUninit needs no initial value.
    unsafe { fresh.set_len(n) };
    let mut fresh = std::mem::ManuallyDrop::new(fresh);
    // SAFETY: same allocation, length and layout; every bit pattern is an f32, and by this function's contract each is
    // written before it is read.
    unsafe { Vec::from_raw_parts(fresh.as_mut_ptr().cast(), n, fresh.capacity()) }
}

/// A CPU tensor that takes over `values`.
pub fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    meter::bytes(size_of::<f32>() * values.len());
    Ok(Tensor::from_vec(values, shape.into(), &Device::Cpu)?)
}

/// `values` on `device`.
pub fn words(values: &[u32], device: &Device) -> Result<Tensor> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => super::cuda::memory::words(values, device),
        _ => Ok(Tensor::new(values, device)?),
    }
}

/// `n` zeros.
pub fn zeros(n: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => super::cuda::memory::zeros(n, dtype, device),
        _ => Ok(Tensor::zeros(n, dtype, device)?),
    }
}

/// A refusal of operands: always a bug of a caller.
pub(crate) fn refused(what: String) -> Error {
    Error::Tensor(candle_core::Error::Msg(what))
}

/// A destination that several threads write at once, each in its own places.
#[derive(Clone, Copy)]
pub(crate) struct Shared(*mut f32);

// SAFETY: only the address is shared; whoever writes through it proves in place that no two threads write the same value.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn new(values: &mut [f32]) -> Self {
        Shared(values.as_mut_ptr())
    }

    /// The place `offset` values further on.
    pub(crate) fn shifted(self, offset: usize) -> Self {
        Shared(self.at(offset))
    }

    pub(crate) fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

struct Update<F, R> {
    write: Cell<Option<F>>,
    result: Cell<Option<R>>,
}

impl<R, F: FnOnce(&mut [f32]) -> R> InplaceOp1 for Update<F, R> {
    fn name(&self) -> &'static str {
        "update"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let CpuStorage::F32(all) = storage else {
            candle_core::bail!("an update in place needs f32");
        };
        if let Some(write) = self.write.take() {
            self.result.set(Some(write(&mut all[span(layout)])));
        }
        Ok(())
    }
}

fn span(layout: &Layout) -> Range<usize> {
    let start = layout.start_offset();
    if layout.shape().elem_count() == 0 {
        return start..start;
    }
    let reach: usize = layout
        .dims()
        .iter()
        .zip(layout.stride())
        .map(|(n, s)| (n - 1) * s)
        .sum();
    start..start + reach + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_updated_in_place_and_nothing_around_it() {
        let all = tensor((0..12).map(|v| v as f32).collect(), (3, 4)).unwrap();
        let column = all.narrow(1, 1, 2).unwrap();
        update(&column, |span| {
            assert_eq!(span, [1., 2., 3., 4., 5., 6., 7., 8., 9., 10.]);
            span[0] = -1.0;
            span[9] = -2.0;
        })
        .unwrap();
        let expected: Vec<f32> = vec![0., -1., 2., 3., 4., 5., 6., 7., 8., 9., -2., 11.];
        assert_eq!(&values(&all).unwrap()[..], expected);
        assert!(values(&column).is_err());
    }

    #[test]
    fn other_types_are_refused() {
        let whole = Tensor::new(&[1u32, 2], &Device::Cpu).unwrap();
        assert!(values(&whole).is_err());
        assert!(update(&whole, |_| ()).is_err());
    }
}
