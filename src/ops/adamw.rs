//! AdamW's update of a flat buffer in one pass (Loshchilov, Hutter 2019; the order of operations is torch.optim.AdamW's).

use std::ops::Range;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::simd::vectorized;
use super::storage::{refused, update, values};
use crate::error::Result;

/// Everything of one step that is the same for all values.
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
    /// Which step this is; the first is 1.
    pub step: u64,
}

/// The parts of a buffer that weight decay moves.
pub struct Decayed {
    /// In order.
    ranges: Vec<Range<usize>>,
    /// On a GPU: bit i of word i/32 says it of value i.
    bits: Option<Tensor>,
}

impl Decayed {
    /// `ranges` of a buffer of n values on `device`, in order.
    pub fn new(ranges: Vec<Range<usize>>, n: usize, device: &Device) -> Result<Self> {
        let bits = match device {
            Device::Cpu => None,
            _ => {
                let mut words = vec![0u32; n.div_ceil(32).max(1)];
                for i in ranges.iter().cloned().flatten() {
                    words[i / 32] |= 1 << (i % 32);
                }
                let count = words.len();
                Some(Tensor::from_vec(words, count, device)?)
            }
        };
        Ok(Decayed { ranges, bits })
    }

    /// On a GPU: a bit for each value.
    pub fn bits(&self) -> Option<&Tensor> {
        self.bits.as_ref()
    }
}

/// Updates `values_n` and both moments in place from `gradients_n`.
///
/// p *= 1 - lr·wd; m += (1-β₁)(g - m); v = β₂v + (1-β₂)g²; p -= lr/(1-β₁ᵗ) · m / (√v/√(1-β₂ᵗ) + ε).
pub fn adamw(
    values_n: &Tensor,
    gradients_n: &Tensor,
    first_n: &Tensor,
    second_n: &Tensor,
    decayed: &Decayed,
    step: AdamWStep,
) -> Result<()> {
    const BLOCK: usize = 16 * 1024;
    let n = gradients_n.elem_count();
    if [values_n, first_n, second_n]
        .iter()
        .any(|t| t.elem_count() != n || !t.is_contiguous())
    {
        return Err(refused("adamw: buffers differ in length".into()));
    }
    let constants = Constants::of(step);
    #[cfg(feature = "cuda")]
    if let Some(bits) = &decayed.bits {
        let buffers = [values_n, gradients_n, first_n, second_n];
        return super::cuda::step::adamw(buffers, bits, constants.listed(), constants.epsilon);
    }
    let gradients = values(gradients_n)?;
    update(values_n, |values| {
        update(first_n, |first| {
            update(second_n, |second| {
                values
                    .par_chunks_mut(BLOCK)
                    .zip(gradients.par_chunks(BLOCK))
                    .zip(first.par_chunks_mut(BLOCK).zip(second.par_chunks_mut(BLOCK)))
                    .enumerate()
                    .for_each(|(i, ((p, g), (m, v)))| {
                        decay(p, i * BLOCK, &decayed.ranges, constants.decay);
                        vectorized(
                            #[inline(always)]
                            || constants.apply(p, g, m, v),
                        );
                    })
            })
        })
    })??
}

#[derive(Clone, Copy)]
struct Constants {
    decay: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    epsilon: f32,
    step_size: f32,
    /// √(1-β₂ᵗ)
    correction: f32,
}

impl Constants {
    fn of(s: AdamWStep) -> Self {
        let t = s.step as f64;
        Constants {
            decay: (1.0 - s.learning_rate * s.weight_decay) as f32,
            one_minus_beta1: (1.0 - s.beta1) as f32,
            beta2: s.beta2 as f32,
            one_minus_beta2: (1.0 - s.beta2) as f32,
            epsilon: s.epsilon as f32,
            step_size: (s.learning_rate / (1.0 - s.beta1.powf(t))) as f32,
            correction: (1.0 - s.beta2.powf(t)).sqrt() as f32,
        }
    }

    /// In the order of kernels/adamw.cu; the gradients are clipped and unscaled already.
    #[cfg(feature = "cuda")]
    fn listed(&self) -> [f32; 9] {
        let (apply, gradient_factor, loss_scale) = (1.0, 1.0, 1.0);
        [
            apply,
            gradient_factor,
            self.decay,
            self.one_minus_beta1,
            self.beta2,
            self.one_minus_beta2,
            self.step_size,
            self.correction,
            loss_scale,
        ]
    }

    #[inline(always)]
    fn apply(&self, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        for ((p, g), (m, v)) in p.iter_mut().zip(g).zip(m.iter_mut().zip(v)) {
            *m = (g - *m).mul_add(self.one_minus_beta1, *m);
            *v = (g * g).mul_add(self.one_minus_beta2, *v * self.beta2);
            let denominator = v.sqrt() / self.correction + self.epsilon;
            *p -= self.step_size * (*m / denominator);
        }
    }
}

/// Multiplies the parts of `block` (which starts at `start` of the buffer) that lie in `decayed`.
fn decay(block: &mut [f32], start: usize, decayed: &[Range<usize>], factor: f32) {
    if factor == 1.0 {
        return;
    }
    let end = start + block.len();
    let first = decayed.partition_point(|range| range.end <= start);
    for range in decayed[first..].iter().take_while(|range| range.start < end) {
        let from = range.start.max(start) - start;
        let to = range.end.min(end) - start;
        block[from..to].iter_mut().for_each(|p| *p *= factor);
    }
}
