//! The CUDA side of ops::attention (kernels/attention_tensor.cu, kernels/attention.cu, kernels/attention_rows.cu).
//!
//! Which kernels compute follows from shapes, formats and addresses alone: tensor cores where f16 or bf16 heads of width 64 lie
//! at addresses of whole vectors and fit into shared memory, tiles in f32 for other heads of that width, rows for the rest
//! and for a single query. Forward and backward may choose differently: what is kept between them is the same.

use candle_core::{DType, Tensor};

use super::attention_gradients::Gradients;
use super::memory::{Operand, contiguous, operand};
use super::{Gpu, Output, failed};
use crate::error::Result;
use crate::ops::attention::{Attention, AttentionGradient, AttentionOutput, Wanted};
use crate::ops::launch::{AttentionShape, Launch};

/// Operands by address; strides in elements.
pub(super) struct Given<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) shape: AttentionShape,
    q: Operand<'a>,
    k: Operand<'a>,
    v: Operand<'a>,
    /// (image, token) of q; of k and v.
    q_strides: [u64; 2],
    kv_strides: [u64; 2],
    scale: f32,
}

impl<'a> Given<'a> {
    fn new(gpu: &'a Gpu, shape: AttentionShape, operands: &Attention<'a>) -> Result<Self> {
        let strides = |t: &Tensor| [t.stride()[0] as u64, t.stride()[1] as u64];
        let given = Given {
            gpu,
            shape,
            q: operand(operands.q_bqd)?,
            k: operand(operands.k_bsd)?,
            v: operand(operands.v_bsd)?,
            q_strides: strides(operands.q_bqd),
            kv_strides: strides(operands.k_bsd),
            scale: 1.0 / (shape.e as f32).sqrt(),
        };
        let one_format = given.q.dtype == given.k.dtype && given.q.dtype == given.v.dtype;
        match one_format && strides(operands.v_bsd) == given.kv_strides {
            true => Ok(given),
            false => Err(failed("attention", "keys and values differ in layout or format")),
        }
    }

    pub(super) fn dtype(&self) -> DType {
        self.q.dtype
    }

    /// Can tensor cores compute it, if `launch` says what the kernel needs?
    fn fits_tensor_cores(&self, launch: Launch) -> bool {
        let AttentionShape { sq, s, e, .. } = self.shape;
        let is_half = matches!(self.dtype(), DType::F16 | DType::BF16);
        let [q_token, kv_token] = [self.q_strides[1], self.kv_strides[1]];
        // The rows of an image are counted in 32 bits.
        let reaches = [(q_token, sq), (kv_token, s)]
            .iter()
            .all(|(token, rows)| token * (*rows as u64) < 1 << 32);
        let addresses = [&self.q, &self.k, &self.v].map(Operand::address);
        let strides = [self.q_strides, self.kv_strides];
        is_half
            && e == AttentionShape::TILED
            && sq > 1
            && reaches
            && addresses.iter().all(|address| in_vectors(*address))
            && strides.iter().flatten().all(|stride| stride.is_multiple_of(8))
            && launch.shared_bytes <= self.gpu.most_shared_bytes()
    }

    /// Is the kernel made for it that keeps tiles of queries and keys?
    fn is_tiled(&self) -> bool {
        self.shape.e == AttentionShape::TILED && self.shape.sq > 1
    }

    pub(super) fn width(&self) -> usize {
        self.shape.heads * self.shape.e
    }
}

pub fn forward(operands: &Attention, shape: AttentionShape) -> Result<AttentionOutput> {
    let gpu = Gpu::of(operands.q_bqd.device())?;
    let given = Given::new(&gpu, shape, operands)?;
    let AttentionShape { b, heads, sq, s, e } = shape;
    let o = Output::new(&gpu, b * sq * given.width(), given.dtype())?;
    let log_sums = Output::new(&gpu, b * heads * sq, DType::F32)?;
    let on_tensor_cores = given.fits_tensor_cores(shape.tensor_forward());
    let name = match (on_tensor_cores, given.is_tiled()) {
        (true, _) => "attention_tensor_forward",
        (false, true) => "attention_forward",
        (false, false) => "attention_rows_forward",
    };
    let call = gpu.kernel(name, given.dtype())?.arg(&o).arg(&log_sums);
    let call = call
        .arg(&given.q)
        .arg(&given.k)
        .arg(&given.v)
        .args(given.q_strides)
        .args(given.kv_strides);
    let call = call.arg(sq as u32).arg(s as u32);
    // SAFETY: attention_forward_T(o, log_sums, q, k, v, q_image, q_token, kv_image, kv_token, sq, s, scale), the same of
    // attention_tensor_forward_T, and attention_rows_forward_T, which takes e before the scale.
    unsafe {
        match (on_tensor_cores, given.is_tiled()) {
            (true, _) => call.arg(given.scale).launch(shape.tensor_forward()),
            (false, true) => call.arg(given.scale).launch(shape.queries()),
            (false, false) => call.arg(e as u32).arg(given.scale).launch(shape.rows()),
        }
    }?;
    Ok(AttentionOutput {
        o_bqd: o.into_tensor((b, sq, given.width())),
        log_sums_bhq: log_sums.into_tensor((b, heads, sq)),
    })
}

pub fn backward(
    operands: &Attention,
    shape: AttentionShape,
    output: &AttentionOutput,
    do_bqd: &Tensor,
    wanted: Wanted,
) -> Result<AttentionGradient> {
    let gpu = Gpu::of(operands.q_bqd.device())?;
    let given = Given::new(&gpu, shape, operands)?;
    let (o, d_o) = (contiguous(&output.o_bqd)?, contiguous(do_bqd)?);
    let log_sums = contiguous(&output.log_sums_bhq)?;
    if do_bqd.dims() != output.o_bqd.dims() || d_o.dtype != given.dtype() {
        return Err(failed("attention_backward", format!("{:?}", do_bqd.shape())));
    }
    let to = Gradients::new(&given, wanted)?;
    if shape.sq == 1 {
        let call = gpu.kernel("attention_first_backward", given.dtype())?;
        let call = call.arg(to.q.address).arg(to.k_address()).arg(to.v.address);
        let call = call
            .arg(&given.q)
            .arg(&given.k)
            .arg(&given.v)
            .arg(&o)
            .arg(&d_o)
            .arg(&log_sums);
        let call = call
            .arg(given.q_strides[0])
            .args(given.kv_strides)
            .arg(to.q.strides[0])
            .args(to.v.strides);
        let call = call.arg(shape.s as u32).arg(shape.e as u32).arg(given.scale);
        // SAFETY: attention_first_backward_T(dq, dk, dv, q, k, v, o, do, log_sums, q_image, kv_image, kv_token, dq_image,
        // dkv_image, dkv_token, s, e, scale).
        unsafe { call.launch(shape.rows_backward_q()) }?;
    } else if given.fits_tensor_cores(shape.tensor_backward())
        && [o.address(), d_o.address()].into_iter().all(in_vectors)
        && to.is_in_vectors()
    {
        backward_on_tensor_cores(&given, &to, &o, &d_o, &log_sums)?;
    } else {
        let diagonal = diagonal(&given, &o, &d_o)?;
        backward_queries(&given, &to, &d_o, &log_sums, &diagonal)?;
        backward_keys(&given, &to, &d_o, &log_sums, &diagonal)?;
    }
    Ok(to.finish(&given))
}

/// All gradients in one launch.
fn backward_on_tensor_cores(
    given: &Given,
    to: &Gradients,
    o: &Operand,
    d_o: &Operand,
    log_sums: &Operand,
) -> Result<()> {
    let AttentionShape { sq, s, .. } = given.shape;
    let call = given.gpu.kernel("attention_tensor_backward", given.dtype())?;
    let call = call.arg(to.q.address).arg(to.k_address()).arg(to.v.address);
    let call = call
        .arg(&given.q)
        .arg(&given.k)
        .arg(&given.v)
        .arg(o)
        .arg(d_o)
        .arg(log_sums);
    let call = call
        .args(given.q_strides)
        .args(given.kv_strides)
        .args(to.q.strides)
        .args(to.v.strides);
    let call = call.arg(sq as u32).arg(s as u32).arg(given.scale);
    // SAFETY: attention_tensor_backward_T(dq, dk, dv, q, k, v, o, do, log_sums, q_image, q_token, kv_image, kv_token, dq_image,
    // dq_token, dkv_image, dkv_token, sq, s, scale); dk may be null. The caller has seen that rows are whole vectors.
    unsafe { call.launch(given.shape.tensor_backward()) }
}

/// May 16 bytes be moved at once from here on?
pub(super) fn in_vectors(address: u64) -> bool {
    address.is_multiple_of(16)
}

fn diagonal(given: &Given, o: &Operand, d_o: &Operand) -> Result<Output> {
    let AttentionShape { b, heads, sq, e, .. } = given.shape;
    let rows = b * heads * sq;
    let diagonal = Output::new(given.gpu, rows, DType::F32)?;
    let call = given
        .gpu
        .kernel("attention_diagonal", given.dtype())?
        .arg(&diagonal)
        .arg(o)
        .arg(d_o);
    let call = call.arg(sq as u32).arg(heads as u32).arg(e as u32).arg(rows as u32);
    // SAFETY: attention_diagonal_T(diagonal, o, do, sq, heads, e, rows).
    unsafe { call.launch(given.shape.diagonal()) }?;
    Ok(diagonal)
}

fn backward_queries(given: &Given, to: &Gradients, d_o: &Operand, log_sums: &Operand, diagonal: &Output) -> Result<()> {
    let AttentionShape { sq, s, e, .. } = given.shape;
    let tiled = given.is_tiled();
    let name = if tiled {
        "attention_backward_q"
    } else {
        "attention_rows_backward_q"
    };
    let call = given.gpu.kernel(name, given.dtype())?.arg(to.q.address);
    let call = call
        .arg(&given.q)
        .arg(&given.k)
        .arg(&given.v)
        .arg(d_o)
        .arg(log_sums)
        .arg(diagonal);
    let call = call
        .args(given.q_strides)
        .args(given.kv_strides)
        .args(to.q.strides)
        .arg(sq as u32)
        .arg(s as u32);
    // SAFETY: attention_backward_q_T(dq, q, k, v, do, log_sums, diagonal, q_image, q_token, kv_image, kv_token, dq_image,
    // dq_token, sq, s, scale), and attention_rows_backward_q_T, which takes e before the scale.
    unsafe {
        match tiled {
            true => call.arg(given.scale).launch(given.shape.queries_backward()),
            false => call
                .arg(e as u32)
                .arg(given.scale)
                .launch(given.shape.rows_backward_q()),
        }
    }
}

fn backward_keys(given: &Given, to: &Gradients, d_o: &Operand, log_sums: &Operand, diagonal: &Output) -> Result<()> {
    let AttentionShape { sq, s, e, .. } = given.shape;
    let tiled = given.is_tiled();
    let name = if tiled {
        "attention_backward_kv"
    } else {
        "attention_rows_backward_kv"
    };
    let call = given
        .gpu
        .kernel(name, given.dtype())?
        .arg(to.k_address())
        .arg(to.v.address);
    let call = call
        .arg(&given.q)
        .arg(&given.k)
        .arg(&given.v)
        .arg(d_o)
        .arg(log_sums)
        .arg(diagonal);
    let call = call
        .args(given.q_strides)
        .args(given.kv_strides)
        .args(to.v.strides)
        .arg(sq as u32)
        .arg(s as u32);
    // SAFETY: attention_backward_kv_T(dk, dv, q, k, v, do, log_sums, diagonal, q_image, q_token, kv_image, kv_token,
    // dkv_image, dkv_token, sq, s, scale), and attention_rows_backward_kv_T, which takes e before the scale; dk may be null.
    unsafe {
        match tiled {
            true => call.arg(given.scale).launch(given.shape.keys_backward()),
            false => call
                .arg(e as u32)
                .arg(given.scale)
                .launch(given.shape.rows_backward_kv()),
        }
    }
}
