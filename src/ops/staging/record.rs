//! What is erased of a sample as a batch holds it, for `kernels/erase.cu`: the rectangle's left, top, width and height, then the
//! values, f32.

use super::ALIGNMENT;
use crate::ops::jpeg::Rect;
use crate::ops::pixels::Erased;
use crate::ops::preprocess::UNIT;

/// Of a record with so many values.
pub fn bytes(values: usize) -> usize {
    (ALIGNMENT + values * size_of::<f32>()).next_multiple_of(ALIGNMENT)
}

pub fn write(erased: &Erased, words: &mut [u32]) {
    let Rect { x, y, width, height } = erased.rect;
    let (rect, values) = words.split_at_mut(UNIT);
    rect.copy_from_slice(&[x, y, width, height].map(|side| side as u32));
    for (to, value) in values.iter_mut().zip(&erased.values) {
        *to = value.to_bits();
    }
}

pub fn read(record: &[u8], values: usize) -> Erased {
    let mut words = record.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word));
    let [x, y, width, height] = std::array::from_fn(|_| words.next().unwrap_or(0) as usize);
    Erased {
        rect: Rect { x, y, width, height },
        values: words.take(values).map(f32::from_bits).collect(),
    }
}
