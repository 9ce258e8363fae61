//! Decoded pictures that stay in the device's memory, so that later samples of them need no decoding and no copy.
//!
//! Threads that decode set room aside and put whole pictures into their batch; whoever hands the batch to the device says
//! where they go. What is on the device is read only by batches that are handed over later.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::ops::intake::{Intake, Keep};
use crate::ops::preprocess::Picture;

/// What places begin at a multiple of, in bytes.
const ALIGNMENT: usize = 16;

/// The room on one device that the pictures of several datasets share.
pub struct DeviceRoom {
    /// Bytes that may still be set aside.
    left: AtomicUsize,
    /// Where the next picture goes.
    next: AtomicUsize,
}

/// Pictures of a dataset by row; many threads use it at once.
pub struct DevicePictures {
    slots: Vec<OnceLock<Picture>>,
    room: Arc<DeviceRoom>,
}

impl DeviceRoom {
    /// All that an intake has for pictures that stay.
    pub fn of(intake: &Intake) -> DeviceRoom {
        let (start, bytes) = intake.room();
        DeviceRoom {
            left: AtomicUsize::new(bytes),
            next: AtomicUsize::new(start),
        }
    }
}

impl DevicePictures {
    /// Of a dataset of `rows` rows.
    pub fn new(rows: usize, room: Arc<DeviceRoom>) -> DevicePictures {
        DevicePictures {
            slots: (0..rows).map(|_| OnceLock::new()).collect(),
            room,
        }
    }

    pub fn get(&self, row: usize) -> Option<Picture> {
        self.slots.get(row)?.get().copied()
    }

    /// Whether there is room for a picture of this size, which then is set aside.
    pub(super) fn reserve(&self, width: usize, height: usize) -> bool {
        let bytes = kept_bytes(width, height);
        let less = |left: usize| left.checked_sub(bytes);
        let left = &self.room.left;
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// Gives back what `reserve` set aside for a picture that does not stay after all.
    pub(super) fn release(&self, width: usize, height: usize) {
        self.room.left.fetch_add(kept_bytes(width, height), Ordering::Relaxed);
    }

    /// The whole picture of a row, for which room was set aside, stays: from where to where it is to be copied when the batch
    /// is handed over, which must come next. None: it is there already.
    pub(super) fn keep(&self, row: usize, picture: Picture) -> Option<Keep> {
        let Picture {
            start, width, height, ..
        } = picture;
        if self.get(row).is_some() {
            self.release(width, height);
            return None;
        }
        // What was set aside is never more than there is, so the places do not go beyond it either.
        let to = self.room.next.fetch_add(kept_bytes(width, height), Ordering::Relaxed);
        let _ = self.slots[row].set(Picture { start: to, ..picture });
        Some(Keep {
            from: start,
            to,
            bytes: 3 * width * height,
        })
    }
}

/// Bytes that a picture of this size takes on a device.
pub fn kept_bytes(width: usize, height: usize) -> usize {
    (3 * width * height).next_multiple_of(ALIGNMENT)
}
