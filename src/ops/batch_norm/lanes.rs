//! Loops over the channels of pixels with the machine's vectors.
//!
//! They are written with vectors and not left to the compiler, because they work on up to nine slices at once: where so many
//! might overlap, it computes one value after the other.

use pulp::Simd;

/// No vector has more lanes.
const MOST: usize = 16;

/// `channels`, filled up to whole vectors.
pub(super) fn filled(channels: usize) -> usize {
    channels.next_multiple_of(MOST)
}

/// Values of channels, filled up with zeros to whole vectors.
pub(super) fn filled_up(values_c: &[f32]) -> Vec<f32> {
    let mut all = values_c.to_vec();
    all.resize(filled(values_c.len()), 0.0);
    all
}

/// The vectors of a slice that is filled up.
#[inline(always)]
pub(super) fn vectors<S: Simd>(filled_up: &[f32]) -> &[S::f32s] {
    S::as_simd_f32s(filled_up).0
}

/// Calls `each` with the number of every vector of channels, and with those of a and b, pixel by pixel.
#[inline(always)]
pub(super) fn over_two<S: Simd>(
    simd: S,
    channels: usize,
    a: &[f32],
    b: &[f32],
    mut each: impl FnMut(usize, S::f32s, S::f32s),
) {
    for (a, b) in a.chunks_exact(channels).zip(b.chunks_exact(channels)) {
        let ((a, last_a), (b, last_b)) = (S::as_simd_f32s(a), S::as_simd_f32s(b));
        for (at, (a, b)) in a.iter().zip(b).enumerate() {
            each(at, *a, *b);
        }
        if !last_a.is_empty() {
            each(a.len(), simd.partial_load_f32s(last_a), simd.partial_load_f32s(last_b));
        }
    }
}

/// y = value(number of the vector, that of a and of b), pixel by pixel.
#[inline(always)]
pub(super) fn write<S: Simd>(
    simd: S,
    channels: usize,
    y: &mut [f32],
    a: &[f32],
    b: &[f32],
    value: impl Fn(usize, S::f32s, S::f32s) -> S::f32s,
) {
    let others = a.chunks_exact(channels).zip(b.chunks_exact(channels));
    for (y, (a, b)) in y.chunks_exact_mut(channels).zip(others) {
        let ((a, last_a), (b, last_b)) = (S::as_simd_f32s(a), S::as_simd_f32s(b));
        let (y, last_y) = S::as_mut_simd_f32s(y);
        for (at, (y, (a, b))) in y.iter_mut().zip(a.iter().zip(b)).enumerate() {
            *y = value(at, *a, *b);
        }
        if !last_y.is_empty() {
            let last = value(a.len(), simd.partial_load_f32s(last_a), simd.partial_load_f32s(last_b));
            simd.partial_store_f32s(last_y, last);
        }
    }
}

/// y = value(number of the vector, that of y, of a and of b), pixel by pixel.
#[inline(always)]
pub(super) fn change<S: Simd>(
    simd: S,
    channels: usize,
    y: &mut [f32],
    a: &[f32],
    b: &[f32],
    mut value: impl FnMut(usize, S::f32s, S::f32s, S::f32s) -> S::f32s,
) {
    let others = a.chunks_exact(channels).zip(b.chunks_exact(channels));
    for (y, (a, b)) in y.chunks_exact_mut(channels).zip(others) {
        let ((a, last_a), (b, last_b)) = (S::as_simd_f32s(a), S::as_simd_f32s(b));
        let (y, last_y) = S::as_mut_simd_f32s(y);
        for (at, (y, (a, b))) in y.iter_mut().zip(a.iter().zip(b)).enumerate() {
            *y = value(at, *y, *a, *b);
        }
        if !last_y.is_empty() {
            let (of_a, of_b) = (simd.partial_load_f32s(last_a), simd.partial_load_f32s(last_b));
            let last = value(a.len(), simd.partial_load_f32s(last_y), of_a, of_b);
            simd.partial_store_f32s(last_y, last);
        }
    }
}
