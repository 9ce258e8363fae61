//! Softmax attention per image and head, forward and backward, straight out of packed projections.
//!
//! q, k, v are strided views [b, tokens, h·e] whose rows may be parts of wider rows; nothing is transposed or copied. The
//! probabilities of one head at a time live in a small scratch; kept are the logarithms of the softmax's sums [b,h,sq],
//! from which the backward pass makes the probabilities again (Dao et al., FlashAttention, 2022).

use candle_core::Tensor;
use gemm::Parallelism;
use rayon::prelude::*;

use super::simd::vectorized;
use super::storage::{Shared, refused, spanned, tensor, unwritten, values};
use super::{lanes, math};
use crate::error::Result;

/// Queries may be fewer than keys: the last block asks for CLS only.
pub struct Attention<'a> {
    pub q_bqd: &'a Tensor,
    pub k_bsd: &'a Tensor,
    pub v_bsd: &'a Tensor,
    pub heads: usize,
}

/// What the backward pass needs of the forward pass, besides its operands.
#[derive(Clone)]
pub struct AttentionOutput {
    pub o_bqd: Tensor,
    /// log Σ exp of the scaled scores, [b,h,sq].
    pub log_sums_bhq: Tensor,
}

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

/// softmax(q·kᵀ/√e)·v.
pub fn attention(operands: &Attention) -> Result<AttentionOutput> {
    let sizes = operands.sizes()?;
    let (q, k, v) = (
        spanned(operands.q_bqd)?,
        spanned(operands.k_bsd)?,
        spanned(operands.v_bsd)?,
    );
    let strides = Strides::of(operands);
    let Sizes { b, h, sq, s, e } = sizes;
    let mut o = unwritten(b * sq * h * e);
    let mut log_sums = unwritten(b * h * sq);
    let o_shared = Shared::new(&mut o);
    log_sums.par_chunks_mut(sq.max(1)).enumerate().for_each_init(
        || unwritten(sq * s),
        |scores, (task, log_sums)| {
            let (image, head) = (task / h, task % h);
            let q = Block::new(&q, image * strides.q.0 + head * e, strides.q.1);
            let k = Block::new(&k, image * strides.k.0 + head * e, strides.k.1);
            let v = Block::new(&v, image * strides.v.0 + head * e, strides.v.1);
            let p = BlockMut(scores.as_mut_ptr(), s);
            // SAFETY: the blocks lie in the spans of their tensors, the scratch holds sq·s values, and this task alone
            // writes the columns of its head in the rows of its image.
            unsafe {
                p.set([sq, s, e], sizes.scale(), q, k.transposed());
                vectorized(
                    #[inline(always)]
                    || softmax_rows(scores, s, log_sums),
                );
                let o = BlockMut(o_shared.at(image * sq * h * e + head * e), h * e);
                o.set([sq, e, s], 1.0, Block::new(scores, 0, s), v);
            }
        },
    );
    Ok(AttentionOutput {
        o_bqd: tensor(o, (b, sq, h * e))?,
        log_sums_bhq: tensor(log_sums, (b, h, sq))?,
    })
}

/// Which gradients are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    QueryKeyValue,
    /// Nobody below reads dK.
    QueryValue,
}

/// Gradients with respect to q, k and v, given that with respect to the output.
///
/// With P the probabilities and D = rowsum(dO∘O): dV = PᵀdO, dS = P∘(dO·Vᵀ - D)/√e, dQ = dS·K, dK = dSᵀ·Q.
pub fn attention_backward(
    operands: &Attention,
    output: &AttentionOutput,
    do_bqd: &Tensor,
    wanted: Wanted,
) -> Result<AttentionGradient> {
    let sizes = operands.sizes()?;
    let (q, k, v) = (
        spanned(operands.q_bqd)?,
        spanned(operands.k_bsd)?,
        spanned(operands.v_bsd)?,
    );
    let (o, gradient, log_sums) = (values(&output.o_bqd)?, values(do_bqd)?, values(&output.log_sums_bhq)?);
    let strides = Strides::of(operands);
    let Sizes { b, h, sq, s, e } = sizes;
    let d = h * e;
    let mut buffers = GradientBuffers::new(sizes, wanted);
    let to = buffers.places(sizes);
    (0..b * h).into_par_iter().for_each_init(
        || (unwritten(sq * s), unwritten(sq * s), unwritten(sq)),
        |(probabilities, scores_gradient, diagonal), task| {
            let (image, head) = (task / h, task % h);
            let q = Block::new(&q, image * strides.q.0 + head * e, strides.q.1);
            let k = Block::new(&k, image * strides.k.0 + head * e, strides.k.1);
            let v = Block::new(&v, image * strides.v.0 + head * e, strides.v.1);
            let at = image * sq * d + head * e;
            let dout = Block::new(&gradient, at, d);
            for (row, diagonal) in diagonal.iter_mut().enumerate() {
                let row = at + row * d;
                *diagonal = lanes::dot(&o[row..row + e], &gradient[row..row + e]);
            }
            let log_sums = &log_sums[task * sq..][..sq];
            // SAFETY: as in the forward pass; the gradients' columns of this head and rows of this image are this task's.
            unsafe {
                BlockMut(probabilities.as_mut_ptr(), s).set([sq, s, e], sizes.scale(), q, k.transposed());
                BlockMut(scores_gradient.as_mut_ptr(), s).set([sq, s, e], 1.0, dout, v.transposed());
                vectorized(
                    #[inline(always)]
                    || scores_backward(probabilities, scores_gradient, s, log_sums, diagonal, sizes.scale()),
                );
                let p = Block::new(probabilities, 0, s);
                let ds = Block::new(scores_gradient, 0, s);
                to.v.of(image, head, e).set([s, e, sq], 1.0, p.transposed(), dout);
                to.q.of(image, head, e).set([sq, e, s], 1.0, ds, k);
                if let Some(k) = to.k {
                    k.of(image, head, e).set([s, e, sq], 1.0, ds.transposed(), q);
                }
            }
        },
    );
    buffers.finish(sizes)
}

#[derive(Clone, Copy)]
struct Sizes {
    b: usize,
    h: usize,
    sq: usize,
    s: usize,
    e: usize,
}

impl Sizes {
    fn scale(&self) -> f32 {
        1.0 / (self.e as f32).sqrt()
    }
}

impl Attention<'_> {
    fn sizes(&self) -> Result<Sizes> {
        let (b, sq, d) = self.q_bqd.dims3()?;
        let (_, s, _) = self.k_bsd.dims3()?;
        let fits = self.k_bsd.dims() == [b, s, d] && self.v_bsd.dims() == [b, s, d];
        let dense = [self.q_bqd, self.k_bsd, self.v_bsd].iter().all(|t| t.stride()[2] == 1);
        if !fits || !dense || self.heads == 0 || d % self.heads != 0 {
            return Err(refused(format!(
                "attention with {} heads over {:?}, {:?}, {:?}",
                self.heads,
                self.q_bqd.layout(),
                self.k_bsd.layout(),
                self.v_bsd.layout()
            )));
        }
        Ok(Sizes {
            b,
            h: self.heads,
            sq,
            s,
            e: d / self.heads,
        })
    }
}

/// (image, token) strides of the three operands.
struct Strides {
    q: (usize, usize),
    k: (usize, usize),
    v: (usize, usize),
}

impl Strides {
    fn of(operands: &Attention) -> Self {
        let pair = |t: &Tensor| (t.stride()[0], t.stride()[1]);
        Strides {
            q: pair(operands.q_bqd),
            k: pair(operands.k_bsd),
            v: pair(operands.v_bsd),
        }
    }
}

/// A readable matrix: start, stride of rows, stride of columns.
#[derive(Clone, Copy)]
struct Block(*const f32, usize, usize);

impl Block {
    fn new(span: &[f32], offset: usize, row_stride: usize) -> Self {
        Block(span[offset..].as_ptr(), row_stride, 1)
    }

    fn transposed(self) -> Self {
        Block(self.0, self.2, self.1)
    }
}

/// A writable matrix with dense columns: start, stride of rows.
struct BlockMut(*mut f32, usize);

impl BlockMut {
    /// self[m,n] = alpha · a[m,k] · b[k,n].
    ///
    /// # Safety
    /// All elements of the three matrices must be valid, and this thread alone may write those of `self`.
    unsafe fn set(self, [m, n, k]: [usize; 3], alpha: f32, a: Block, b: Block) {
        // SAFETY: this function's own contract.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                self.0,
                1,
                self.1 as isize,
                false,
                a.0,
                a.2 as isize,
                a.1 as isize,
                b.0,
                b.2 as isize,
                b.1 as isize,
                0.0,
                alpha,
                false,
                false,
                false,
                Parallelism::None,
            )
        }
    }
}

/// Where the gradients of one operand go: start, stride of images, stride of tokens.
#[derive(Clone, Copy)]
struct Place(Shared, usize, usize);

impl Place {
    fn of(self, image: usize, head: usize, e: usize) -> BlockMut {
        BlockMut(self.0.at(image * self.1 + head * e), self.2)
    }
}

#[derive(Clone, Copy)]
struct Places {
    q: Place,
    k: Option<Place>,
    v: Place,
}

enum GradientBuffers {
    Together(Vec<f32>),
    Apart { q: Vec<f32>, kv: Vec<f32> },
    WithoutKey { q: Vec<f32>, v: Vec<f32> },
}

impl GradientBuffers {
    fn new(Sizes { b, h, sq, s, e }: Sizes, wanted: Wanted) -> Self {
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

    fn places(&mut self, Sizes { h, sq, s, e, .. }: Sizes) -> Places {
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

    fn finish(self, Sizes { b, h, sq, s, e }: Sizes) -> Result<AttentionGradient> {
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

/// Softmax of each row of s scores, in place; log Σ exp of each row.
#[inline(always)]
fn softmax_rows(scores: &mut [f32], s: usize, log_sums: &mut [f32]) {
    for (row, log_sum) in scores.chunks_exact_mut(s).zip(log_sums) {
        let largest = lanes::max(row);
        for x in row.iter_mut() {
            *x = math::exp(*x - largest);
        }
        let sum = lanes::sum(row);
        let factor = 1.0 / sum;
        row.iter_mut().for_each(|x| *x *= factor);
        *log_sum = largest + sum.ln();
    }
}

/// Scores become probabilities, gradients of probabilities become gradients of unscaled scores, both in place.
#[inline(always)]
fn scores_backward(
    scores: &mut [f32],
    gradients: &mut [f32],
    s: usize,
    log_sums: &[f32],
    diagonal: &[f32],
    scale: f32,
) {
    let rows = scores.chunks_exact_mut(s).zip(gradients.chunks_exact_mut(s));
    for ((scores, gradients), (log_sum, diagonal)) in rows.zip(log_sums.iter().zip(diagonal)) {
        for (score, gradient) in scores.iter_mut().zip(gradients) {
            let probability = math::exp(*score - log_sum);
            *gradient = probability * (*gradient - diagonal) * scale;
            *score = probability;
        }
    }
}
