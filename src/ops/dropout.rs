//! Dropout whose masks are a function of names: nothing is kept for the backward pass, they are drawn again.
//!
//! Element e of a sample's [s,d] block looks at 16 bits: lane e mod 8 of Philox block e / 8 of the stream
//! (seed, epoch, sample, Dropout(module)). So neither batch size nor rank nor thread changes what is dropped.

use candle_core::Tensor;
use rayon::prelude::*;

use super::simd::vectorized;
use super::storage::{refused, spanned, tensor, unwritten, update, values};
use crate::error::Result;
use crate::rng::{Purpose, Stream};

/// The names of a micro-batch's random numbers; `samples[i]` is the row of image i in the whole training set.
#[derive(Clone, Copy, Debug)]
pub struct DropoutNames<'a> {
    pub seed: u64,
    pub epoch: u32,
    pub samples: &'a [u64],
}

/// One dropout module of the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability of dropping, in [0, 1).
    pub probability: f64,
    /// The module's place in the model.
    pub module: u32,
}

/// x[b,s,d] with elements dropped and the others scaled by 1/(1-p). Images may lie apart (the first token of each).
pub fn dropout(x_bsd: &Tensor, dropout: Dropout, names: &DropoutNames) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x_bsd.device().is_cuda() {
        return super::cuda::dropout::dropout(x_bsd, dropout, names);
    }
    let images = Images::of(x_bsd, names)?;
    let x = spanned(x_bsd)?;
    let mut y = unwritten(x_bsd.elem_count());
    y.par_chunks_mut(images.block.max(1))
        .enumerate()
        .for_each(|(image, y)| {
            let x = &x[image * images.stride..][..images.block];
            for_each_factor(y, x, names.stream(image, dropout), dropout, |y, x, factor| {
                *y = x * factor
            })
        });
    tensor(y, x_bsd.shape().clone())
}

/// The backward pass: dx += mask∘dy/(1-p), in place. Images of dx may lie apart.
pub fn add_dropped(dx_bsd: &Tensor, dy_bsd: &Tensor, dropout: Dropout, names: &DropoutNames) -> Result<()> {
    #[cfg(feature = "cuda")]
    if dx_bsd.device().is_cuda() {
        return super::cuda::dropout::add_dropped(dx_bsd, dy_bsd, dropout, names);
    }
    let images = Images::of(dx_bsd, names)?;
    let dy = values(dy_bsd)?;
    if dy.len() != dx_bsd.elem_count() {
        return Err(refused(format!("{:?} added to {:?}", dy_bsd.shape(), dx_bsd.shape())));
    }
    update(dx_bsd, |dx| {
        dx.par_chunks_mut(images.stride.max(1))
            .zip(dy.par_chunks(images.block.max(1)))
            .enumerate()
            .for_each(|(image, (dx, dy))| {
                let dx = &mut dx[..images.block];
                for_each_factor(
                    dx,
                    dy,
                    names.stream(image, dropout),
                    dropout,
                    #[inline(always)]
                    |dx, dy, factor| *dx = dy.mul_add(factor, *dx),
                )
            })
    })
}

impl DropoutNames<'_> {
    fn stream(&self, image: usize, dropout: Dropout) -> Stream {
        let purpose = Purpose::Dropout(dropout.module);
        Stream::new(self.seed, self.epoch, self.samples[image], purpose)
    }
}

/// Values of an image, and how far one image starts after the other.
struct Images {
    block: usize,
    stride: usize,
}

impl Images {
    fn of(x_bsd: &Tensor, names: &DropoutNames) -> Result<Images> {
        let (b, s, d) = x_bsd.dims3()?;
        let dense = x_bsd.stride()[2] == 1 && (s == 1 || x_bsd.stride()[1] == d);
        if names.samples.len() != b || !dense {
            return Err(refused(format!(
                "dropout of {:?} for {} samples",
                x_bsd.layout(),
                names.samples.len()
            )));
        }
        Ok(Images {
            block: s * d,
            stride: if b == 1 { s * d } else { x_bsd.stride()[0] },
        })
    }
}

/// Calls `apply(y[e], x[e], 0 or 1/(1-p))` for all elements of one image.
fn for_each_factor(
    y: &mut [f32],
    x: &[f32],
    stream: Stream,
    dropout: Dropout,
    apply: impl Fn(&mut f32, f32, f32) + Sync,
) {
    /// Elements that one task masks: whole Philox blocks.
    const TASK: usize = 16 * 1024;
    let keep = (1.0 / (1.0 - dropout.probability)) as f32;
    let threshold = (dropout.probability * 65536.0).round() as u32;
    y.par_chunks_mut(TASK)
        .zip(x.par_chunks(TASK))
        .enumerate()
        .for_each(|(task, (y, x))| {
            vectorized(
                #[inline(always)]
                || {
                    for (i, (y, x)) in y.chunks_mut(128).zip(x.chunks(128)).enumerate() {
                        let mut factors = [0f32; 128];
                        factors_of(
                            &mut factors,
                            &stream,
                            (task * TASK / 8 + i * 16) as u32,
                            threshold,
                            keep,
                        );
                        for ((y, x), factor) in y.iter_mut().zip(x).zip(&factors) {
                            apply(y, *x, *factor);
                        }
                    }
                },
            )
        });
}

/// 0 or `keep` for the 128 elements of sixteen Philox blocks from `first` on.
#[inline(always)]
fn factors_of(factors: &mut [f32; 128], stream: &Stream, first: u32, threshold: u32, keep: f32) {
    for (i, eight) in factors.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let words = stream.block(first + i as u32);
        for (lane, factor) in eight.iter_mut().enumerate() {
            let bits = (words[lane / 2] >> (16 * (lane % 2))) & 0xffff;
            *factor = if bits < threshold { 0.0 } else { keep };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Dropout = Dropout {
        probability: 0.25,
        module: 3,
    };

    fn ones(b: usize, s: usize, d: usize) -> Tensor {
        tensor(vec![1.0; b * s * d], (b, s, d)).unwrap()
    }

    #[test]
    fn masks_follow_names_not_places() {
        let names = |samples| DropoutNames {
            seed: 5,
            epoch: 2,
            samples,
        };
        let both = dropout(&ones(2, 5, 33), HALF, &names(&[7, 9])).unwrap();
        let one = dropout(&ones(1, 5, 33), HALF, &names(&[9])).unwrap();
        let first_token = dropout(&ones(1, 1, 33), HALF, &names(&[9])).unwrap();
        let all = values(&both).unwrap();
        assert_eq!(&all[5 * 33..], &values(&one).unwrap()[..]);
        assert_eq!(&all[5 * 33..6 * 33], &values(&first_token).unwrap()[..]);
        let stream = Stream::new(5, 2, 9, Purpose::Dropout(3));
        for (e, x) in values(&one).unwrap().iter().enumerate() {
            let bits = stream.block((e / 8) as u32)[e % 8 / 2] >> (16 * (e % 2)) & 0xffff;
            assert_eq!(*x, if bits < 16384 { 0.0 } else { 1.0 / 0.75 });
        }
    }

    #[test]
    fn the_backward_pass_uses_the_same_mask() {
        let names = DropoutNames {
            seed: 8,
            epoch: 1,
            samples: &[4, 6],
        };
        let wide = ones(2, 3, 40);
        let first = wide.narrow(1, 0, 1).unwrap();
        let masked = dropout(&first, HALF, &names).unwrap();
        add_dropped(&first, &ones(2, 1, 40), HALF, &names).unwrap();
        let (mask, all) = (values(&masked).unwrap(), values(&wide).unwrap());
        for image in 0..2 {
            for e in 0..120 {
                let expected = if e < 40 { 1.0 + mask[image * 40 + e] } else { 1.0 };
                assert_eq!(all[image * 120 + e], expected);
            }
        }
    }

    #[test]
    fn a_quarter_is_dropped() {
        let names = DropoutNames {
            seed: 1,
            epoch: 0,
            samples: &[0, 1, 2, 3],
        };
        let x = dropout(&ones(4, 100, 100), HALF, &names).unwrap();
        let dropped = values(&x).unwrap().iter().filter(|x| **x == 0.0).count();
        // Four standard deviations of a binomial: 4·√(40000·¼·¾) = 346.
        assert!(dropped.abs_diff(10_000) < 346, "{dropped}");
    }
}
