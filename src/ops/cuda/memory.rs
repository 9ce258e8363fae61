//! Tensors on the GPU as addresses: read, written in place, made without a zeroing pass, brought to the host and back.

use std::sync::atomic::Ordering;

use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::cuda_backend::cudarc::driver::result::{self, DriverError};
use candle_core::cuda_backend::cudarc::driver::sys::{CUdeviceptr, CUresult};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr, DeviceRepr};
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, DType, Device, Layout, Shape, Storage, StorageRef, Tensor};
use half::{bf16, f16};

use super::argument::Argument;
use super::driver::explain;
use super::{Gpu, failed};
use crate::error::{Error, Result, SMALLER_STEPS};
use crate::ops::storage::values;

/// A tensor's place in the GPU's memory, held as long as this lives.
///
/// Work that was asked for outlives it: memory is freed in the stream's order, after that work.
pub struct Operand<'a> {
    _storage: StorageRef<'a>,
    address: CUdeviceptr,
    pub layout: &'a Layout,
    pub dtype: DType,
}

/// The first value of a tensor on the GPU; it may be read and, as all work is in one order, written.
pub fn operand(tensor: &Tensor) -> Result<Operand<'_>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(cuda) = &*storage else {
        return Err(failed(
            "a tensor on the GPU is needed",
            format!("{:?}", tensor.device()),
        ));
    };
    let address = address(cuda)? + (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64;
    Ok(Operand {
        address,
        layout,
        dtype: tensor.dtype(),
        _storage: storage,
    })
}

/// The same of a tensor that must be contiguous.
pub fn contiguous(tensor: &Tensor) -> Result<Operand<'_>> {
    match tensor.is_contiguous() {
        true => operand(tensor),
        false => Err(failed(
            "a contiguous tensor is needed",
            format!("{:?}", tensor.layout()),
        )),
    }
}

impl Operand<'_> {
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The address `values` further on.
    pub fn at(&self, values: usize) -> u64 {
        self.address + (values * self.dtype.size_in_bytes()) as u64
    }
}

impl Argument for &Operand<'_> {
    fn cell(self) -> u64 {
        self.address
    }
}

/// None is the null pointer.
impl Argument for Option<&Operand<'_>> {
    fn cell(self) -> u64 {
        self.map_or(0, |operand| operand.address)
    }
}

/// Fresh memory that a kernel is going to fill.
pub struct Output {
    slice: CudaStorageSlice,
    address: CUdeviceptr,
    device: candle_core::CudaDevice,
}

impl Output {
    /// Memory for `count` numbers, with whatever is in it.
    pub fn new(gpu: &Gpu, count: usize, dtype: DType) -> Result<Output> {
        use CudaStorageSlice as S;
        let (slice, address) = match dtype {
            DType::F32 => allocate::<f32>(gpu, count, S::F32)?,
            DType::F16 => allocate::<f16>(gpu, count, S::F16)?,
            DType::BF16 => allocate::<bf16>(gpu, count, S::BF16)?,
            DType::F64 => allocate::<f64>(gpu, count, S::F64)?,
            DType::U32 => allocate::<u32>(gpu, count, S::U32)?,
            DType::U8 => allocate::<u8>(gpu, count, S::U8)?,
            other => return Err(failed("no memory for numbers of this kind", format!("{other:?}"))),
        };
        Ok(Output {
            slice,
            address,
            device: gpu.device.clone(),
        })
    }

    pub fn address(&self) -> u64 {
        self.address
    }

    /// The tensor that the memory becomes; everything in it must have been asked to be written.
    pub fn into_tensor(self, shape: impl Into<Shape>) -> Tensor {
        let storage = CudaStorage {
            slice: self.slice,
            device: self.device,
        };
        Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
    }
}

impl Argument for &Output {
    fn cell(self) -> u64 {
        self.address
    }
}

/// The values of a tensor on the GPU, as f32, from its first to its last one in memory. SYNC: waits for the GPU.
pub fn to_host(tensor: &Tensor, span: usize) -> Result<Vec<f32>> {
    let gpu = Gpu::of(tensor.device())?;
    let from = operand(tensor)?;
    Ok(match from.dtype {
        DType::F32 => download(&gpu, from.address, span, 0f32)?,
        DType::F16 => download(&gpu, from.address, span, f16::ZERO)?
            .into_iter()
            .map(f16::to_f32)
            .collect(),
        DType::BF16 => download(&gpu, from.address, span, bf16::ZERO)?
            .into_iter()
            .map(bf16::to_f32)
            .collect(),
        other => return Err(failed("f32 is needed", format!("{other:?}"))),
    })
}

/// Overwrites the values of a tensor on the GPU, from its first to its last one in memory, rounding to its type.
pub fn from_host(tensor: &Tensor, values: &[f32]) -> Result<()> {
    let gpu = Gpu::of(tensor.device())?;
    let to = operand(tensor)?;
    match to.dtype {
        DType::F32 => upload(&gpu, to.address, values),
        DType::F16 => upload(
            &gpu,
            to.address,
            &values.iter().map(|x| f16::from_f32(*x)).collect::<Vec<_>>(),
        ),
        DType::BF16 => upload(
            &gpu,
            to.address,
            &values.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>(),
        ),
        other => Err(failed("f32 is needed", format!("{other:?}"))),
    }
}

/// A copy of a CPU tensor on the GPU, rounded to `dtype`.
pub fn sent(here: &Tensor, device: &Device, dtype: DType) -> Result<Tensor> {
    let there = Output::new(&*Gpu::of(device)?, here.elem_count(), dtype)?.into_tensor(here.shape());
    from_host(&there, &values(here)?)?;
    Ok(there)
}

/// Bytes of the GPU's memory that are free, and all of them.
pub fn free_bytes(device: &Device) -> Result<(usize, usize)> {
    Gpu::of(device)?;
    result::mem_get_info().map_err(|error| failed("the GPU's memory", explain(error)))
}

pub fn zeros(n: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let gpu = Gpu::of(device)?;
    let fresh = Output::new(&gpu, n, dtype)?;
    clear(&gpu, fresh.address, n * dtype.size_in_bytes())?;
    Ok(fresh.into_tensor(n))
}

/// A tensor of `values` on the GPU.
pub fn uploaded<T: DeviceRepr>(gpu: &Gpu, values: &[T], dtype: DType) -> Result<Output> {
    let output = Output::new(gpu, values.len(), dtype)?;
    assert_eq!(size_of::<T>(), dtype.size_in_bytes());
    upload(gpu, output.address, values)?;
    Ok(output)
}

/// The same of words, as a tensor.
pub fn words(values: &[u32], device: &Device) -> Result<Tensor> {
    Ok(uploaded(&*Gpu::of(device)?, values, DType::U32)?.into_tensor(values.len()))
}

/// to = from, a copy on the GPU.
pub fn copy_into(to: &Tensor, from: &Tensor) -> Result<()> {
    let gpu = Gpu::of(to.device())?;
    let (to_at, from_at) = (contiguous(to)?, contiguous(from)?);
    if to.dims() != from.dims() || to_at.dtype != from_at.dtype {
        return Err(failed("a copy", format!("of {:?} to {:?}", from.shape(), to.shape())));
    }
    let bytes = to.elem_count() * to_at.dtype.size_in_bytes();
    if bytes == 0 {
        return Ok(());
    }
    // SAFETY: both hold that many bytes.
    unsafe { result::memcpy_dtod_async(to_at.address, from_at.address, bytes, gpu.stream()) }
        .map_err(|error| failed("copying on the GPU", explain(error)))
}

/// Zero bytes from `address` on.
pub fn clear(gpu: &Gpu, address: u64, bytes: usize) -> Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    // SAFETY: callers give the address of an operand or output that holds so many bytes.
    unsafe { result::memset_d8_async(address, 0, bytes, gpu.stream()) }.map_err(|e| failed("the GPU", explain(e)))
}

pub fn download<T: Copy>(gpu: &Gpu, address: u64, count: usize, zero: T) -> Result<Vec<T>> {
    let mut values = vec![zero; count];
    if count > 0 {
        gpu.is_direct("a copy from the GPU")?;
        // SAFETY: callers give the address of an operand with so many values; the copy is waited for below.
        unsafe { result::memcpy_dtoh_async(&mut values, address, gpu.stream()) }
            .map_err(|error| failed("copying from the GPU", explain(error)))?;
        gpu.synchronize()?;
    }
    Ok(values)
}

/// Writes `values` from `address` on, where there is room for them.
pub(super) fn upload<T>(gpu: &Gpu, address: u64, values: &[T]) -> Result<()> {
    if values.is_empty() {
        return Ok(());
    }
    gpu.is_direct("a copy to the GPU")?;
    // SAFETY: as for `download`; from ordinary (not pinned) memory the call returns when the values are staged.
    unsafe { result::memcpy_htod_async(address, values, gpu.stream()) }
        .map_err(|error| failed("copying to the GPU", explain(error)))
}

fn allocate<T: DeviceRepr>(
    gpu: &Gpu,
    count: usize,
    wrap: fn(CudaSlice<T>) -> CudaStorageSlice,
) -> Result<(CudaStorageSlice, CUdeviceptr)> {
    let stream = gpu.device.cuda_stream();
    // SAFETY: whoever asks for an output has it written before it is read. Empty blocks are not asked of the driver.
    let ask = || unsafe { stream.alloc::<T>(count.max(1)) };
    let slice = match ask() {
        Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) if gpu.release_graphs() => ask(),
        asked => asked,
    };
    let slice = slice.map_err(|error| refused(gpu, error, count * size_of::<T>()))?;
    let address = slice.device_ptr(&stream).0;
    Ok((wrap(slice), address))
}

fn refused(gpu: &Gpu, error: DriverError, bytes: usize) -> Error {
    if error.0 != CUresult::CUDA_ERROR_OUT_OF_MEMORY {
        return failed("allocating memory on the GPU", explain(error));
    }
    let gib = |bytes: usize| bytes as f64 / (1u64 << 30) as f64;
    let (free, total) = result::mem_get_info().unwrap_or((0, 0));
    Error::GpuMemory {
        what: "loading the model".to_owned(),
        needed_gib: gib(bytes),
        free_gib: gib(free),
        total_gib: gib(total),
        pictures_gib: gib(gpu.kept_bytes.load(Ordering::Relaxed)),
        fix: SMALLER_STEPS,
    }
}

fn address(storage: &CudaStorage) -> Result<CUdeviceptr> {
    use CudaStorageSlice as S;
    let stream = storage.device.cuda_stream();
    Ok(match &storage.slice {
        S::F32(slice) => slice.device_ptr(&stream).0,
        S::F16(slice) => slice.device_ptr(&stream).0,
        S::BF16(slice) => slice.device_ptr(&stream).0,
        S::F64(slice) => slice.device_ptr(&stream).0,
        S::U32(slice) => slice.device_ptr(&stream).0,
        S::U8(slice) => slice.device_ptr(&stream).0,
        _ => return Err(failed("no kernels for numbers of this kind", "on the GPU")),
    })
}
