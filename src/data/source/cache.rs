//! Blocks of rows that were read once, kept within a budget of bytes; the least recently used ones go first.
//!
//! Different blocks are read in parallel; a block that two threads want at once is read once. A block that is dropped here
//! lives on in the slices that were handed out of it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;

/// Blocks `V` under keys `K`.
pub(super) struct BlockCache<K, V> {
    budget_bytes: AtomicUsize,
    held: Mutex<Held<K, V>>,
}

struct Held<K, V> {
    slots: HashMap<K, Slot<V>>,
    bytes: usize,
    /// Counts the uses, to order them.
    uses: u64,
}

struct Slot<V> {
    /// Locked while the block is being read.
    block: Arc<Mutex<Option<Arc<V>>>>,
    last_use: u64,
    /// 0 until the block has been read.
    bytes: usize,
}

impl<K: Copy + Eq + Hash, V> BlockCache<K, V> {
    pub fn new(budget_bytes: usize) -> Self {
        BlockCache {
            budget_bytes: AtomicUsize::new(budget_bytes),
            held: Mutex::new(Held {
                slots: HashMap::new(),
                bytes: 0,
                uses: 0,
            }),
        }
    }

    /// Changes the budget; blocks that exceed it go when the next one comes.
    pub fn limit(&self, budget_bytes: usize) {
        self.budget_bytes.store(budget_bytes, Ordering::Relaxed);
    }

    /// The block `key`, which `read` makes, together with its size in bytes, if it is not there. An error is not kept.
    pub fn get(&self, key: K, read: impl FnOnce() -> Result<(V, usize)>) -> Result<Arc<V>> {
        let place = {
            let mut held = lock(&self.held);
            held.uses += 1;
            let now = held.uses;
            let slot = held.slots.entry(key).or_insert_with(|| Slot {
                block: Arc::default(),
                last_use: now,
                bytes: 0,
            });
            slot.last_use = now;
            slot.block.clone()
        };
        let mut block = lock(&place);
        if let Some(block) = block.as_ref() {
            return Ok(block.clone());
        }
        let (value, bytes) = read()?;
        let value = Arc::new(value);
        *block = Some(value.clone());
        drop(block);
        self.account(key, bytes);
        Ok(value)
    }

    /// Books a block that has just been read, and drops old ones until the budget holds again.
    fn account(&self, key: K, bytes: usize) {
        let mut held = lock(&self.held);
        let held = &mut *held;
        if let Some(slot) = held.slots.get_mut(&key) {
            held.bytes = held.bytes - slot.bytes + bytes;
            slot.bytes = bytes;
        }
        while held.bytes > self.budget_bytes.load(Ordering::Relaxed) {
            let read = held
                .slots
                .iter()
                .filter(|(other, slot)| **other != key && slot.bytes > 0);
            let Some(oldest) = read.min_by_key(|(_, slot)| slot.last_use).map(|(key, _)| *key) else {
                break;
            };
            if let Some(slot) = held.slots.remove(&oldest) {
                held.bytes -= slot.bytes;
            }
        }
    }
}

/// A thread that panicked while it held the lock left nothing half-done: every change is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;
    use crate::error::Error;

    #[test]
    fn the_least_recently_used_blocks_go_first() {
        let cache = BlockCache::new(100);
        let reads = AtomicUsize::new(0);
        let get = |key: u32, bytes: usize| {
            let value = cache.get(key, || {
                reads.fetch_add(1, SeqCst);
                Ok((key * 10, bytes))
            });
            assert_eq!(*value.unwrap(), key * 10);
            reads.load(SeqCst)
        };
        assert_eq!([get(1, 40), get(2, 40), get(1, 40)], [1, 2, 2]);
        assert_eq!(get(3, 40), 3); // drops 2
        assert_eq!([get(1, 40), get(3, 40)], [3, 3]);
        assert_eq!(get(2, 40), 4); // drops 1
        assert_eq!(get(4, 500), 5); // larger than the budget: held until the next one comes, everything else goes
        assert_eq!([get(4, 500), get(3, 40), get(4, 500)], [5, 6, 7]);
    }

    #[test]
    fn a_block_is_read_once_however_many_want_it_and_others_are_read_meanwhile() {
        let cache = BlockCache::new(1 << 20);
        let reads = AtomicUsize::new(0);
        // Two different blocks that can only be read at the same time, each wanted by four threads.
        let both_reading = Barrier::new(2);
        std::thread::scope(|scope| {
            for thread in 0..8u32 {
                let (cache, reads, both_reading) = (&cache, &reads, &both_reading);
                scope.spawn(move || {
                    let value = cache.get(thread % 2, || {
                        both_reading.wait();
                        reads.fetch_add(1, SeqCst);
                        Ok((thread % 2, 8))
                    });
                    assert_eq!(*value.unwrap(), thread % 2);
                });
            }
        });
        assert_eq!(reads.load(SeqCst), 2);
    }

    #[test]
    fn errors_are_not_kept() {
        let cache = BlockCache::new(10);
        let failed = cache.get(1, || Err::<(u32, usize), _>(Error::usage("x", "y")));
        assert!(failed.is_err());
        assert_eq!(*cache.get(1, || Ok((5, 1))).unwrap(), 5);
    }
}
