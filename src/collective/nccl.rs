//! NCCL for gradients on GPUs; all other traffic stays with the collective that the ranks met by (MPI).
//!
//! The communicator does not block: its creation and every sum are asked for, and who waits for them or for what comes after
//! them does so in a loop that also looks at NCCL's own errors, at the clock and at what the other ranks say. So a rank
//! that is lost or stuck ends the job on all ranks, by name. Sums run on a stream of their own, ordered behind the device's
//! stream and before what follows there.

use std::ffi::CStr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use candle_core::cuda_backend::cudarc::driver::{result as driver, sys as cuda};
use candle_core::cuda_backend::cudarc::nccl::sys::{self, ncclResult_t as Code};
use candle_core::{DType, Device, Tensor};

use super::waiting::{self, Waiting};
use super::{Collective, LocalRank};
use crate::error::{Error, Result};
use crate::ops::cuda::memory;
use crate::ops::cuda::{Gpu, driver::explain, failed};

/// Ranks with a GPU each.
pub struct Nccl {
    control: Arc<dyn Collective>,
    gpu: Arc<Gpu>,
    /// None once it was aborted.
    communicator: Mutex<Option<Communicator>>,
    stream: cuda::CUstream,
    /// Recorded behind what the sum reads, and behind the sum.
    before: cuda::CUevent,
    after: cuda::CUevent,
    /// Name of every rank's host.
    hosts: Vec<String>,
}

struct Communicator(sys::ncclComm_t);

// SAFETY: NCCL lets any thread use a communicator, one at a time (the mutex); stream and events are handles that every
// thread with the context bound may use, and `Gpu::of` binds it.
unsafe impl Send for Nccl {}
// SAFETY: as above.
unsafe impl Sync for Nccl {}

/// `ncclConfig_t` as it was in NCCL 2.18; newer libraries accept it by its size and version.
#[repr(C)]
struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: i32,
    cga_cluster_size: i32,
    min_ctas: i32,
    max_ctas: i32,
    network: *const std::ffi::c_char,
    split_share: i32,
}

/// The version that it belongs to, and the oldest library that takes it.
const OLDEST: i32 = 21_800;

/// What ranks wait for, in messages.
const SUM: &str = "the sum of gradients";

const MAGIC: u32 = 0xcafe_beef;
const UNDEFINED: i32 = i32::MIN;

impl Nccl {
    /// Every rank must call it, with its own device. Errors: the library is missing on some rank, or refuses.
    pub fn join(control: Arc<dyn Collective>, device: &Device, hosts: Vec<String>) -> Result<Nccl> {
        let gpu = Gpu::of(device)?;
        let id = shared_id(&*control)?;
        let (stream, before, after) = stream_and_events().map_err(|error| refused("a stream for NCCL", &error))?;
        let mut config = Config {
            size: size_of::<Config>(),
            magic: MAGIC,
            version: OLDEST as u32,
            blocking: 0,
            cga_cluster_size: UNDEFINED,
            min_ctas: UNDEFINED,
            max_ctas: UNDEFINED,
            network: std::ptr::null(),
            split_share: UNDEFINED,
        };
        let mut communicator = std::ptr::null_mut();
        // SAFETY: `config` starts as every ncclConfig_t does and says its size, which is as much as NCCL reads; the id is
        // that of rank 0; `communicator` is written before the call returns.
        let code = unsafe {
            sys::ncclCommInitRankConfig(
                &mut communicator,
                control.world() as i32,
                id,
                control.rank() as i32,
                (&raw mut config).cast(),
            )
        };
        let nccl = Nccl {
            control,
            gpu,
            communicator: Mutex::new(Some(Communicator(communicator))),
            stream,
            before,
            after,
            hosts,
        };
        nccl.settle("ncclCommInitRankConfig", code)?;
        Ok(nccl)
    }

    fn begin_on_gpu(&self, values: &Tensor) -> Result<()> {
        let place = memory::contiguous(values)?;
        let numbers = match place.dtype {
            DType::F32 => sys::ncclDataType_t::ncclFloat32,
            DType::F64 => sys::ncclDataType_t::ncclFloat64,
            other => return Err(refused("the sum over ranks", &format!("of {other:?}"))),
        };
        let count = values.elem_count();
        let communicator = self.communicator()?;
        // SAFETY: streams and events are alive; they order the sum behind all work that was asked for before it.
        unsafe {
            cuda::cuEventRecord(self.before, self.gpu.stream())
                .result()
                .and_then(|()| cuda::cuStreamWaitEvent(self.stream, self.before, 0).result())
        }
        .map_err(|error| failed("ordering streams", explain(error)))?;
        // SAFETY: the operand holds `count` such numbers, read and written in place; what is freed in the device's stream is freed behind the sum.
        let code = unsafe {
            sys::ncclAllReduce(
                place.address() as *const _,
                place.address() as *mut _,
                count,
                numbers,
                sys::ncclRedOp_t::ncclSum,
                communicator,
                self.stream as sys::cudaStream_t,
            )
        };
        self.settle(SUM, code)
    }

    fn follow_sums(&self) -> Result<()> {
        // SAFETY: streams and events are alive; what is asked for on the device's stream from now on comes after the sums.
        unsafe {
            cuda::cuEventRecord(self.after, self.stream)
                .result()
                .and_then(|()| cuda::cuStreamWaitEvent(self.gpu.stream(), self.after, 0).result())
        }
        .map_err(|error| failed("ordering streams", explain(error)))
    }

    fn communicator(&self) -> Result<sys::ncclComm_t> {
        match &*self.lock() {
            Some(Communicator(communicator)) => Ok(*communicator),
            None => Err(refused("NCCL", "its communicator was aborted")),
        }
    }

    /// Waits until a call that was accepted is under way.
    fn settle(&self, call: &str, code: Code) -> Result<()> {
        match code {
            Code::ncclSuccess => Ok(()),
            Code::ncclInProgress => self.await_with_care(call, &mut || {
                let (mut state, communicator) = (Code::ncclSuccess, self.communicator()?);
                // SAFETY: the communicator is alive; `state` is written.
                unsafe { sys::ncclCommGetAsyncError(communicator, &mut state) };
                Ok(state != Code::ncclInProgress)
            }),
            code => Err(self.failed(call, code)),
        }
    }

    /// Waits, looking around: a rank that is lost would leave this one in a wait that nothing ends.
    fn await_with_care(&self, what: &str, is_done: &mut dyn FnMut() -> Result<bool>) -> Result<()> {
        let mut waiting = Waiting::begin(Instant::now());
        loop {
            if is_done()? {
                return self.trouble().map_or(Ok(()), |code| Err(self.failed(what, code)));
            }
            if let Some(code) = self.trouble() {
                return Err(self.failed(what, code));
            }
            let asked = waiting.looks_around(Instant::now()) && self.control.given_up();
            if asked || waiting.is_over(Instant::now()) {
                let silent = self.control.silent_ranks(waiting::PATIENCE);
                self.abort_communicator();
                return Err(waiting::absent(
                    what,
                    waiting.since(Instant::now()),
                    &silent,
                    &self.hosts,
                ));
            }
            waiting.pause();
        }
    }

    /// An error that NCCL found by itself, such as a closed connection.
    fn trouble(&self) -> Option<Code> {
        let communicator = self.communicator().ok()?;
        let mut state = Code::ncclSuccess;
        // SAFETY: as in `settle`.
        let code = unsafe { sys::ncclCommGetAsyncError(communicator, &mut state) };
        [code, state]
            .into_iter()
            .find(|code| !matches!(code, Code::ncclSuccess | Code::ncclInProgress))
    }

    fn failed(&self, what: &str, code: Code) -> Error {
        let communicator = self.communicator().unwrap_or(std::ptr::null_mut());
        // SAFETY: both give a C string that lives on.
        let [kind, details] = unsafe { [sys::ncclGetErrorString(code), sys::ncclGetLastError(communicator)] }.map(text);
        let silent = self.control.silent_ranks(waiting::PATIENCE);
        self.abort_communicator();
        waiting::broken(what, &kind, &details, &silent, &self.hosts)
    }

    fn abort_communicator(&self) {
        if let Some(Communicator(communicator)) = self.lock().take() {
            // SAFETY: taken, so nobody uses it afterwards.
            unsafe { sys::ncclCommAbort(communicator) };
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Communicator>> {
        self.communicator
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Collective for Nccl {
    fn rank(&self) -> usize {
        self.control.rank()
    }

    fn world(&self) -> usize {
        self.control.world()
    }

    fn local(&self) -> LocalRank {
        self.control.local()
    }

    fn sum_tensor(&self, values: &Tensor) -> Result<()> {
        match values.device() {
            Device::Cuda(_) if values.elem_count() > 0 => {
                self.begin_on_gpu(values)?;
                self.follow_sums()
            }
            _ => self.control.sum_tensor(values),
        }
    }

    fn sums_overlap(&self) -> bool {
        true
    }

    fn begin_sum(&self, values: &Tensor) -> Result<()> {
        match values.device() {
            Device::Cuda(_) if values.elem_count() > 0 => self.begin_on_gpu(values),
            _ => self.control.sum_tensor(values),
        }
    }

    fn join_sums(&self) -> Result<()> {
        self.follow_sums()
    }

    fn sum_f32(&self, values: &mut [f32]) -> Result<()> {
        self.control.sum_f32(values)
    }

    fn sum_f64(&self, values: &mut [f64]) -> Result<()> {
        self.control.sum_f64(values)
    }

    fn broadcast(&self, bytes: &mut [u8], root: usize) -> Result<()> {
        self.control.broadcast(bytes, root)
    }

    fn barrier(&self) -> Result<()> {
        self.control.barrier()
    }

    fn wait(&self, is_done: &mut dyn FnMut() -> Result<bool>) -> Result<()> {
        self.await_with_care(SUM, is_done)
    }

    fn given_up(&self) -> bool {
        self.control.given_up()
    }

    fn silent_ranks(&self, patience: Duration) -> Vec<usize> {
        self.control.silent_ranks(patience)
    }

    fn abort(&self, code: i32) -> ! {
        self.control.abort(code)
    }
}

impl Drop for Nccl {
    /// The orderly end, which all ranks reach; whoever panics leaves it to `abort`.
    fn drop(&mut self) {
        let Some(Communicator(communicator)) = self.lock().take() else {
            return;
        };
        if std::thread::panicking() {
            return;
        }
        // SAFETY: taken, so nobody uses it afterwards; everything asked for is done, because a run's last step is waited for.
        unsafe {
            let mut state = sys::ncclCommFinalize(communicator);
            let begun = Instant::now();
            while state == Code::ncclInProgress && begun.elapsed() < waiting::PATIENCE {
                std::thread::sleep(Duration::from_millis(1));
                sys::ncclCommGetAsyncError(communicator, &mut state);
            }
            match state {
                Code::ncclSuccess => sys::ncclCommDestroy(communicator),
                _ => sys::ncclCommAbort(communicator),
            };
        }
    }
}

/// Rank 0's id on every rank; an error on all of them if it could not make one.
fn shared_id(control: &dyn Collective) -> Result<sys::ncclUniqueId> {
    let mut id = sys::ncclUniqueId { internal: [0; 128] };
    // The library of every rank is asked, so that one without it does not leave the others waiting.
    let mut version = 0;
    // SAFETY: writes one int.
    let code = unsafe { sys::ncclGetVersion(&mut version) };
    let is_missing = code != Code::ncclSuccess;
    let mut counts =
        [is_missing, !is_missing && version < OLDEST].map(|of_this_rank| f64::from(u8::from(of_this_rank)));
    control.sum_f64(&mut counts)?;
    let of = |count: f64| format!("NCCL on {count} of {} ranks", control.world());
    match counts {
        [0.0, 0.0] => {}
        [0.0, old] => {
            let [major, minor] = [OLDEST / 10_000, OLDEST % 10_000 / 100];
            return Err(refused(&of(old), &format!("it is older than {major}.{minor}")));
        }
        [missing, _] => return Err(refused(&of(missing), "libnccl.so.2 was not found")),
    }
    let mut code = Code::ncclSuccess;
    if control.rank() == 0 {
        // SAFETY: writes the id.
        code = unsafe { sys::ncclGetUniqueId(&mut id) };
    }
    let mut bytes = [0u8; 129];
    bytes[0] = u8::from(code == Code::ncclSuccess);
    id.internal
        .iter()
        .zip(&mut bytes[1..])
        .for_each(|(from, to)| *to = *from as u8);
    control.broadcast(&mut bytes, 0)?;
    if bytes[0] == 0 {
        return Err(refused("ncclGetUniqueId on rank 0", &format!("{code:?}")));
    }
    bytes[1..]
        .iter()
        .zip(&mut id.internal)
        .for_each(|(from, to)| *to = *from as std::ffi::c_char);
    Ok(id)
}

fn stream_and_events() -> std::result::Result<(cuda::CUstream, cuda::CUevent, cuda::CUevent), String> {
    let timeless = cuda::CUevent_flags::CU_EVENT_DISABLE_TIMING;
    let make = || -> std::result::Result<_, driver::DriverError> {
        let stream = driver::stream::create(driver::stream::StreamKind::NonBlocking)?;
        Ok((
            stream,
            driver::event::create(timeless)?,
            driver::event::create(timeless)?,
        ))
    };
    make().map_err(explain)
}

fn text(pointer: *const std::ffi::c_char) -> String {
    match pointer.is_null() {
        true => String::new(),
        // SAFETY: NCCL's messages are C strings that are never freed.
        false => unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned(),
    }
}

fn refused(what: &str, cause: &str) -> Error {
    Error::Ranks {
        what: format!("{what}: {cause}"),
        fix:
            "install NCCL 2.18 or newer (libnccl.so.2, or name its folder in DTRAIN_CUDA_LIB_DIR); NCCL_DEBUG=INFO makes it say more"
                .into(),
    }
}
