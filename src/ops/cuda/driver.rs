//! The NVIDIA driver before a device is open: is it there, is it new enough, which GPUs does it show.

use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::result::{self, DriverError};
use candle_core::cuda_backend::cudarc::driver::sys::{self, CUresult};

use super::gpu::Gpu;

/// What the driver offers.
pub struct Driver {
    /// Visible GPUs, at least 1.
    pub devices: usize,
}

/// Why it offers nothing.
pub enum Problem {
    /// libcuda.so.1 is not there.
    NoDriver,
    NoDevice,
    /// CUDA versions: `12.2`.
    TooOld {
        has: String,
        needs: String,
    },
    Failed(String),
}

/// One GPU.
pub struct Description {
    pub name: String,
    pub uuid: String,
    /// Major and minor number.
    pub capability: (i32, i32),
}

/// The toolkit that this program was built with: `13.0`.
const BUILT_WITH: &str = env!("DTRAIN_CUDA_VERSION");

/// Initialises the driver. That takes tenths of a second.
pub fn probe() -> Result<Driver, Problem> {
    let mut version = 0;
    // SAFETY: writes one int. The call needs no initialised driver.
    match unsafe { sys::cuDriverGetVersion(&mut version) } {
        CUresult::CUDA_SUCCESS => {}
        CUresult::CUDA_ERROR_STUB_LIBRARY => return Err(Problem::NoDriver),
        other => return Err(Problem::Failed(explain(DriverError(other)))),
    }
    let needed: i32 = BUILT_WITH.split('.').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    if version / 1000 < needed {
        return Err(Problem::TooOld {
            has: format!("{}.{}", version / 1000, version % 1000 / 10),
            needs: format!("{needed}.0"),
        });
    }
    result::init().map_err(|error| match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => Problem::NoDevice,
        _ => Problem::Failed(explain(error)),
    })?;
    match result::device::get_count() {
        Ok(0) => Err(Problem::NoDevice),
        Ok(devices) => Ok(Driver {
            devices: devices as usize,
        }),
        Err(error) => Err(Problem::Failed(explain(error))),
    }
}

/// Name and abilities of visible GPU `ordinal`; needs [`probe`] before.
pub fn describe(ordinal: usize) -> Result<Description, String> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let describe = || -> Result<Description, DriverError> {
        let device = result::device::get(ordinal as i32)?;
        let uuid = result::device::get_uuid(device)?;
        // SAFETY: `device` came out of cuDeviceGet.
        let capability = unsafe {
            (
                result::device::get_attribute(device, MAJOR)?,
                result::device::get_attribute(device, MINOR)?,
            )
        };
        Ok(Description {
            name: result::device::get_name(device)?,
            uuid: uuid.bytes.iter().map(|byte| format!("{:02x}", *byte as u8)).collect(),
            capability,
        })
    };
    describe().map_err(explain)
}

/// Opens visible GPU `ordinal` with a stream of its own.
pub fn open(ordinal: usize) -> Result<Device, String> {
    let device = Device::new_cuda_with_stream(ordinal).map_err(|error| error.to_string())?;
    let Device::Cuda(cuda) = &device else {
        return Err("candle gave another device".to_owned());
    };
    // SAFETY: every tensor of this program is made, used and freed on the device's one stream; the one other stream there
    // is (NCCL's) orders itself with events of its own.
    unsafe { cuda.disable_event_tracking() };
    keep_freed_memory(ordinal).map_err(explain)?;
    Gpu::open(cuda).map_err(|error| error.to_string())?;
    Ok(device)
}

/// Freed blocks stay with the process: by default they go back to the driver at every synchronisation.
fn keep_freed_memory(ordinal: usize) -> Result<(), DriverError> {
    let device = result::device::get(ordinal as i32)?;
    let mut pool = std::ptr::null_mut();
    let mut threshold = u64::MAX;
    // SAFETY: the device exists, the pool is the one it gave, and the attribute is a u64.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&mut pool, device).result()?;
        sys::cuMemPoolSetAttribute(
            pool,
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            (&raw mut threshold).cast(),
        )
        .result()
    }
}

/// Why the GPU takes no more work from this process, if it does not. Needs the context of the calling thread.
pub fn loss() -> Option<String> {
    // SAFETY: asks about the default stream, which always exists; nothing is waited for.
    let error = unsafe { sys::cuStreamQuery(std::ptr::null_mut()) };
    // Memory errors (214, 220), illegal accesses and instructions, traps, timeouts, and what a GPU answers that fell off its bus.
    match error as u32 {
        214 | 220 | 700 | 702 | 710 | 714..=719 | 721 | 999 => Some(explain(DriverError(error))),
        _ => None,
    }
}

/// What the driver says of an error, in words.
pub fn explain(error: DriverError) -> String {
    match error.error_string() {
        Ok(text) => format!("{} ({:?})", text.to_string_lossy(), error.0),
        Err(_) => format!("{:?}", error.0),
    }
}
