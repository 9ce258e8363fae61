//! What the machine can do at best: floating-point operations of a matrix product, bytes copied in memory. Measured with the
//! product that the layers use, on a shape that suits it, and with the threads that the benchmark uses.

use rayon::prelude::*;

use super::spread::seconds;
use crate::error::Result;
use crate::ops::gemm::{MatMut, MatRef, Product};

/// Rates of all threads together.
#[derive(Clone, Copy, Debug)]
pub struct Ceilings {
    /// f32 matrix product, 1e9 operations per second (a multiply-add is two).
    pub gflops: f64,
    /// Reading and writing while copying blocks far larger than the caches, 1e9 bytes per second.
    pub gbytes: f64,
}

/// Rows, depth and columns of the product: weights of a ViT-B layer by a batch of tokens.
const SHAPE: [usize; 3] = [1536, 768, 3072];
/// Bytes copied by each thread.
const BLOCK: usize = 64 << 20;
const ROUNDS: usize = 5;

impl Ceilings {
    /// On the threads of the current rayon pool.
    pub fn measure() -> Result<Ceilings> {
        let [m, k, n] = SHAPE;
        let (a, b) = (vec![0.5f32; m * k], vec![0.25f32; k * n]);
        let mut c = vec![0f32; m * n];
        let product = seconds(ROUNDS, || {
            Product::new(MatRef::row_major(&a, m, k), MatRef::row_major(&b, k, n))
                .write(MatMut::row_major(&mut c, m, n));
            Ok(())
        })?;
        assert!(c.iter().all(|x| *x == 0.125 * k as f32), "the product is wrong");
        let threads = rayon::current_num_threads();
        let from = vec![1u8; BLOCK];
        let mut to = vec![vec![0u8; BLOCK]; threads];
        let copy = seconds(ROUNDS, || {
            to.par_iter_mut().for_each(|to| to.copy_from_slice(&from));
            Ok(())
        })?;
        assert!(to.iter().all(|to| to[BLOCK - 1] == 1), "the copy is wrong");
        Ok(Ceilings {
            gflops: 2e-9 * (m * k * n) as f64 / product.least,
            gbytes: 2e-9 * (BLOCK * threads) as f64 / copy.least,
        })
    }
}
