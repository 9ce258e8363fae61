//! Loops compiled for the widest instructions that the machine has.

/// Runs `body` compiled for AVX-512, AVX2 or neither, as the machine has it.
///
/// Write the closure as `#[inline(always)] || …`, and mark what it calls likewise: only what is inlined here is compiled
/// for the wide instructions, and a fused multiply-add outside of them is a call into a library.
#[inline(always)]
pub(crate) fn vectorized<R>(body: impl FnMut() -> R) -> R {
    pulp::Arch::new().dispatch(Body(body))
}

/// Calls the closure itself. A bare closure would be called through a shim that no attribute inlines.
struct Body<F>(F);

impl<R, F: FnMut() -> R> pulp::NullaryFnOnce for Body<F> {
    type Output = R;

    #[inline(always)]
    fn call(mut self) -> R {
        (self.0)()
    }
}
