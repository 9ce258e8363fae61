//! The GPU of this process: its kernels, found by name, and how they are launched.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use candle_core::cuda_backend::cudarc::driver::result::{self, DriverError};
use candle_core::cuda_backend::cudarc::driver::{CudaContext, sys};
use candle_core::cuda_backend::{CudaDevice, DeviceId};
use candle_core::{DType, Device};

use super::argument::Argument;
use super::cublaslt::Blas;
use super::driver::explain;
use super::dropout::LastNames;
use super::failed;
use crate::error::{Error, Result};
use crate::ops::launch::Launch;

mod images {
    include!(concat!(env!("OUT_DIR"), "/images.rs"));
}

/// What is kept for one device beside candle's own `CudaDevice`.
///
/// Ops are plain functions on tensors and find it here. It is the one thing that the process holds globally, as the
/// driver itself holds a device's primary context.
static OPEN: RwLock<Vec<(DeviceId, Arc<Gpu>)>> = RwLock::new(Vec::new());

pub struct Gpu {
    pub(super) device: CudaDevice,
    stream: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    functions: Mutex<HashMap<String, Function>>,
    /// Dynamic shared memory that a block may be given, in bytes.
    most_shared_bytes: u32,
    pub(super) blas: Mutex<Option<Blas>>,
    pub(super) names: Mutex<Option<LastNames>>,
    /// Bytes that are set aside, or just asked for, for pictures that stay.
    pub(super) kept_bytes: AtomicUsize,
    /// What is asked of the stream is recorded, not done.
    pub(super) is_recording: AtomicBool,
    /// Recorded ones that there are.
    pub(super) graphs: AtomicUsize,
}

// SAFETY: streams, modules and functions are handles that the driver lets every thread use once the context is bound to
// it, which `Gpu::of` does.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// Dynamic shared memory that it may use, in bytes.
    shared_limit: u32,
}

impl Gpu {
    /// Loads the kernels for a device; once each.
    pub fn open(device: &CudaDevice) -> Result<Arc<Gpu>> {
        let stream = device.cuda_stream();
        stream
            .context()
            .bind_to_thread()
            .map_err(|error| failed("the GPU's context", explain(error)))?;
        let mut modules = Vec::with_capacity(images::IMAGES.len());
        for (name, image) in images::IMAGES {
            // SAFETY: a whole fat binary that nvcc made; it carries its own length.
            let module = unsafe { result::module::load_data(image.as_ptr().cast()) };
            modules.push(module.map_err(|error| failed(format!("loading the kernels of {name}"), explain(error)))?);
        }
        let gpu = Arc::new(Gpu {
            device: device.clone(),
            stream: stream.cu_stream(),
            modules,
            functions: Mutex::default(),
            most_shared_bytes: most_shared_bytes(device)?,
            blas: Mutex::default(),
            names: Mutex::default(),
            kept_bytes: AtomicUsize::new(0),
            is_recording: AtomicBool::new(false),
            graphs: AtomicUsize::new(0),
        });
        write(&OPEN).push((device.id(), gpu.clone()));
        Ok(gpu)
    }

    /// That of a tensor's device. Binds the context to the calling thread.
    pub fn of(device: &Device) -> Result<Arc<Gpu>> {
        let Device::Cuda(device) = device else {
            return Err(failed("a tensor on the GPU is needed", format!("{device:?}")));
        };
        let found = OPEN.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let found = found
            .iter()
            .find(|(id, _)| *id == device.id())
            .map(|(_, gpu)| gpu.clone());
        let gpu = found.ok_or_else(|| failed("the GPU", "opened past ops::device::open"))?;
        let context = gpu.device.cuda_stream();
        match context.context().bind_to_thread() {
            Ok(()) => Ok(gpu),
            Err(error) => Err(failed("the GPU's context", explain(error))),
        }
    }

    pub fn stream(&self) -> sys::CUstream {
        self.stream
    }

    pub(super) fn context(&self) -> Arc<CudaContext> {
        self.device.cuda_stream().context().clone()
    }

    pub(super) fn is_recording(&self) -> bool {
        self.is_recording.load(Ordering::Relaxed)
    }

    /// An error while work is recorded: `what` cannot be.
    pub(super) fn is_direct(&self, what: &str) -> Result<()> {
        match self.is_recording() {
            false => Ok(()),
            true => Err(failed(what, "cannot be recorded")),
        }
    }

    /// Dynamic shared memory that a block may be given, in bytes: 227 KiB on Hopper, 163 or 99 KiB on Ampere.
    pub fn most_shared_bytes(&self) -> u32 {
        self.most_shared_bytes
    }

    /// Begins a call of kernel `name`, which is declared for `dtype` (`gelu` for f16 is `gelu_f16`).
    pub fn kernel(&self, name: &str, dtype: DType) -> Result<Call<'_>> {
        self.exact_kernel(&format!("{name}_{}", suffix(dtype)?))
    }

    /// Begins a call of the kernel of exactly this name.
    pub fn exact_kernel(&self, name: &str) -> Result<Call<'_>> {
        Ok(Call {
            gpu: self,
            function: self.function(name)?,
            name: name.to_owned(),
            cells: Vec::with_capacity(16),
        })
    }

    /// Waits until everything that was asked of the GPU is done.
    pub fn synchronize(&self) -> Result<()> {
        self.is_direct("a wait for the GPU")?;
        // SAFETY: the stream lives as long as the device that `self` holds.
        unsafe { result::stream::synchronize(self.stream) }.map_err(|error| failed("the GPU", explain(error)))
    }

    fn function(&self, name: &str) -> Result<Function> {
        let mut functions = self.functions.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(function) = functions.get(name) {
            return Ok(*function);
        }
        let symbol = CString::new(name).map_err(|error| failed(name, error))?;
        let found = self.modules.iter().find_map(|module| {
            // SAFETY: the module was loaded by `open` and is never unloaded.
            unsafe { result::module::get_function(*module, symbol.clone()) }.ok()
        });
        let handle = found.ok_or_else(|| failed(format!("kernel {name}"), "in none of the embedded images"))?;
        let function = Function {
            handle,
            shared_limit: 48 << 10,
        };
        functions.insert(name.to_owned(), function);
        Ok(function)
    }

    /// Lets a kernel use more dynamic shared memory than the 48 KiB that every kernel may.
    fn allow_shared(&self, name: &str, function: Function, bytes: u32) -> Result<()> {
        use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as LIMIT;
        // SAFETY: a function of a loaded module.
        unsafe { sys::cuFuncSetAttribute(function.handle, LIMIT, bytes as i32) }
            .result()
            .map_err(|error| {
                failed(
                    format!("{bytes} bytes of shared memory for kernel {name}"),
                    explain(error),
                )
            })?;
        let mut functions = self.functions.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        functions.insert(
            name.to_owned(),
            Function {
                shared_limit: bytes,
                ..function
            },
        );
        Ok(())
    }
}

/// A kernel and its arguments so far, in the order of its declaration.
pub struct Call<'a> {
    gpu: &'a Gpu,
    function: Function,
    name: String,
    /// Each argument at the start of eight bytes; the driver reads as many as the kernel's parameter has.
    cells: Vec<u64>,
}

impl Call<'_> {
    pub fn arg(mut self, value: impl Argument) -> Self {
        self.cells.push(value.cell());
        self
    }

    pub fn args(mut self, values: [u64; 2]) -> Self {
        self.cells.extend(values);
        self
    }

    /// Asks the GPU to run it after everything asked before.
    ///
    /// # Safety
    /// The arguments are those of the kernel's declaration in number, order and kind, and the kernel, launched so,
    /// touches only memory that its operands own.
    pub unsafe fn launch(self, launch: Launch) -> Result<()> {
        let stream = self.gpu.stream;
        // SAFETY: the device's stream, and this function's own contract.
        unsafe { self.launch_on(stream, launch) }
    }

    /// As `launch`, after what was asked of another stream.
    ///
    /// # Safety
    /// As for `launch`; and the stream is alive and ordered against whoever else uses that memory.
    pub unsafe fn launch_on(mut self, stream: sys::CUstream, launch: Launch) -> Result<()> {
        if launch.is_empty() {
            return Ok(()); // nothing to do
        }
        if launch.shared_bytes > self.function.shared_limit {
            self.gpu.allow_shared(&self.name, self.function, launch.shared_bytes)?;
        }
        let mut pointers: Vec<*mut c_void> = self.cells.iter_mut().map(|cell| (&raw mut *cell).cast()).collect();
        // SAFETY: the function is alive, each pointer leads to eight readable bytes, and the rest is this function's own
        // contract.
        let done = unsafe {
            result::launch_kernel(
                self.function.handle,
                launch.grid.into(),
                launch.block.into(),
                launch.shared_bytes,
                stream,
                &mut pointers,
            )
        };
        done.map_err(|error: DriverError| failed(format!("kernel {} by {launch:?}", self.name), explain(error)))
    }
}

fn most_shared_bytes(device: &CudaDevice) -> Result<u32> {
    use sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as MOST;
    let bytes = device.cuda_stream().context().attribute(MOST);
    Ok(bytes.map_err(|error| failed("the GPU's shared memory", explain(error)))? as u32)
}

/// How the entry points of the kernels name a number format.
pub fn suffix(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("f32"),
        DType::F16 => Ok("f16"),
        DType::BF16 => Ok("bf16"),
        other => Err(Error::Tensor(candle_core::Error::Msg(format!(
            "no kernels for {other:?}"
        )))),
    }
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(|poisoned| poisoned.into_inner())
}
