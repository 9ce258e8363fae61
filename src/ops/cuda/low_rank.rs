//! The CUDA side of ops::low_rank (kernels/low_rank.cu).

use candle_core::{DType, Tensor};

use super::dropout::NamesThere;
use super::gpu::Call;
use super::memory::{Operand, contiguous, operand};
use super::{Gpu, NULL, Output, failed};
use crate::error::Result;
use crate::ops::dropout::{Dropout, DropoutNames};
use crate::ops::launch::{self, LowRankShape};
use crate::ops::low_rank::{LowRanks, Placed, fits};
use crate::rng::Purpose;

pub fn forward(h_bsw: &Tensor, adapters: LowRanks, names: Option<&DropoutNames>) -> Result<Tensor> {
    let gpu = Gpu::of(h_bsw.device())?;
    let group = Group::of(h_bsw, adapters, names)?;
    let (h, (a, apart)) = (contiguous(h_bsw)?, progression(adapters.a)?);
    let all = group.all();
    if h_bsw.dims()[2] != group.d + all {
        return Err(failed("low_rank", format!("{:?}", h_bsw.shape())));
    }
    let u = Output::new(&gpu, group.n() * all, h.dtype)?;
    let masks = Masks::of(&gpu, &group, names)?;
    let call = gpu.kernel("low_rank_forward", h.dtype)?.arg(&h).arg(&u).arg(&a);
    // SAFETY: low_rank_forward_T(h, u, a, samples, epoch, seed, first_purpose, purpose_apart, threshold, keep, n, s, d, count,
    // r, a_apart); sizes are those of `fits`.
    unsafe { masks.args(call, &group)?.arg(apart).launch(group.shape().rows()) }?;
    Ok(u.into_tensor((group.b, group.s, all)))
}

pub fn backward(dh_bsw: &Tensor, adapters: LowRanks, names: Option<&DropoutNames>) -> Result<()> {
    let gpu = Gpu::of(dh_bsw.device())?;
    let group = Group::of(dh_bsw, adapters, names)?;
    let (dh, (a, apart)) = (contiguous(dh_bsw)?, progression(adapters.a)?);
    if dh_bsw.dims()[2] != group.d + group.all() {
        return Err(failed("low_rank", format!("{:?}", dh_bsw.shape())));
    }
    let masks = Masks::of(&gpu, &group, names)?;
    let call = gpu.kernel("low_rank_backward", dh.dtype)?.arg(&dh).arg(&a);
    // SAFETY: low_rank_backward_T(dh, a, samples, epoch, seed, first_purpose, purpose_apart, threshold, keep, n, s, d, count, r,
    // a_apart).
    unsafe { masks.args(call, &group)?.arg(apart).launch(group.shape().rows()) }
}

pub fn gradients(
    ga_rd: &[Tensor],
    h_bsd: &Tensor,
    du_bsr: &Tensor,
    adapters: LowRanks,
    names: Option<&DropoutNames>,
) -> Result<()> {
    let gpu = Gpu::of(h_bsd.device())?;
    let group = Group::of(h_bsd, adapters, names)?;
    let (h, (ga, ga_apart)) = (contiguous(h_bsd)?, progression(ga_rd)?);
    let du = operand(du_bsr)?;
    let (b, s, all) = du_bsr.dims3()?;
    let [image, row, one] = [du_bsr.stride()[0], du_bsr.stride()[1], du_bsr.stride()[2]];
    let is_regular = one == 1 && (b == 1 || image == s * row) && row.is_multiple_of(8);
    let sizes = (b, s, all) == (group.b, group.s, group.all()) && h_bsd.dims()[2] == group.d;
    if !is_regular || !sizes || ga_rd.len() != group.count || du.dtype != h.dtype || ga.dtype != DType::F32 {
        return Err(failed("gradients of adapters", format!("{:?}", du_bsr.layout())));
    }
    let (launch, rows, parts) = group.shape().gradient();
    let partial = Output::new(&gpu, parts * all * group.d, DType::F32)?;
    let masks = Masks::of(&gpu, &group, names)?;
    let call = gpu.kernel("low_rank_gradient", h.dtype)?.arg(&partial).arg(&h).arg(&du);
    let call = call.arg(rows as u32).arg(row as u32);
    // SAFETY: low_rank_gradient_T(partial, h, du, rows, stride, samples, epoch, seed, first_purpose, purpose_apart, threshold,
    // keep, n, s, d, count, r).
    unsafe { masks.args(call, &group)?.launch(launch) }?;
    let call = gpu.exact_kernel("low_rank_gradient_finish")?.arg(&ga).arg(&partial);
    let call = call.arg(parts as u32).arg(group.d as u32).arg(group.r as u32);
    // SAFETY: low_rank_gradient_finish(da, partial, parts, d, r, count, da_apart).
    unsafe {
        call.arg(group.count as u32)
            .arg(ga_apart)
            .launch(launch::columns(all * group.d))
    }
}

pub fn place(layers: &[Vec<Placed>], scale: f32) -> Result<()> {
    let all: Vec<&Placed> = layers.iter().flatten().collect();
    let count = layers[0].len();
    let first = all[0];
    let gpu = Gpu::of(first.w_or.device())?;
    let alike = |placed: &&Placed| {
        let (w, b) = (&placed.w_or, &placed.b_or);
        b.dims() == w.dims()
            && w.dtype() == b.dtype()
            && (w.stride(), b.dims()) == (first.w_or.stride(), first.b_or.dims())
    };
    if !all.iter().all(alike) || layers.iter().any(|layer| layer.len() != count) || first.w_or.stride()[1] != 1 {
        return Err(failed("low_rank_place", format!("{:?}", first.w_or.layout())));
    }
    let ws: Vec<Operand> = all.iter().map(|placed| operand(&placed.w_or)).collect::<Result<_>>()?;
    let bs: Vec<Operand> = all
        .iter()
        .map(|placed| contiguous(&placed.b_or))
        .collect::<Result<_>>()?;
    let ([w_apart, w_layer], [b_apart, b_layer]) = (steps(&ws, count)?, steps(&bs, count)?);
    let (rows, r) = first.b_or.dims2()?;
    let call = gpu
        .kernel("low_rank_place", bs[0].dtype)?
        .arg(&ws[0])
        .arg(&bs[0])
        .arg(scale);
    let call = call.arg(rows as u32).arg(r as u32).arg(first.w_or.stride()[0] as u32);
    // SAFETY: low_rank_place_T(w, b, scale, rows, r, stride, w_apart, b_apart, w_layer, b_layer), which reaches the places of all.
    unsafe {
        call.arg(w_apart)
            .arg(b_apart)
            .arg(w_layer)
            .arg(b_layer)
            .launch(launch::place(rows * r, count, layers.len()))
    }
}

/// How many values lie between neighbours of a layer, and between the layers.
fn steps(operands: &[Operand], count: usize) -> Result<[u64; 2]> {
    let at = |i: usize| operands.get(i).map_or(operands[0].address(), Operand::address);
    let [apart, layer] = [if count > 1 { 1 } else { operands.len() }, count].map(|i| at(i).wrapping_sub(at(0)));
    let expected = |i: usize| {
        let (layers, adapters) = ((i / count) as u64, (i % count) as u64);
        at(0)
            .wrapping_add(layers.wrapping_mul(layer))
            .wrapping_add(adapters.wrapping_mul(apart))
    };
    let bytes = operands[0].dtype.size_in_bytes() as u64;
    match (0..operands.len()).all(|i| at(i) == expected(i)) && (apart | layer) < 1 << 60 {
        true => Ok([apart / bytes, layer / bytes]),
        false => Err(failed(
            "adapters of all layers at once",
            "they do not lie in regular steps",
        )),
    }
}

/// Sizes of tokens and adapters.
struct Group {
    b: usize,
    s: usize,
    d: usize,
    count: usize,
    r: usize,
    /// None: nothing is dropped.
    dropout: Option<(Dropout, u32)>,
}

impl Group {
    fn of(x_bsw: &Tensor, adapters: LowRanks, names: Option<&DropoutNames>) -> Result<Group> {
        let (b, s, _) = x_bsw.dims3()?;
        let unfit = || failed("adapters in one pass", format!("of {:?}", x_bsw.shape()));
        let (r, d) = adapters.a.first().ok_or_else(unfit)?.dims2()?;
        let count = adapters.a.len();
        if count != adapters.dropout.len()
            || names.is_some_and(|names| names.samples.len() != b)
            || !fits(x_bsw.device(), x_bsw.dtype(), d, r, adapters.dropout)
        {
            return Err(unfit());
        }
        let first = adapters.dropout[0];
        let purpose = |dropout: &Dropout| Purpose::Dropout(dropout.module).code();
        let apart = match adapters.dropout.get(1) {
            Some(second) => purpose(second).wrapping_sub(purpose(&first)),
            None => 0,
        };
        Ok(Group {
            b,
            s,
            d,
            count,
            r,
            dropout: names.filter(|_| first.probability > 0.0).map(|_| (first, apart)),
        })
    }

    fn n(&self) -> usize {
        self.b * self.s
    }

    fn all(&self) -> usize {
        self.count * self.r
    }

    fn shape(&self) -> LowRankShape {
        LowRankShape { n: self.n(), d: self.d }
    }
}

/// The names of the masks on the device.
struct Masks {
    seed: u64,
    names: Option<NamesThere>,
}

impl Masks {
    fn of(gpu: &Gpu, group: &Group, names: Option<&DropoutNames>) -> Result<Masks> {
        Ok(Masks {
            seed: names.map_or(0, |names| names.seed),
            names: match (names, group.dropout) {
                (Some(names), Some(_)) => Some(gpu.dropout_names(names)?),
                _ => None,
            },
        })
    }

    /// Samples to r, which all kernels take.
    fn args<'a>(&self, call: Call<'a>, group: &Group) -> Result<Call<'a>> {
        let call = match &self.names {
            Some(names) => call.args(names.samples_and_epoch()?),
            None => call.args([NULL; 2]),
        };
        let call = call.arg(self.seed);
        let call = match group.dropout {
            Some((dropout, apart)) => call
                .arg(Purpose::Dropout(dropout.module).code())
                .arg(apart)
                .arg(dropout.threshold())
                .arg(dropout.keep()),
            None => call.arg(0u32).arg(0u32).arg(0u32).arg(1f32),
        };
        Ok(call
            .arg(group.n() as u32)
            .arg(group.s as u32)
            .arg(group.d as u32)
            .arg(group.count as u32)
            .arg(group.r as u32))
    }
}

/// The first of several contiguous tensors, and how many values each lies behind the one before.
fn progression(tensors: &[Tensor]) -> Result<(Operand<'_>, u64)> {
    let operands: Vec<Operand> = tensors.iter().map(contiguous).collect::<Result<_>>()?;
    let addresses: Vec<u64> = operands.iter().map(Operand::address).collect();
    let bytes = operands.first().map_or(1, |first| first.dtype.size_in_bytes()) as u64;
    let apart = match addresses[..] {
        [first, second, ..] => second.wrapping_sub(first),
        _ => 0,
    };
    let is_regular = addresses.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) == apart);
    let first = operands.into_iter().next();
    match first.filter(|first| is_regular && apart < 1 << 60 && first.address().is_multiple_of(16)) {
        Some(first) if apart.is_multiple_of(16) => Ok((first, apart / bytes)),
        _ => Err(failed("adapters in one pass", "they do not lie in regular steps")),
    }
}
