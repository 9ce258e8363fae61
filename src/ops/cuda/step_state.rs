//! What a GPU knows of a run's steps by itself: norm, overflow, loss scale, learning rate, counts (kernels/adamw.cu).
//!
//! The host asks for updates without knowing whether they will be done, and reads later what came of them: each reading is
//! a copy into pinned memory behind the work that it tells of, and an event behind the copy.

use candle_core::cuda_backend::cudarc::driver::result::{self, DriverError};
use candle_core::cuda_backend::cudarc::driver::sys::{self, CUresult};
use candle_core::{DType, Device, Tensor};

use super::driver::explain;
use super::memory::{contiguous, from_host, operand, uploaded};
use super::{Gpu, Output, failed};
use crate::error::Result;
use crate::ops::launch;
use crate::ops::soft_cross_entropy::Factors;
use crate::ops::step_state::{Read, Setup, Update};

/// Numbers that kernels/adamw.cu calls `state`; the losses of micro-batches lie behind them.
const STATE: usize = 9;
/// Numbers that it calls `constants`; the last is the loss scale.
const CONSTANTS: usize = 9;
/// Readings that may be under way: one step is read while the next one is asked for.
const READINGS: usize = 2;

pub struct StepState {
    setup: Setup,
    /// [STATE + micro_batches] f64
    state: Tensor,
    /// [CONSTANTS] f32
    constants: Tensor,
    /// Of every step, f64.
    rates: Tensor,
    /// [1] f32, and what was put there.
    per_sample: Tensor,
    per_sample_is: f32,
    readings: [Place; READINGS],
    next: usize,
}

/// Where a reading arrives.
struct Place {
    pinned: *mut f64,
    event: sys::CUevent,
}

// SAFETY: pinned memory and events are handles that every thread may use, one at a time: who changes either has `&mut`.
unsafe impl Send for StepState {}

impl StepState {
    pub fn new(setup: Setup, device: &Device) -> Result<StepState> {
        let gpu = Gpu::of(device)?;
        let micro_batches = setup.micro_batches;
        let mut state = vec![0f64; STATE + micro_batches];
        state[0] = setup.updates as f64;
        state[1] = setup.loss_scale.into();
        state[2] = setup.clean_steps.into();
        state[4] = setup.skipped as f64;
        let mut constants = vec![0f32; CONSTANTS];
        constants[CONSTANTS - 1] = setup.loss_scale;
        let place =
            || Place::new(state.len()).map_err(|error| failed("memory to read a step's outcome", explain(error)));
        Ok(StepState {
            readings: [place()?, place()?],
            next: 0,
            state: uploaded(&gpu, &state, DType::F64)?.into_tensor(state.len()),
            constants: uploaded(&gpu, &constants, DType::F32)?.into_tensor(CONSTANTS),
            rates: uploaded(&gpu, &setup.rates, DType::F64)?.into_tensor(setup.rates.len()),
            per_sample: uploaded(&gpu, &[0f32], DType::F32)?.into_tensor(1),
            per_sample_is: 0.0,
            setup,
        })
    }

    /// What gradients are multiplied by in the micro-batches that are asked for from now on; `per_sample` is copied there if
    /// it has changed, in most runs once.
    pub fn factors(&mut self, per_sample: f32) -> Result<Factors> {
        if per_sample != self.per_sample_is {
            from_host(&self.per_sample, &[per_sample])?;
            self.per_sample_is = per_sample;
        }
        Ok(Factors {
            per_sample: self.per_sample.clone(),
            loss_scale: self.constants.narrow(0, CONSTANTS - 1, 1)?,
        })
    }

    /// 0 if the step that was judged last is skipped, [1] f32.
    pub fn applied(&self) -> Result<Tensor> {
        Ok(self.constants.narrow(0, 0, 1)?)
    }

    /// Notes the sum of a micro-batch's losses.
    pub fn note_losses(&self, losses_b: &Tensor) -> Result<()> {
        let gpu = Gpu::of(losses_b.device())?;
        let (state, losses) = (contiguous(&self.state)?, contiguous(losses_b)?);
        let call = gpu.exact_kernel("step_loss")?.arg(&state).arg(state.at(STATE));
        let call = call.arg(self.setup.micro_batches as u32).arg(&losses);
        // SAFETY: step_loss(state, sums, count, losses, b); there are as many sums behind the state.
        unsafe { call.arg(losses_b.elem_count() as u32).launch(launch::single_block()) }
    }

    /// Decides what becomes of the summed gradients in step `step`: norm, clipping, overflow, learning rate, loss scale.
    pub fn judge(&self, gradients: &Tensor, step: u64) -> Result<()> {
        let gpu = Gpu::of(gradients.device())?;
        let at = contiguous(gradients)?;
        let n = gradients.elem_count();
        let launch = launch::gradient_norm(n);
        let parts = launch.grid[0] as usize;
        let squares = Output::new(&gpu, parts, DType::F64)?;
        let strange = Output::new(&gpu, parts, DType::U32)?;
        let call = gpu.exact_kernel("sum_of_squares_partial")?;
        // SAFETY: sum_of_squares_partial(squares, strange, g, n) of f32.
        unsafe { call.arg(&squares).arg(&strange).arg(&at).arg(n as u64).launch(launch) }?;
        let (state, constants) = (contiguous(&self.state)?, contiguous(&self.constants)?);
        let rates = contiguous(&self.rates)?;
        let Setup {
            max_norm,
            beta1,
            beta2,
            weight_decay,
            growth,
            ..
        } = self.setup;
        let (growth, backoff, interval) = growth;
        let call = gpu.exact_kernel("adamw_prepare")?.arg(&state).arg(&constants);
        let call = call.arg(&squares).arg(&strange).arg(parts as u32);
        let call = call.arg(&rates).arg(self.setup.rates.len() as u32).arg(step);
        let call = call.arg(max_norm).arg(beta1).arg(beta2).arg(weight_decay);
        // SAFETY: adamw_prepare(state, constants, squares, strange, parts, rates, rate_count, step, max_norm, beta1, beta2,
        // weight_decay, growth, backoff, interval).
        unsafe {
            call.arg(growth)
                .arg(backoff)
                .arg(interval)
                .launch(launch::single_block())
        }
    }

    /// Moves the values, or nothing if the step was judged to be skipped.
    pub fn update(&self, buffers: &Update) -> Result<()> {
        let gpu = Gpu::of(buffers.values.device())?;
        let n = buffers.values.elem_count();
        let (p, m, v) = (
            contiguous(buffers.values)?,
            contiguous(buffers.first_moments)?,
            contiguous(buffers.second_moments)?,
        );
        let (g, bits) = (contiguous(buffers.gradients)?, contiguous(buffers.decayed)?);
        let constants = contiguous(&self.constants)?;
        let copy = buffers.rounded.map(contiguous).transpose()?;
        let format = copy.as_ref().map_or(DType::F32, |copy| copy.dtype);
        let call = gpu.kernel("adamw", format)?.arg(&p).arg(&m).arg(&v).arg(copy.as_ref());
        let call = call.arg(&g).arg(&bits).arg(&constants);
        // SAFETY: adamw_T(p, m, v, copy, g, decayed, constants, epsilon, n), where the copy may be null; lengths are the parameters'.
        unsafe {
            call.arg(self.setup.epsilon as f32)
                .arg(n as u64)
                .launch(launch::eights(n))
        }
    }

    /// Begins to read what came of the step that was asked for last, which noted the losses of `micro_batches`.
    pub fn begin_reading(&mut self, micro_batches: usize) -> Result<Reading> {
        let which = self.next;
        self.next = (self.next + 1) % READINGS;
        let Place { pinned, event } = self.readings[which];
        let count = STATE + self.setup.micro_batches;
        let from = operand(&self.state)?;
        let stream = Gpu::of(self.state.device())?.stream();
        // SAFETY: the pinned memory holds `count` numbers and is not freed before the copy has arrived; whoever asked for the
        // reading before the last one has read it.
        unsafe {
            let to = std::slice::from_raw_parts_mut(pinned, count);
            result::memcpy_dtoh_async(to, from.address(), stream).and_then(|()| result::event::record(event, stream))
        }
        .map_err(|error| failed("reading a step's outcome", explain(error)))?;
        Ok(Reading { which, micro_batches })
    }

    /// Has it arrived? Never waits.
    pub fn has_arrived(&self, reading: &Reading) -> Result<bool> {
        // SAFETY: the event lives as long as `self`.
        match unsafe { sys::cuEventQuery(self.readings[reading.which].event) } {
            CUresult::CUDA_SUCCESS => Ok(true),
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            other => Err(failed("the GPU", explain(DriverError(other)))),
        }
    }

    /// What has arrived.
    pub fn read(&self, reading: Reading) -> Read {
        let count = STATE + self.setup.micro_batches;
        // SAFETY: as in `begin_reading`; the copy is done, and the next one into this place is asked for with `&mut self`.
        let numbers = unsafe { std::slice::from_raw_parts(self.readings[reading.which].pinned, count) };
        Read {
            loss_scale: numbers[1] as f32,
            norm: numbers[3],
            is_skipped: numbers[5] != 0.0,
            learning_rate: numbers[6],
            losses: numbers[STATE..][..reading.micro_batches].to_vec(),
        }
    }
}

/// An outcome on its way.
pub struct Reading {
    which: usize,
    micro_batches: usize,
}

impl Place {
    fn new(count: usize) -> std::result::Result<Place, DriverError> {
        // SAFETY: plain pinned memory, freed once, by `Drop`.
        let pinned = unsafe { result::malloc_host(count * size_of::<f64>(), 0) }?;
        Ok(Place {
            pinned: pinned.cast(),
            event: result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?,
        })
    }
}

impl Drop for StepState {
    /// Never waits: after an error the GPU may be waiting for a rank that is lost. What may still be written to is left.
    fn drop(&mut self) {
        let has_arrived = |place: &Place| {
            // SAFETY: the event was made by `Place::new` and is alive.
            unsafe { sys::cuEventQuery(place.event) == CUresult::CUDA_SUCCESS }
        };
        if !self.readings.iter().all(has_arrived) {
            return;
        }
        for place in &self.readings {
            // SAFETY: made by `Place::new`, and used by nobody any more.
            unsafe {
                let _ = result::free_host(place.pinned.cast());
                let _ = result::event::destroy(place.event);
            }
        }
    }
}
