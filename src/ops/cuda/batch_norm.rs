//! The CUDA side of ops::normalization (kernels/batch_norm.cu). Statistics are f32 and f64 and never leave the GPU, maps of any format.

use candle_core::{DType, Tensor};

use super::memory::{Operand, contiguous};
use super::{Gpu, Output, failed};
use crate::error::Result;
use crate::ops::batch_norm::Then;
use crate::ops::launch::{self, ChannelRows};
use crate::ops::maps::Maps;
use crate::ops::normalization::Norm;

/// How the samples of a batch are normalised.
pub struct Moments {
    /// [4,c] f32: mean, reciprocal deviation, scale and shift.
    values: Tensor,
    /// [1+2c] f64, of which the first says how many there were; of running statistics there is none.
    sums: Option<Tensor>,
}

/// Σ 1, Σ x and Σ x² of each channel, [1+2c] f64.
pub fn sums(x: &Maps) -> Result<Tensor> {
    let (gpu, from, n, c) = rows(x)?;
    let shape = ChannelRows::new(n, c);
    let partial = Output::new(&gpu, 2 * shape.parts as usize * c, DType::F32)?;
    let call = gpu.kernel("batch_norm_partial", from.dtype)?.arg(&partial).arg(&from);
    // SAFETY: batch_norm_partial_T(partial, x, rows, n, c).
    unsafe { call.arg(shape.rows).arg(n as u32).arg(c as u32).launch(shape.launch) }?;
    let sums = Output::new(&gpu, 1 + 2 * c, DType::F64)?;
    let call = gpu.kernel("batch_norm_sums", from.dtype)?;
    let call = call.arg(&sums).arg(&partial).arg(&from).arg(shape.parts);
    // SAFETY: batch_norm_sums_T(sums, partial, x, parts, n, c).
    unsafe { call.arg(n as u32).arg(c as u32).launch(launch::rows(c)) }?;
    Ok(sums.into_tensor(1 + 2 * c))
}

/// From sums, which the running statistics take in.
pub fn train(sums: Tensor, norm: &Norm) -> Result<Moments> {
    let gpu = Gpu::of(sums.device())?;
    let c = norm.weight_c.elem_count();
    let (of_sums, weight, bias) = (contiguous(&sums)?, contiguous(norm.weight_c)?, contiguous(norm.bias_c)?);
    let (mean, variance) = (contiguous(norm.running_mean_c)?, contiguous(norm.running_variance_c)?);
    let moments = Output::new(&gpu, 4 * c, DType::F32)?;
    let call = gpu
        .exact_kernel("batch_norm_moments")?
        .arg(&moments)
        .arg(&mean)
        .arg(&variance);
    let call = call
        .arg(&of_sums)
        .arg(&weight)
        .arg(&bias)
        .arg(norm.eps)
        .arg(norm.momentum);
    // SAFETY: batch_norm_moments(moments, running_mean, running_variance, sums, weight, bias, eps, momentum, c).
    unsafe { call.arg(c as u32).launch(launch::columns(c)) }?;
    drop(of_sums);
    Ok(Moments {
        values: moments.into_tensor(4 * c),
        sums: Some(sums),
    })
}

/// Of the running statistics.
pub fn running(norm: &Norm) -> Result<Moments> {
    let gpu = Gpu::of(norm.weight_c.device())?;
    let c = norm.weight_c.elem_count();
    let (weight, bias) = (contiguous(norm.weight_c)?, contiguous(norm.bias_c)?);
    let (mean, variance) = (contiguous(norm.running_mean_c)?, contiguous(norm.running_variance_c)?);
    let moments = Output::new(&gpu, 4 * c, DType::F32)?;
    let call = gpu
        .exact_kernel("batch_norm_running")?
        .arg(&moments)
        .arg(&mean)
        .arg(&variance);
    let call = call.arg(&weight).arg(&bias).arg(norm.eps);
    // SAFETY: batch_norm_running(moments, running_mean, running_variance, weight, bias, eps, c).
    unsafe { call.arg(c as u32).launch(launch::columns(c)) }?;
    Ok(Moments {
        values: moments.into_tensor(4 * c),
        sums: None,
    })
}

/// `beside` is added, normalised itself if it comes with moments.
pub fn normalized(x: &Maps, moments: &Moments, beside: Option<(&Maps, Option<&Moments>)>, then: Then) -> Result<Maps> {
    let (gpu, from, n, c) = rows(x)?;
    let of_x = moments.of(c)?;
    let other = beside.map(|(maps, _)| alike(maps, x)).transpose()?;
    let of_other = beside.and_then(|(_, moments)| moments).map(|moments| moments.of(c));
    let of_other = of_other.transpose()?;
    let y = Output::new(&gpu, n * c, from.dtype)?;
    let shape = ChannelRows::new(n, c);
    let call = gpu
        .kernel("batch_norm_normalize", from.dtype)?
        .arg(&y)
        .arg(&from)
        .arg(&of_x);
    let call = call.arg(other.as_ref()).arg(of_other.as_ref());
    let call = call.arg(u32::from(then == Then::Rectified)).arg(shape.rows);
    // SAFETY: batch_norm_normalize_T(y, x, moments, other, other_moments, rectified, rows, n, c); the others may be null.
    unsafe { call.arg(n as u32).arg(c as u32).launch(shape.launch) }?;
    Maps::new(y.into_tensor(x.values().shape()), 0)
}

/// Σ g and Σ g·(x - mean) of each channel, [2c] f64; of g where x is normalised to more than 0 alone, if so.
pub fn gradient_sums(g: &Maps, x: &Maps, moments: &Moments, where_positive: bool) -> Result<Tensor> {
    add_up(g, None, x, moments, where_positive)
}

/// The same of g after it has become 0 in place wherever y is not positive.
pub fn rectified_gradient_sums(g: &Maps, y: &Maps, x: &Maps, moments: &Moments) -> Result<Tensor> {
    add_up(g, Some(y), x, moments, false)
}

fn add_up(g: &Maps, y: Option<&Maps>, x: &Maps, moments: &Moments, where_positive: bool) -> Result<Tensor> {
    let (gpu, from, n, c) = rows(x)?;
    let (of_g, of_x) = (alike(g, x)?, moments.of(c)?);
    let results = y.map(|y| alike(y, x)).transpose()?;
    let shape = ChannelRows::new(n, c);
    let partial = Output::new(&gpu, 2 * shape.parts as usize * c, DType::F32)?;
    let call = gpu.kernel("batch_norm_gradient_partial", from.dtype)?;
    let call = call
        .arg(&partial)
        .arg(&of_g)
        .arg(results.as_ref())
        .arg(&from)
        .arg(&of_x);
    let call = call.arg(u32::from(where_positive)).arg(shape.rows);
    // SAFETY: batch_norm_gradient_partial_T(partial, g, y, x, moments, rectified, rows, n, c); y may be null.
    unsafe { call.arg(n as u32).arg(c as u32).launch(shape.launch) }?;
    let sums = Output::new(&gpu, 2 * c, DType::F64)?;
    let call = gpu.exact_kernel("batch_norm_gradient_sums")?.arg(&sums).arg(&partial);
    // SAFETY: batch_norm_gradient_sums(sums, partial, parts, c).
    unsafe { call.arg(shape.parts).arg(c as u32).launch(launch::rows(c)) }?;
    Ok(sums.into_tensor(2 * c))
}

/// Adds the gradients of weight and bias.
pub fn add_weights(gw_c: &Tensor, gb_c: &Tensor, sums: &Tensor, moments: &Moments) -> Result<()> {
    let gpu = Gpu::of(sums.device())?;
    let c = gw_c.elem_count();
    let (gw, gb, of_sums, of_x) = (contiguous(gw_c)?, contiguous(gb_c)?, contiguous(sums)?, moments.of(c)?);
    let call = gpu
        .exact_kernel("batch_norm_weights")?
        .arg(&gw)
        .arg(&gb)
        .arg(&of_sums)
        .arg(&of_x);
    // SAFETY: batch_norm_weights(dw, db, sums, moments, c).
    unsafe { call.arg(c as u32).launch(launch::columns(c)) }
}

/// The gradient with respect to x, from sums over all that was normalised together.
pub fn backward(
    g: &Maps,
    x: &Maps,
    moments: &Moments,
    weight_c: &Tensor,
    sums: &Tensor,
    where_positive: bool,
) -> Result<Maps> {
    let (gpu, from, n, c) = rows(x)?;
    let (of_g, of_x, weight, of_sums) = (alike(g, x)?, moments.of(c)?, contiguous(weight_c)?, contiguous(sums)?);
    let of_batch = moments.sums.as_ref().map(contiguous).transpose()?;
    let of_batch = of_batch.ok_or_else(|| failed("batch_norm", "running statistics have no gradient"))?;
    let factors = Output::new(&gpu, 3 * c, DType::F32)?;
    let call = gpu
        .exact_kernel("batch_norm_factors")?
        .arg(&factors)
        .arg(&of_sums)
        .arg(&of_batch);
    let call = call.arg(&of_x).arg(&weight);
    // SAFETY: batch_norm_factors(factors, sums, count, moments, weight, c).
    unsafe { call.arg(c as u32).launch(launch::columns(c)) }?;
    let dx = Output::new(&gpu, n * c, from.dtype)?;
    let shape = ChannelRows::new(n, c);
    let call = gpu.kernel("batch_norm_backward", from.dtype)?;
    let call = call.arg(&dx).arg(&of_g).arg(&from).arg(&of_x).arg(&factors);
    let call = call.arg(u32::from(where_positive)).arg(shape.rows);
    // SAFETY: batch_norm_backward_T(dx, g, x, moments, factors, rectified, rows, n, c).
    unsafe { call.arg(n as u32).arg(c as u32).launch(shape.launch) }?;
    Maps::new(dx.into_tensor(x.values().shape()), 0)
}

impl Moments {
    fn of(&self, channels: usize) -> Result<Operand<'_>> {
        match self.values.elem_count() == 4 * channels {
            true => contiguous(&self.values),
            false => Err(failed(
                "batch_norm",
                format!("statistics {:?} of {channels} channels", self.values.shape()),
            )),
        }
    }
}

/// Rows of all pixels, and channels.
fn rows(x: &Maps) -> Result<(std::sync::Arc<Gpu>, Operand<'_>, usize, usize)> {
    let shape = x.shape();
    match x.margin() {
        0 => Ok((
            Gpu::of(x.values().device())?,
            contiguous(x.values())?,
            shape.all_pixels(),
            shape.channels,
        )),
        margin => Err(failed("batch_norm", format!("maps with a margin of {margin}"))),
    }
}

fn alike<'a>(other: &'a Maps, x: &Maps) -> Result<Operand<'a>> {
    match other.shape() == x.shape() && other.margin() == 0 && other.values().dtype() == x.values().dtype() {
        true => contiguous(other.values()),
        false => Err(failed(
            "batch_norm",
            format!("{:?} beside {:?}", other.shape(), x.shape()),
        )),
    }
}
