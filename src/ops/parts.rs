//! A buffer of f32 that several threads fill, each its own part, without copying and without zeroing it beforehand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The buffer while its parts are out.
pub struct Whole {
    memory: Arc<Memory>,
}

/// One part; whoever holds it may write it, once.
pub struct Part {
    memory: Arc<Memory>,
    index: usize,
}

struct Memory {
    start: *mut f32,
    part_len: usize,
    capacity: usize,
    /// Which parts hold values.
    filled: Vec<AtomicBool>,
}

// SAFETY: the memory belongs to this value alone, as a Vec's would. Shared access goes through `Part`s, which cover disjoint
// ranges and exist once each, and through `filled`, which is atomic.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// A buffer of `count` parts of `part_len` values.
pub fn parts(count: usize, part_len: usize) -> (Whole, Vec<Part>) {
    let mut vec = std::mem::ManuallyDrop::new(Vec::<f32>::with_capacity(count * part_len));
    let memory = Arc::new(Memory {
        start: vec.as_mut_ptr(),
        part_len,
        capacity: vec.capacity(),
        filled: (0..count).map(|_| AtomicBool::new(false)).collect(),
    });
    let part = |index| Part {
        memory: memory.clone(),
        index,
    };
    let parts = (0..count).map(part).collect();
    (Whole { memory }, parts)
}

impl Part {
    /// Lets `write` fill the part, which holds zeros before.
    pub fn fill<R>(self, write: impl FnOnce(&mut [f32]) -> R) -> R {
        let len = self.memory.part_len;
        // SAFETY: part `index` is the range [index x len, + len) of an allocation of count x len values; no other part
        // overlaps it, `fill` consumes the only handle, and the allocation lives as long as `self.memory`. All-zero
        // bytes are valid f32.
        let values = unsafe {
            let start = self.memory.start.add(self.index * len);
            start.write_bytes(0, len);
            std::slice::from_raw_parts_mut(start, len)
        };
        let result = write(values);
        self.memory.filled[self.index].store(true, Ordering::Release);
        result
    }
}

impl Whole {
    /// The values of all parts, in order; zeros where a part was not filled. Panics while a part is still out.
    pub fn into_vec(self) -> Vec<f32> {
        let mut memory = Arc::into_inner(self.memory).expect("all parts are back");
        for (index, filled) in memory.filled.iter().enumerate() {
            if !filled.load(Ordering::Acquire) {
                // SAFETY: in bounds as in `fill`; no part is left that could be writing.
                unsafe {
                    memory
                        .start
                        .add(index * memory.part_len)
                        .write_bytes(0, memory.part_len)
                };
            }
        }
        let len = memory.filled.len() * memory.part_len;
        let (start, capacity) = (memory.start, memory.capacity);
        memory.capacity = 0; // moved out: `drop` frees nothing
        // SAFETY: start and capacity are those of a Vec<f32> that was not dropped and will not be; every value up to the
        // length is written.
        unsafe { Vec::from_raw_parts(start, len, capacity) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.capacity > 0 {
            // SAFETY: pointer and capacity of a Vec<f32> that nobody else frees; length 0, since f32 needs no drop.
            drop(unsafe { Vec::from_raw_parts(self.start, 0, self.capacity) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_together_in_order_whoever_fills_them() {
        let (whole, parts) = parts(8, 1000);
        std::thread::scope(|scope| {
            for (index, part) in parts.into_iter().enumerate().rev() {
                scope.spawn(move || {
                    if index == 5 {
                        return; // dropped unfilled
                    }
                    part.fill(|values| {
                        assert!(values.iter().all(|v| *v == 0.0));
                        values.fill(index as f32);
                    })
                });
            }
        });
        let vec = whole.into_vec();
        assert_eq!(vec.len(), 8000);
        for (at, value) in vec.iter().enumerate() {
            assert_eq!(*value, if at / 1000 == 5 { 0.0 } else { (at / 1000) as f32 });
        }
    }

    #[test]
    fn an_abandoned_buffer_is_freed_by_the_last_holder() {
        let (whole, mut parts) = parts(2, 4);
        drop(whole);
        parts.pop().unwrap().fill(|values| values[0] = 1.0);
        drop(parts);
        assert!(super::parts(0, 4).0.into_vec().is_empty());
    }
}
