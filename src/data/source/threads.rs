//! Looking into many files at once: the time is that of a disk's or a network's answers, not of computing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::Result;

/// Threads that wait for files.
const MOST: usize = 16;
/// Fewer files are looked into one after the other.
const WORTH_WHILE: usize = 8;

/// What `look` finds at 0, 1, … up to `count`, in this order; the error is that of the first place that has one.
pub(super) fn each<T: Send>(count: usize, look: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    if count < WORTH_WHILE {
        return (0..count).map(look).collect();
    }
    let next = AtomicUsize::new(0);
    let found: Mutex<Vec<Option<Result<T>>>> = Mutex::new((0..count).map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..MOST.min(count / 2) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return;
                    }
                    let result = look(at);
                    let is_error = result.is_err();
                    found.lock().expect("nothing panics with the lock")[at] = Some(result);
                    if is_error {
                        // What comes behind does not matter any more; what was begun before is finished.
                        next.store(count, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let found = found.into_inner().expect("nothing panics with the lock");
    found.into_iter().map_while(|result| result).collect()
}
