//! The product of f32 matrices on the CPU: c = then(alpha · a · b + beta · c + bias). Operands are multiplied as they are, or
//! rounded to bf16 while they are packed ([`Products`]).
//!
//! After Goto and van de Geijn (Anatomy of High-Performance Matrix Multiplication, 2008) and BLIS (Van Zee, van de Geijn,
//! 2015): operands are packed into panels, and a register tile runs over them. What is made for a training step: frozen
//! weights are packed once ([`PackedB`]), biases, residuals and activations are applied while a tile is in cache
//! ([`Epilogue`]), and small products of attention heads run inside of a caller's parallel loop without allocating.
//!
//! Every value of C is the same chain of operations however the work is divided: k is cut into equal chunks that depend
//! on k alone; a chunk is summed by fused multiply-adds in order; chunks are added to C in order. So the number of
//! threads, packing beforehand and the place in a matrix do not change a bit.

mod block;
mod correlation;
mod epilogue;
mod kernel;
#[cfg(target_arch = "x86_64")]
mod kernel_avx2;
#[cfg(target_arch = "x86_64")]
mod kernel_avx512;
mod kernel_portable;
mod pack;
#[cfg(target_arch = "x86_64")]
mod pack_avx512;
#[cfg(target_arch = "x86_64")]
mod pack_bf16;
mod packed;
mod pairs;
mod plan;
mod raster;
mod scratch;
mod sliding;
#[cfg(test)]
mod tests;
mod view;

pub use correlation::Correlation;
pub use epilogue::Epilogue;
pub use packed::PackedB;
pub use pairs::Images;
pub use raster::{Extent, Raster};
pub use sliding::{Old, Sliding, Window};
pub use view::{MatMut, MatRef};

use kernel::Kernel;

/// The right operand: as it lies in memory, or packed before.
#[derive(Clone, Copy)]
pub enum Right<'a> {
    View(MatRef<'a>),
    Packed(&'a PackedB),
}

impl<'a> From<MatRef<'a>> for Right<'a> {
    fn from(view: MatRef<'a>) -> Self {
        Right::View(view)
    }
}

impl<'a> From<&'a PackedB> for Right<'a> {
    fn from(packed: &'a PackedB) -> Self {
        Right::Packed(packed)
    }
}

impl Right<'_> {
    fn shape(&self) -> (usize, usize) {
        match self {
            Right::View(view) => view.shape(),
            Right::Packed(packed) => packed.shape(),
        }
    }
}

/// Who computes a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// All threads of the rayon pool that the caller runs in.
    Pool,
    /// The calling thread alone: for products inside of a parallel loop.
    Caller,
}

/// In which format the operands of a product are multiplied. They and the result lie in memory in f32, and sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Products {
    /// As they are.
    F32,
    /// Both operands are rounded to bf16, to nearest, as PyTorch's autocast does; the result is not. NaN and infinity stay what
    /// they are, and finite values above 3.39e38 become infinite. Where the processor has an instruction for it,
    /// numbers below 1.2e-38 count for 0. Every machine computes it; see [`has_bf16`].
    Bf16,
}

/// The instruction set that products use on this machine.
pub fn instructions(products: Products) -> &'static str {
    kernel::best(products).name
}

/// Does this machine multiply in bf16 faster than in f32?
pub fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return kernel_avx512::has_bf16();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// A product that is described and then written somewhere.
///
/// ```
/// use dtrain::ops::gemm::{Epilogue, MatMut, MatRef, Product};
/// let (a, b) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0]);
/// let mut c = [0.0; 2];
/// Product::new(MatRef::row_major(&a, 2, 2), MatRef::row_major(&b, 2, 1))
///     .epilogue(Epilogue::default().bias(&[0.5]))
///     .write(MatMut::row_major(&mut c, 2, 1));
/// assert_eq!(c, [17.5, 39.5]);
/// ```
pub struct Product<'a> {
    a: MatRef<'a>,
    b: Right<'a>,
    alpha: f32,
    beta: f32,
    epilogue: Epilogue<'a>,
    threads: Threads,
    kernel: &'static Kernel,
}

impl<'a> Product<'a> {
    /// a[m,k] · b[k,n]. Panics if the shapes do not fit.
    pub fn new(a_mk: MatRef<'a>, b_kn: impl Into<Right<'a>>) -> Self {
        let b = b_kn.into();
        assert_eq!(
            a_mk.columns,
            b.shape().0,
            "columns of the left operand and rows of the right one"
        );
        Product {
            a: a_mk,
            b,
            alpha: 1.0,
            beta: 0.0,
            epilogue: Epilogue::default(),
            threads: Threads::Pool,
            kernel: kernel::best(Products::F32),
        }
    }

    /// In f32 unless said otherwise. A right operand that is packed already must be so for the same format.
    pub fn products(self, products: Products) -> Self {
        let kernel = kernel::best(products);
        Product { kernel, ..self }
    }

    /// The product is multiplied by `alpha`.
    pub fn alpha(self, alpha: f32) -> Self {
        Product { alpha, ..self }
    }

    /// `beta` times the destination's values are added; at 0 they are not read.
    pub fn beta(self, beta: f32) -> Self {
        Product { beta, ..self }
    }

    /// What is done to each value before it is stored for good.
    pub fn epilogue(self, epilogue: Epilogue<'a>) -> Self {
        Product { epilogue, ..self }
    }

    pub fn threads(self, threads: Threads) -> Self {
        Product { threads, ..self }
    }

    /// Computes into c[m,n]. Panics if the shape does not fit.
    pub fn write(self, c_mn: MatMut) {
        assert_eq!(
            c_mn.shape(),
            (self.a.rows, self.b.shape().1),
            "the destination of a product"
        );
        self.epilogue.check(c_mn.rows, c_mn.columns);
        block::compute(&self, &c_mn);
    }
}
