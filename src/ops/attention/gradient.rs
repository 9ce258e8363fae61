//! The gradients of query, key and value: which of them lie side by side, and where a head's part goes.

use candle_core::Tensor;

use super::{Sizes, Wanted};
use crate::error::Result;
use crate::ops::gemm::MatMut;
use crate::ops::storage::{Shared, tensor, unwritten};

/// Gradients with respect to the projections, side by side as far as a product below can use them so.
pub enum AttentionGradient {
    /// [b,s,3d]: as many queries as keys.
    Together { dqkv_bsd: Tensor },
    /// [b,sq,d] and [b,s,2d]: fewer queries than keys.
    Apart { dq_bqd: Tensor, dkv_bsd: Tensor },
    /// [b,sq,d] and [b,s,d]: nobody asked for the keys' gradient.
    WithoutKey { dq_bqd: Tensor, dv_bsd: Tensor },
}

impl AttentionGradient {
    pub fn dq_bqd(&self) -> Result<Tensor> {
        match self {
            AttentionGradient::Together { dqkv_bsd } => part(dqkv_bsd, 0, 3),
            AttentionGradient::Apart { dq_bqd, .. } | AttentionGradient::WithoutKey { dq_bqd, .. } => {
                Ok(dq_bqd.clone())
            }
        }
    }

    /// None when nobody asked for it.
    pub fn dk_bsd(&self) -> Result<Option<Tensor>> {
        match self {
            AttentionGradient::Together { dqkv_bsd } => part(dqkv_bsd, 1, 3).map(Some),
            AttentionGradient::Apart { dkv_bsd, .. } => part(dkv_bsd, 0, 2).map(Some),
            AttentionGradient::WithoutKey { .. } => Ok(None),
        }
    }

    pub fn dv_bsd(&self) -> Result<Tensor> {
        match self {
            AttentionGradient::Together { dqkv_bsd } => part(dqkv_bsd, 2, 3),
            AttentionGradient::Apart { dkv_bsd, .. } => part(dkv_bsd, 1, 2),
            AttentionGradient::WithoutKey { dv_bsd, .. } => Ok(dv_bsd.clone()),
        }
    }
}

/// Part `which` of `parts` equal column ranges.
fn part(t: &Tensor, which: usize, parts: usize) -> Result<Tensor> {
    let d = t.dims()[2] / parts;
    Ok(t.narrow(2, which * d, d)?)
}

/// Where the gradients of one operand go: start, stride of images, stride of tokens.
#[derive(Clone, Copy)]
pub(super) struct Place(Shared, usize, usize);

impl Place {
    /// The rows of one image and the columns of one head.
    ///
    /// # Safety
    /// Nobody else may write them as long as the matrix lives.
    pub(super) unsafe fn of<'a>(self, image: usize, head: usize, sizes: Sizes, tokens: usize) -> MatMut<'a> {
        let start = self.0.at(image * self.1 + head * sizes.e);
        // SAFETY: the buffers have room for all tokens of all images, and the caller has the rest.
        unsafe { MatMut::from_raw(start, tokens, sizes.e, self.2) }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Places {
    pub q: Place,
    pub k: Option<Place>,
    pub v: Place,
}

pub(super) enum GradientBuffers {
    Together(Vec<f32>),
    Apart { q: Vec<f32>, kv: Vec<f32> },
    WithoutKey { q: Vec<f32>, v: Vec<f32> },
}

impl GradientBuffers {
    pub fn new(Sizes { b, h, sq, s, e }: Sizes, wanted: Wanted) -> Self {
        let d = h * e;
        match wanted {
            Wanted::QueryKeyValue if sq == s => GradientBuffers::Together(unwritten(b * s * 3 * d)),
            Wanted::QueryKeyValue => GradientBuffers::Apart {
                q: unwritten(b * sq * d),
                kv: unwritten(b * s * 2 * d),
            },
            Wanted::QueryValue => GradientBuffers::WithoutKey {
                q: unwritten(b * sq * d),
                v: unwritten(b * s * d),
            },
        }
    }

    pub fn places(&mut self, Sizes { h, sq, s, e, .. }: Sizes) -> Places {
        let d = h * e;
        // Part `which` of rows that hold `parts` gradients.
        let place = |buffer: &mut Vec<f32>, which: usize, parts: usize, tokens: usize| {
            let start = Shared::new(buffer).shifted(which * d);
            Place(start, tokens * parts * d, parts * d)
        };
        match self {
            GradientBuffers::Together(all) => Places {
                q: place(all, 0, 3, s),
                k: Some(place(all, 1, 3, s)),
                v: place(all, 2, 3, s),
            },
            GradientBuffers::Apart { q, kv } => Places {
                q: place(q, 0, 1, sq),
                k: Some(place(kv, 0, 2, s)),
                v: place(kv, 1, 2, s),
            },
            GradientBuffers::WithoutKey { q, v } => Places {
                q: place(q, 0, 1, sq),
                k: None,
                v: place(v, 0, 1, s),
            },
        }
    }

    pub fn finish(self, Sizes { b, h, sq, s, e }: Sizes) -> Result<AttentionGradient> {
        let d = h * e;
        Ok(match self {
            GradientBuffers::Together(all) => AttentionGradient::Together {
                dqkv_bsd: tensor(all, (b, s, 3 * d))?,
            },
            GradientBuffers::Apart { q, kv } => AttentionGradient::Apart {
                dq_bqd: tensor(q, (b, sq, d))?,
                dkv_bsd: tensor(kv, (b, s, 2 * d))?,
            },
            GradientBuffers::WithoutKey { q, v } => AttentionGradient::WithoutKey {
                dq_bqd: tensor(q, (b, sq, d))?,
                dv_bsd: tensor(v, (b, s, d))?,
            },
        })
    }
}
