//! Softmax attention per image and head, forward and backward, straight out of packed projections.
//!
//! q, k, v are strided views [b, tokens, h·e] whose rows may be parts of wider rows; nothing is transposed or copied. The
//! probabilities of one head at a time live in a small scratch; kept are the logarithms of the softmax's sums [b,h,sq],
//! from which the backward pass makes the probabilities again (Dao et al., FlashAttention, 2022).

mod gradient;
mod softmax;

use candle_core::Tensor;
use rayon::prelude::*;

use super::gemm::{MatMut, MatRef, Product, Products, Threads};
use super::lanes;
use super::meter;
use super::simd::vectorized;
use super::storage::{Shared, refused, spanned, tensor, unwritten, values};
use crate::error::Result;
pub use gradient::AttentionGradient;
use gradient::GradientBuffers;
use softmax::{padded, softmax_rows, softmax_rows_backward};

/// Queries may be fewer than keys: the last block asks for CLS only.
pub struct Attention<'a> {
    pub q_bqd: &'a Tensor,
    pub k_bsd: &'a Tensor,
    pub v_bsd: &'a Tensor,
    pub heads: usize,
    /// How a CPU multiplies; on a GPU the tensors' format says it.
    pub products: Products,
}

/// What the backward pass needs of the forward pass, besides its operands.
#[derive(Clone)]
pub struct AttentionOutput {
    pub o_bqd: Tensor,
    /// log Σ exp of the scaled scores, [b,h,sq].
    pub log_sums_bhq: Tensor,
}

/// softmax(q·kᵀ/√e)·v.
pub fn attention(operands: &Attention) -> Result<AttentionOutput> {
    let sizes = operands.sizes()?;
    meter::operations(2 * sizes.operations());
    #[cfg(feature = "cuda")]
    if operands.q_bqd.device().is_cuda() {
        return super::cuda::attention::forward(operands, sizes.shape());
    }
    let (q, k, v) = (
        spanned(operands.q_bqd)?,
        spanned(operands.k_bsd)?,
        spanned(operands.v_bsd)?,
    );
    let [q_strides, k_strides, v_strides] = operands.strides();
    let Sizes { b, h, sq, s, e } = sizes;
    let mut o = unwritten(b * sq * h * e);
    let mut log_sums = unwritten(b * h * sq);
    let o_start = Shared::new(&mut o);
    log_sums.par_chunks_mut(sq.max(1)).enumerate().for_each_init(
        || unwritten(sq * padded(s)),
        |scores, (task, log_sums)| {
            let (image, head) = (task / h, task % h);
            let q = q_strides.head(&q, image, head, sizes, sq);
            let k = k_strides.head(&k, image, head, sizes, s);
            let v = v_strides.head(&v, image, head, sizes, s);
            let to_scores = MatMut::strided(scores, sq, s, padded(s));
            operands.own(q, k.transposed()).alpha(sizes.scale()).write(to_scores);
            vectorized(
                #[inline(always)]
                || softmax_rows(scores, s, log_sums),
            );
            let p = MatRef::strided(scores, sq, s, padded(s), 1);
            let start = o_start.at(image * sq * h * e + head * e);
            // SAFETY: these rows and columns of the output are this task's alone.
            operands
                .own(p, v)
                .write(unsafe { MatMut::from_raw(start, sq, e, h * e) });
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
/// With P the probabilities and D = rowsum(dO∘O): dV = PᵀdO, dS = P∘(dO·Vᵀ - D), dQ = dS·K/√e, dK = dSᵀ·Q/√e.
pub fn attention_backward(
    operands: &Attention,
    output: &AttentionOutput,
    do_bqd: &Tensor,
    wanted: Wanted,
) -> Result<AttentionGradient> {
    let sizes = operands.sizes()?;
    // dV, dP, dQ and dK; the scores once more are this implementation's own doing.
    let products = match wanted {
        Wanted::QueryKeyValue => 4,
        Wanted::QueryValue => 3,
    };
    meter::operations(products * sizes.operations());
    #[cfg(feature = "cuda")]
    if operands.q_bqd.device().is_cuda() {
        return super::cuda::attention::backward(operands, sizes.shape(), output, do_bqd, wanted);
    }
    let (q, k, v) = (
        spanned(operands.q_bqd)?,
        spanned(operands.k_bsd)?,
        spanned(operands.v_bsd)?,
    );
    let (o, gradient, log_sums) = (values(&output.o_bqd)?, values(do_bqd)?, values(&output.log_sums_bhq)?);
    let [q_strides, k_strides, v_strides] = operands.strides();
    let Sizes { b, h, sq, s, e } = sizes;
    let d = h * e;
    let mut buffers = GradientBuffers::new(sizes, wanted);
    let to = buffers.places(sizes);
    (0..b * h).into_par_iter().for_each_init(
        || (unwritten(sq * padded(s)), unwritten(sq * padded(s)), unwritten(sq)),
        |(scores, gradients, diagonal), task| {
            let (image, head) = (task / h, task % h);
            let q = q_strides.head(&q, image, head, sizes, sq);
            let k = k_strides.head(&k, image, head, sizes, s);
            let v = v_strides.head(&v, image, head, sizes, s);
            let dense = HeadStrides {
                image: sq * d,
                token: d,
            };
            let dout = dense.head(&gradient, image, head, sizes, sq);
            operands
                .own(q, k.transposed())
                .alpha(sizes.scale())
                .write(MatMut::strided(scores, sq, s, padded(s)));
            operands
                .own(dout, v.transposed())
                .write(MatMut::strided(gradients, sq, s, padded(s)));
            let log_sums = &log_sums[task * sq..][..sq];
            vectorized(
                #[inline(always)]
                || {
                    for (row, diagonal) in diagonal.iter_mut().enumerate() {
                        let row = (image * sq + row) * d + head * e;
                        *diagonal = lanes::dot(&o[row..row + e], &gradient[row..row + e]);
                    }
                    softmax_rows_backward(scores, gradients, s, log_sums, diagonal);
                },
            );
            let p = MatRef::strided(scores, sq, s, padded(s), 1);
            let ds = MatRef::strided(gradients, sq, s, padded(s), 1);
            // SAFETY: these rows and columns of the gradients are this task's alone.
            unsafe {
                operands.own(p.transposed(), dout).write(to.v.of(image, head, sizes, s));
                operands
                    .own(ds, k)
                    .alpha(sizes.scale())
                    .write(to.q.of(image, head, sizes, sq));
                if let Some(to_k) = to.k {
                    operands
                        .own(ds.transposed(), q)
                        .alpha(sizes.scale())
                        .write(to_k.of(image, head, sizes, s));
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
    #[cfg(feature = "cuda")]
    fn shape(&self) -> super::launch::AttentionShape {
        let Sizes { b, h: heads, sq, s, e } = *self;
        super::launch::AttentionShape { b, heads, sq, s, e }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.e as f32).sqrt()
    }

    /// Of one product of all heads: scores, or what is made of them.
    fn operations(&self) -> usize {
        2 * self.b * self.h * self.sq * self.s * self.e
    }
}

impl Attention<'_> {
    /// A product inside of the loop over heads.
    fn own<'a>(&self, a_mk: MatRef<'a>, b_kn: MatRef<'a>) -> Product<'a> {
        Product::new(a_mk, b_kn)
            .products(self.products)
            .threads(Threads::Caller)
    }

    fn strides(&self) -> [HeadStrides; 3] {
        [self.q_bqd, self.k_bsd, self.v_bsd].map(|t| HeadStrides {
            image: t.stride()[0],
            token: t.stride()[1],
        })
    }

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

/// How far apart images and tokens lie, in elements.
#[derive(Clone, Copy)]
struct HeadStrides {
    image: usize,
    token: usize,
}

impl HeadStrides {
    /// The matrix [tokens, e] of one head of one image.
    fn head<'a>(self, span: &'a [f32], image: usize, head: usize, sizes: Sizes, tokens: usize) -> MatRef<'a> {
        let start = image * self.image + head * sizes.e;
        MatRef::strided(&span[start..], tokens, sizes.e, self.token, 1)
    }
}
