//! CUDA graphs: what was asked of the device's stream once is recorded, and asked for again as a whole.
//!
//! Memory that is asked for meanwhile becomes part of the graph (memory nodes): its addresses stay as long as the graph lives,
//! nobody else gets them, and the driver lays things that do not live at the same time over each other. So whatever is made
//! in a recording must also be dropped in it, and nothing that was made before may be: the driver refuses either, and the
//! recording fails. Arguments of kernels are recorded with their values; what is to differ from one replay to the next lies
//! in memory of the device. A copy from ordinary memory would record an address that is gone by then, so copies from and to
//! the host, and waits, are errors while a recording is under way.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::result::{self, DriverError, mem_pool, stream};
use candle_core::cuda_backend::cudarc::driver::sys::{self, CUresult};

use super::driver::explain;
use super::{Gpu, failed};
use crate::error::Result;

/// What was recorded, ready to be replayed.
pub struct Graph {
    gpu: Arc<Gpu>,
    device: Device,
    graph: sys::CUgraph,
    executable: sys::CUgraphExec,
}

// SAFETY: graphs are handles that threads may use one at a time; whoever launches one has it to itself.
unsafe impl Send for Graph {}

/// Calls of other threads are left alone: batches go on coming meanwhile.
const MODE: sys::CUstreamCaptureMode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;

impl Graph {
    /// Records what `work` asks of the device's stream; nothing of it is done yet. Errors: `work` failed; it did what cannot
    /// be recorded; the driver cannot make a graph of it. Nothing has happened then.
    pub fn record(device: &Device, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let gpu = Gpu::of(device)?;
        let graph = captured(&gpu, work)?;
        // SAFETY: the graph is whole, and this is all that is ever made of it.
        let executable = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) };
        let executable = executable.inspect_err(|_| {
            // SAFETY: destroyed once.
            let _ = unsafe { result::graph::destroy(graph) };
        });
        let graph = Graph {
            executable: executable.map_err(|error| failed("making a graph", explain(error)))?,
            graph,
            device: device.clone(),
            gpu,
        };
        graph.gpu.graphs.fetch_add(1, Ordering::Relaxed);
        // SYNC: once for a graph. What the same work took so far is free, and kept for more of it: the graph needs its own.
        graph.gpu.release_freed()?;
        // SAFETY: both are alive.
        unsafe { result::graph::upload(graph.executable, graph.gpu.stream()) }
            .map_err(|error| failed("a graph's memory", explain(error)))?;
        Ok(graph)
    }

    /// Asks for all of it, after everything that was asked for before.
    pub fn replay(&self) -> Result<()> {
        // SAFETY: both are alive; what the kernels touch was theirs when they were recorded: memory of the graph, or of
        // whoever keeps the graph.
        let launch = || unsafe { result::graph::launch(self.executable, self.gpu.stream()) };
        let launched = match launch() {
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                // SYNC: the GPU is full of what others freed.
                self.gpu.release_freed()?;
                launch()
            }
            launched => launched,
        };
        launched.map_err(|error| failed("replaying a graph", explain(error)))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if Gpu::of(&self.device).is_err() {
            return;
        }
        self.gpu.graphs.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: destroyed once, what runs before what it was made of; the driver waits with both for a replay under way.
        unsafe {
            let _ = result::graph::exec_destroy(self.executable);
            let _ = result::graph::destroy(self.graph);
        }
    }
}

/// What `work` asked for, as a graph.
fn captured(gpu: &Gpu, work: impl FnOnce() -> Result<()>) -> Result<sys::CUgraph> {
    let refused = |error| failed("recording a graph", explain(error));
    // SAFETY: the stream is alive, and it is not the legacy default stream.
    unsafe { stream::begin_capture(gpu.stream(), MODE) }.map_err(refused)?;
    gpu.is_recording.store(true, Ordering::Relaxed);
    let done = work();
    gpu.is_recording.store(false, Ordering::Relaxed);
    // SAFETY: begun above, by this thread.
    let ended = unsafe { stream::end_capture(gpu.stream()) };
    // What went wrong where something was dropped is only noted.
    let noted = gpu.context().check_err();
    match (done, ended, noted) {
        (Ok(()), Ok(graph), Ok(())) if !graph.is_null() => Ok(graph),
        (done, ended, noted) => {
            if let Ok(graph) = &ended
                && !graph.is_null()
            {
                // SAFETY: destroyed once.
                let _ = unsafe { result::graph::destroy(*graph) };
            }
            done?;
            noted.map_err(refused)?;
            Err(ended.map_or_else(refused, |_| failed("recording a graph", "nothing was recorded")))
        }
    }
}

impl Gpu {
    /// Gives memory that was freed back to the driver, for graphs. SYNC: it must be free by then.
    fn release_freed(&self) -> Result<()> {
        self.synchronize()?;
        let mut pool = std::ptr::null_mut();
        // SAFETY: the device exists, and the pool is its own.
        unsafe {
            sys::cuDeviceGetDefaultMemPool(&mut pool, self.context().cu_device())
                .result()
                .and_then(|()| mem_pool::trim_to(pool, 0))
        }
        .map_err(|error| failed("giving memory back", explain(error)))
    }

    /// Gives memory of graphs that do not run back to the driver, for others; their next replay takes it again. False: there
    /// are none. SYNC: they must not run.
    pub(super) fn release_graphs(&self) -> bool {
        if self.graphs.load(Ordering::Relaxed) == 0 || self.is_recording() || self.synchronize().is_err() {
            return false;
        }
        // SAFETY: the device exists.
        unsafe { sys::cuDeviceGraphMemTrim(self.context().cu_device()) }
            .result()
            .is_ok()
    }
}
