//! The CUDA side of ops::intake: copies and preprocessing on a stream of their own, beside the step (kernels/preprocess.cu, erase.cu).
//!
//! What is asked for a batch, in this order, on the intake's stream:
//!
//!     record started
//!     copy   the staged batch                      host -> landing
//!     record copied      the host waits for it before it fills the same memory again
//!     wait   consumed    the step that used these samples before has read them
//!     record begun
//!     kernel preprocess                            landing and kept pictures -> samples
//!     kernel erase       if something is erased    landing -> samples
//!     copy   labels                                landing -> labels
//!     record ready       the device's stream waits for it before it reads the samples
//!     copy   pictures that stay                    landing -> kept
//!
//! The landing place is written by the next batch's copy and kept pictures are read by later batches' kernels: both come
//! later on the same stream, under a lock that lets one batch be asked for at a time. `consumed` is recorded on the device's
//! stream when the batch is given back, behind everything that was asked for it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use candle_core::cuda_backend::cudarc::driver::result::{self, DriverError, stream};
use candle_core::cuda_backend::cudarc::driver::sys::{CUevent_flags, CUstream};
use candle_core::{DType, Device, Tensor};

use super::driver::explain;
use super::event::Event;
use super::memory::contiguous;
use super::{Gpu, Output, failed};
use crate::error::Result;
use crate::ops::intake::Keep;
use crate::ops::launch::{self, Preprocess};
use crate::ops::preprocess::SLACK;
use crate::ops::staging::{Contents, Staging};

pub struct Intake {
    gpu: Arc<Gpu>,
    device: Device,
    stream: CUstream,
    /// The landing place, and behind it the pictures that are kept.
    memory: Output,
    kept: usize,
    /// One batch is asked for at a time.
    asking: Mutex<()>,
}

// SAFETY: a stream is a handle that the driver lets every thread use; so is the memory's address.
unsafe impl Send for Intake {}
// SAFETY: as above; `asking` keeps what belongs together together.
unsafe impl Sync for Intake {}

/// How far the copy of a staged batch has come: events of the host's memory.
pub struct CopyMarks {
    started: Event,
    copied: Event,
}

/// How far the making and the use of samples has come: events of their memory on the GPU.
pub struct Marks {
    begun: Event,
    ready: Event,
    consumed: Event,
}

impl Intake {
    pub fn open(device: &Device, landing: usize, kept: usize) -> Result<Intake> {
        let gpu = Gpu::of(device)?;
        // A full GPU is told with them, also if it is they that fill it.
        gpu.kept_bytes.fetch_add(kept, Ordering::Relaxed);
        let memory = Output::new(&gpu, landing + kept + SLACK, DType::U8);
        let memory = memory.inspect_err(|_| forget(&gpu, kept))?;
        // What is small and due soon goes before the step's large kernels.
        let urgent = stream::get_priority_range().map(|(_least, greatest)| greatest);
        let stream = urgent
            .and_then(|urgent| stream::create_with_priority(stream::StreamKind::NonBlocking, urgent))
            .map_err(|error| failed("a stream for images", explain(error)))?;
        let intake = Intake {
            gpu,
            device: device.clone(),
            stream,
            memory,
            kept,
            asking: Mutex::new(()),
        };
        // The memory was asked for on the device's stream; from here on it is there for the other one, too.
        intake.gpu.synchronize()?;
        Ok(intake)
    }

    /// Memory for samples and their labels, which is there for the intake's stream.
    pub fn slot(
        &self,
        pictures: usize,
        (height, width): (usize, usize),
        dtype: DType,
    ) -> Result<(Tensor, Tensor, Marks)> {
        let gpu = Gpu::of(&self.device)?;
        let pixels = Output::new(&gpu, pictures * 3 * height * width, dtype)?;
        let labels = Output::new(&gpu, pictures, DType::U32)?;
        // As in `open`.
        gpu.synchronize()?;
        Ok((
            pixels.into_tensor((pictures, 3, height, width)),
            labels.into_tensor(pictures),
            Marks::new(&self.device)?,
        ))
    }

    /// Asks for everything that makes a batch's samples. The staged memory is in use until [`CopyMarks::wait`] returns.
    pub fn prepare(
        &self,
        staging: &mut Staging,
        contents: &Contents,
        (pixels_bchw, labels_b): (&Tensor, &Tensor),
        marks: &Marks,
        keep: &[Keep],
    ) -> Result<()> {
        let _asking = self.asking.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let gpu = Gpu::of(&self.device)?;
        let (height, width) = staging.size();
        let (pixels, labels) = (contiguous(pixels_bchw)?, contiguous(labels_b)?);
        assert!(contents.pictures <= pixels_bchw.dims()[0] && contents.pictures <= labels_b.elem_count());
        let landing = self.memory.address();
        let refused = |what: &str, error: DriverError| failed(what, explain(error));
        let copy = |staging: &Staging, event: fn(&CopyMarks) -> &Event| match &staging.copy {
            Some(marks) => event(marks).record(self.stream),
            None => Err(failed("copying images", "out of memory that is not for this GPU")),
        };
        copy(staging, |marks| &marks.started)?;
        // SAFETY: the landing place is as large as any staged batch (`ops::intake` checks); the source stays as it is until
        // `copied` is reached, which whoever clears it waits for.
        unsafe { result::memcpy_htod_async(landing, staging.bytes(contents), self.stream) }
            .map_err(|error| refused("copying images to the GPU", error))?;
        copy(staging, |marks| &marks.copied)?;
        marks.consumed.precedes(self.stream)?;
        marks.begun.record(self.stream)?;
        let Preprocess { launch, strip } = Preprocess::new(contents.pictures, height, width);
        let call = gpu
            .kernel("preprocess", pixels.dtype)?
            .arg(&pixels)
            .arg(&self.memory)
            .arg(landing + contents.jobs as u64)
            .arg(landing)
            .arg(landing)
            .arg(width as u32)
            .arg(height as u32)
            .arg(strip)
            .arg(0u32);
        // SAFETY: preprocess_T(out, pixels, jobs, tables, normalization, width, height, strip, patch): all but the samples lies
        // in this intake's memory, jobs and tables as `ops::preprocess` makes them; the stream is behind the copy that
        // brought them and behind whoever read the samples last.
        unsafe { call.launch_on(self.stream, launch) }?;
        if contents.erases {
            let call = gpu.kernel("erase", pixels.dtype)?.arg(&pixels);
            let call = call.arg(landing + contents.jobs as u64).arg(landing);
            // SAFETY: erase_T(out, jobs, tables, width, height): records lie in the batch, as `ops::staging` writes them.
            unsafe {
                call.arg(width as u32)
                    .arg(height as u32)
                    .launch_on(self.stream, launch::erase(contents.pictures))
            }?;
        }
        if contents.pictures > 0 {
            let from = landing + contents.labels as u64;
            // SAFETY: both hold that many labels.
            unsafe { result::memcpy_dtod_async(labels.address(), from, 4 * contents.pictures, self.stream) }
                .map_err(|error| refused("copying labels", error))?;
        }
        marks.ready.record(self.stream)?;
        for Keep { from, to, bytes } in keep {
            // SAFETY: both ranges lie in the memory (`ops::intake` checks) and do not overlap.
            unsafe { result::memcpy_dtod_async(landing + *to as u64, landing + *from as u64, *bytes, self.stream) }
                .map_err(|error| refused("keeping images", error))?;
        }
        Ok(())
    }

    /// What is asked of the device from now on comes after the batch's samples are made.
    pub fn admit(&self, marks: &Marks) -> Result<()> {
        marks.ready.precedes(Gpu::of(&self.device)?.stream())
    }

    /// The samples may be overwritten when everything asked of the device so far is done.
    pub fn release(&self, marks: &Marks) -> Result<()> {
        marks.consumed.record(Gpu::of(&self.device)?.stream())
    }

    /// Waits until nothing is under way: before memory that it uses is freed.
    pub fn settle(&self) {
        if Gpu::of(&self.device).is_ok() {
            // SAFETY: the stream is alive. A GPU that has failed says so elsewhere.
            let _ = unsafe { stream::synchronize(self.stream) };
        }
    }
}

fn forget(gpu: &Gpu, kept: usize) {
    gpu.kept_bytes.fetch_sub(kept, Ordering::Relaxed);
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.settle();
        forget(&self.gpu, self.kept);
        // SAFETY: nothing is under way on it any more, and nobody else has it.
        let _ = unsafe { stream::destroy(self.stream) };
    }
}

impl CopyMarks {
    pub fn new(device: &Device) -> Result<CopyMarks> {
        Ok(CopyMarks {
            started: Event::new(device, CUevent_flags::CU_EVENT_DEFAULT)?,
            // The thread that waits for it sleeps meanwhile.
            copied: Event::new(device, CUevent_flags::CU_EVENT_BLOCKING_SYNC)?,
        })
    }

    /// Waits until the batch is copied; how long the copy took.
    pub fn wait(&self) -> Result<Duration> {
        self.copied.wait()?;
        Ok(self.started.until(&self.copied))
    }
}

impl Marks {
    fn new(device: &Device) -> Result<Marks> {
        Ok(Marks {
            begun: Event::new(device, CUevent_flags::CU_EVENT_DEFAULT)?,
            ready: Event::new(device, CUevent_flags::CU_EVENT_DEFAULT)?,
            consumed: Event::new(device, CUevent_flags::CU_EVENT_DISABLE_TIMING)?,
        })
    }

    /// How long making the last samples took; None while that is not known.
    pub fn spent(&self) -> Result<Option<Duration>> {
        let is_known = self.ready.is_reached()?;
        Ok(is_known.then(|| self.begun.until(&self.ready)))
    }
}
