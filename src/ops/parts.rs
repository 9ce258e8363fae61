//! A buffer of f32 that several threads fill, each its own part, without copying and without zeroing it beforehand: whoever
//! fills a part writes it from the front to the back and can read only what is written.

use std::mem::MaybeUninit;
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

/// Values that are written from the front to the back.
pub struct Front<'a> {
    values: &'a mut [MaybeUninit<f32>],
    /// All before this place are values.
    written: usize,
}

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
    /// Lets `write` fill the part; what it leaves out becomes 0.
    pub fn fill<R>(self, write: impl FnOnce(&mut Front<'_>) -> R) -> R {
        let len = self.memory.part_len;
        // SAFETY: part `index` is the range [index x len, + len) of an allocation of count x len values; no other part
        // overlaps it, `fill` consumes the only handle, and the allocation lives as long as `self.memory`. Of
        // `MaybeUninit` no value is claimed to be there.
        let values = unsafe {
            let start = self.memory.start.add(self.index * len);
            std::slice::from_raw_parts_mut(start.cast::<MaybeUninit<f32>>(), len)
        };
        let start = values.as_ptr();
        let mut front = Front { values, written: 0 };
        let result = write(&mut front);
        assert_eq!(
            front.values.as_ptr(),
            start,
            "another front was put in this one's place"
        );
        front.complete();
        self.memory.filled[self.index].store(true, Ordering::Release);
        result
    }
}

impl<'a> Front<'a> {
    /// Over values that are there and may be written again.
    pub fn over(values: &'a mut [f32]) -> Front<'a> {
        let written = values.len();
        // SAFETY: the same memory under a type of the same layout; through it only f32 values are ever written, so it holds
        // values when the borrow ends.
        let values = unsafe { &mut *(std::ptr::from_mut(values) as *mut [MaybeUninit<f32>]) };
        Front { values, written }
    }

    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Writes `len` values from `start` on: value `i` of them is `value(i)`. What nobody has written before them becomes 0.
    #[inline]
    pub fn write(&mut self, start: usize, len: usize, value: impl Fn(usize) -> f32) {
        let values = &mut self.values[..start + len];
        if self.written < start {
            values[self.written..start].fill(MaybeUninit::new(0.0));
            self.written = start;
        }
        for (at, to) in values[start..].iter_mut().enumerate() {
            to.write(value(at));
        }
        self.written = self.written.max(start + len);
    }

    /// All values; those that nobody has written are 0.
    pub fn complete(&mut self) -> &mut [f32] {
        self.values[self.written..].fill(MaybeUninit::new(0.0));
        self.written = self.values.len();
        // SAFETY: every value up to `written` was written, and that is all of them.
        unsafe { &mut *(std::ptr::from_mut(&mut *self.values) as *mut [f32]) }
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
                    part.fill(|front| {
                        // The rest is left out, in two places.
                        let end = if index == 6 { 900 } else { 1000 };
                        front.write(100, end - 100, |_| index as f32);
                    })
                });
            }
        });
        let vec = whole.into_vec();
        assert_eq!(vec.len(), 8000);
        for (at, value) in vec.iter().enumerate() {
            let is_left_out = at / 1000 == 5 || at % 1000 < 100 || at / 1000 == 6 && at % 1000 >= 900;
            assert_eq!(*value, if is_left_out { 0.0 } else { (at / 1000) as f32 }, "{at}");
        }
    }

    #[test]
    fn an_abandoned_buffer_is_freed_by_the_last_holder() {
        let (whole, mut parts) = parts(2, 4);
        drop(whole);
        parts.pop().unwrap().fill(|front| front.write(0, 1, |_| 1.0));
        drop(parts);
        assert!(super::parts(0, 4).0.into_vec().is_empty());
    }

    #[test]
    fn what_is_written_can_be_read_and_written_again() {
        let mut values = vec![9.0; 6];
        let mut front = Front::over(&mut values);
        front.write(2, 2, |at| at as f32);
        assert_eq!(front.complete(), [9.0, 9.0, 0.0, 1.0, 9.0, 9.0]);
        let (whole, mut parts) = parts(1, 6);
        parts.pop().unwrap().fill(|front| {
            front.write(1, 3, |at| at as f32);
            front.write(2, 1, |_| 7.0);
            front.complete()[5] = 8.0;
            front.write(4, 1, |_| 6.0);
        });
        assert_eq!(whole.into_vec(), [0.0, 0.0, 7.0, 2.0, 6.0, 8.0]);
    }
}
