//! Panels: a few lanes (rows of A or columns of B) side by side for every step of k, so that a tile reads memory in
//! order.

/// What one panel is made of: element (lane, step) is `from[lane * lane_stride + step * step_stride]`.
///
/// Valid are the elements with lane < `lanes` and step < `steps`, and `steps * WIDTH + 16` floats of the destination:
/// the lanes that are missing to a full panel hold anything, and writing may run 16 floats over its end.
pub(super) struct Lanes {
    pub from: *const f32,
    pub lanes: usize,
    pub lane_stride: usize,
    pub steps: usize,
    pub step_stride: usize,
}

/// Packs a panel of `WIDTH` lanes element by element, or step by step where lanes are adjacent.
///
/// # Safety
/// The memory is as [`Lanes`] says.
#[inline(always)]
pub(super) unsafe fn copy<const WIDTH: usize>(lanes: &Lanes, to: *mut f32) {
    // SAFETY: indices stay below `lanes` and `steps`.
    unsafe {
        if lanes.lane_stride == 1 && lanes.lanes == WIDTH {
            for step in 0..lanes.steps {
                let from = lanes.from.add(step * lanes.step_stride).cast::<[f32; WIDTH]>();
                to.add(step * WIDTH)
                    .cast::<[f32; WIDTH]>()
                    .write_unaligned(from.read_unaligned());
            }
            return;
        }
        // A block of steps of all lanes stays in L1 whichever way memory runs.
        const BLOCK: usize = 64;
        for first in (0..lanes.steps).step_by(BLOCK) {
            let steps = BLOCK.min(lanes.steps - first);
            for lane in 0..lanes.lanes {
                let from = lanes.from.add(lane * lanes.lane_stride + first * lanes.step_stride);
                let to = to.add(first * WIDTH + lane);
                for step in 0..steps {
                    *to.add(step * WIDTH) = *from.add(step * lanes.step_stride);
                }
            }
        }
    }
}
