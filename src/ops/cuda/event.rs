//! Events: marks in the order of a stream, for other streams and the host to wait for, and to tell time by.

use std::time::Duration;

use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::result::{DriverError, event, stream};
use candle_core::cuda_backend::cudarc::driver::sys::{CUevent, CUevent_flags, CUevent_wait_flags, CUresult, CUstream};

use super::driver::explain;
use super::{Gpu, failed};
use crate::error::Result;

pub(super) struct Event {
    handle: CUevent,
    device: Device,
}

// SAFETY: an event is a handle that the driver lets every thread use.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

/// Flags of waiting for an event.
const WAIT: CUevent_wait_flags = CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;

impl Event {
    pub(super) fn new(device: &Device, flags: CUevent_flags) -> Result<Event> {
        Gpu::of(device)?;
        let handle = event::create(flags).map_err(|error| failed("an event", explain(error)))?;
        Ok(Event {
            handle,
            device: device.clone(),
        })
    }

    /// Is reached when everything asked of `stream` so far is done.
    pub(super) fn record(&self, stream: CUstream) -> Result<()> {
        // SAFETY: event and stream are alive.
        unsafe { event::record(self.handle, stream) }.map_err(|error| failed("ordering streams", explain(error)))
    }

    /// What is asked of `stream` from now on is done after it. One that was never recorded is not waited for.
    pub(super) fn precedes(&self, stream: CUstream) -> Result<()> {
        // SAFETY: as above.
        unsafe { stream::wait_event(stream, self.handle, WAIT) }
            .map_err(|error| failed("ordering streams", explain(error)))
    }

    /// The host waits until it is reached.
    pub(super) fn wait(&self) -> Result<()> {
        Gpu::of(&self.device)?;
        // SAFETY: the event is alive.
        unsafe { event::synchronize(self.handle) }.map_err(|error| failed("the GPU", explain(error)))
    }

    /// Whether it is reached, or was never recorded.
    pub(super) fn is_reached(&self) -> Result<bool> {
        Gpu::of(&self.device)?;
        // SAFETY: the event is alive.
        match unsafe { event::query(self.handle) } {
            Ok(()) => Ok(true),
            Err(DriverError(CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            Err(error) => Err(failed("the GPU", explain(error))),
        }
    }

    /// Time between this event and a later one, both of which were reached; zero if they were never recorded.
    pub(super) fn until(&self, later: &Event) -> Duration {
        // SAFETY: both are alive.
        let milliseconds = unsafe { event::elapsed(self.handle, later.handle) }.unwrap_or(0.0);
        Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if Gpu::of(&self.device).is_ok() {
            // SAFETY: created by `new` and destroyed once; the driver keeps one that is still waited for.
            let _ = unsafe { event::destroy(self.handle) };
        }
    }
}
