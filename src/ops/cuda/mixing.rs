//! The CUDA side of mixed pictures (kernels/mixing.cu).

use candle_core::{DType, Tensor};

use super::memory::{contiguous, uploaded};
use super::{Gpu, Output, failed};
use crate::error::Result;
use crate::ops::launch;
use crate::ops::mixing::Blend;

pub fn mix(x_nchw: &Tensor, blends: &[Blend]) -> Result<Tensor> {
    let gpu = Gpu::of(x_nchw.device())?;
    let (_, c, height, width) = x_nchw.dims4()?;
    let (b, values) = (blends.len(), c * height * width);
    let x = contiguous(x_nchw)?;
    if x.dtype != DType::F32 {
        return Err(failed("mix", format!("of {:?}", x.dtype)));
    }
    let place = |blend: &Blend| {
        let cut = blend.cut;
        [blend.own, blend.partner, cut.x, cut.y, cut.right(), cut.bottom()].map(|number| number as u32)
    };
    let places = uploaded(&gpu, &blends.iter().flat_map(place).collect::<Vec<_>>(), DType::U32)?;
    let shares = uploaded(
        &gpu,
        &blends.iter().map(|blend| blend.share).collect::<Vec<_>>(),
        DType::F32,
    )?;
    let y = Output::new(&gpu, b * values, DType::F32)?;
    let call = gpu
        .kernel("mix", DType::F32)?
        .arg(&y)
        .arg(&x)
        .arg(&places)
        .arg(&shares)
        .arg(height as u32)
        .arg(width as u32)
        .arg(values as u32);
    // SAFETY: mix_f32(y, x, places, shares, height, width, values); places are checked by ops::mixing.
    unsafe { call.launch(launch::images(b, values)) }?;
    Ok(y.into_tensor((b, c, height, width)))
}
