//! Memory of the host that batches are put together in: page-locked for a GPU, where the system gives so much.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

use candle_core::Device;

/// Zeroed memory, aligned to 16 bytes or more.
pub(super) struct HostMemory {
    pub start: *mut u8,
    pub bytes: usize,
    /// The GPU that it is page-locked for; None: ordinary memory.
    #[cfg(feature = "cuda")]
    locked_for: Option<Device>,
}

// SAFETY: the memory belongs to this value alone.
unsafe impl Send for HostMemory {}
// SAFETY: through a shared reference only the address is read; `Staging` says who may write where.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    pub fn new(bytes: usize, device: &Device) -> HostMemory {
        #[cfg(feature = "cuda")]
        if let Some(start) = crate::ops::cuda::page_locked::page_locked(device, bytes) {
            return HostMemory {
                start,
                bytes,
                locked_for: Some(device.clone()),
            };
        }
        let _ = device;
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc_zeroed(layout(bytes)) };
        if start.is_null() {
            handle_alloc_error(layout(bytes));
        }
        HostMemory {
            start,
            bytes,
            #[cfg(feature = "cuda")]
            locked_for: None,
        }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        #[cfg(feature = "cuda")]
        if let Some(device) = &self.locked_for {
            crate::ops::cuda::page_locked::free_page_locked(device, self.start);
            return;
        }
        // SAFETY: allocated with this layout in `new`.
        unsafe { dealloc(self.start, layout(self.bytes)) }
    }
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes.max(1), 64).expect("less than half of the address space")
}
