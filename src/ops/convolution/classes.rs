//! Which pixels of an image the places of a kernel reach, for the gradient of a convolution with a stride.

use super::Kernel;

/// Lines (or places in a line) first, first + s, … of an image, which the same places of kernels reach.
pub(crate) struct Class {
    pub first: usize,
    pub count: usize,
    /// Of the kernel, ascending.
    pub places: Vec<usize>,
    /// Pixel first + s·j meets the first of the places in result j + shift.
    pub shift: usize,
}

impl Class {
    pub fn all(kernel: Kernel, n: usize) -> Vec<Class> {
        let Kernel { side, stride } = kernel;
        let padding = kernel.padding();
        (0..stride.min(side))
            .map(|place| {
                let first = (place + stride * padding - padding) % stride;
                Class {
                    first,
                    count: n.saturating_sub(first).div_ceil(stride),
                    places: (place..side).step_by(stride).collect(),
                    shift: (first + padding - place) / stride,
                }
            })
            .filter(|class| class.count > 0)
            .collect()
    }
}
