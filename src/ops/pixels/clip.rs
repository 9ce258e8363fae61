//! Floats to bytes as Pillow's C makes them, clipped and cut: Rust's own conversion keeps loops from vectorising.
#![expect(clippy::manual_clamp, reason = "`clamp` would let a NaN through")]

#[inline(always)]
pub(super) fn byte(value: f32) -> u8 {
    let value = value.max(0.0).min(255.0);
    // SAFETY: it is a number from 0 to 255.
    unsafe { value.to_int_unchecked::<i32>() as u8 }
}

#[inline(always)]
pub(super) fn byte_of_f64(value: f64) -> u8 {
    let value = value.max(0.0).min(255.0);
    // SAFETY: it is a number from 0 to 255.
    unsafe { value.to_int_unchecked::<i32>() as u8 }
}
