//! Memory of the host that the GPU reads by itself.

use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::result;

use super::Gpu;

/// Zeroed memory of the host from which the GPU copies by itself. None: `device` is no GPU, or the system refuses so much.
pub fn page_locked(device: &Device, bytes: usize) -> Option<*mut u8> {
    Gpu::of(device).ok()?;
    // SAFETY: the context is bound; without flags the block is ordinary memory to the processor.
    let start: *mut u8 = unsafe { result::malloc_host(bytes.max(1), 0) }.ok()?.cast();
    // SAFETY: a block of so many bytes that nobody else knows of.
    unsafe { start.write_bytes(0, bytes) };
    Some(start)
}

/// Frees what [`page_locked`] gave for this device; no copy from it may be under way.
pub fn free_page_locked(device: &Device, start: *mut u8) {
    if Gpu::of(device).is_ok() {
        // SAFETY: a block of `malloc_host`, freed once. What a driver that is shutting down says of it is of no account.
        let _ = unsafe { result::free_host(start.cast()) };
    }
}
