//! What the machine can do at best: floating-point operations of a matrix product, bytes copied in memory. Measured with the
//! product that the layers use, on a shape that suits it, and with the threads that are asked about.

use std::time::Instant;

use rayon::prelude::*;

use super::gemm::{MatMut, MatRef, Product, Products};
use super::meter::Work;

/// Rates of all threads together.
#[derive(Clone, Copy, Debug)]
pub struct Ceilings {
    /// Matrix product, 1e9 operations per second (a multiply-add is two).
    pub gflops: f64,
    /// Reading and writing while copying blocks far larger than the caches, 1e9 bytes per second.
    pub gbytes: f64,
}

/// Rows, depth and columns of the product: weights of a ViT-B layer by a batch of tokens.
const SHAPE: [usize; 3] = [1536, 768, 3072];
/// Bytes copied by each thread.
const BLOCK: usize = 64 << 20;

impl Ceilings {
    /// The best of some rounds on the threads of the current rayon pool.
    pub fn measure(rounds: usize, products: Products) -> Ceilings {
        let [m, k, n] = SHAPE;
        let (a, b) = (vec![0.5f32; m * k], vec![0.25f32; k * n]);
        let mut c = vec![0f32; m * n];
        let product = least_seconds(rounds, || {
            Product::new(MatRef::row_major(&a, m, k), MatRef::row_major(&b, k, n))
                .products(products)
                .write(MatMut::row_major(&mut c, m, n));
        });
        assert!(c.iter().all(|x| *x == 0.125 * k as f32), "the product is wrong");
        let threads = rayon::current_num_threads();
        let from = vec![1u8; BLOCK];
        let mut to = vec![vec![0u8; BLOCK]; threads];
        let copy = least_seconds(rounds, || to.par_iter_mut().for_each(|to| to.copy_from_slice(&from)));
        assert!(to.iter().all(|to| to[BLOCK - 1] == 1), "the copy is wrong");
        Ceilings {
            gflops: 2e-9 * (m * k * n) as f64 / product,
            gbytes: 2e-9 * (BLOCK * threads) as f64 / copy,
        }
    }

    /// Seconds that the work takes at these rates, if products and memory are busy at once.
    pub fn least(&self, work: &Work) -> f64 {
        (1e-9 * work.operations / self.gflops).max(1e-9 * work.bytes / self.gbytes)
    }
}

/// Of `rounds` calls, after one that is not counted.
fn least_seconds(rounds: usize, mut work: impl FnMut()) -> f64 {
    work();
    let timed = (0..rounds.max(1)).map(|_| {
        let begun = Instant::now();
        work();
        begun.elapsed().as_secs_f64()
    });
    timed.fold(f64::INFINITY, f64::min)
}
