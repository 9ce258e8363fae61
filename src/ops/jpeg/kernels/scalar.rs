//! The definition of the kernels in plain Rust.
//!
//! Source: libjpeg's jidctint.c (the "slow" integer transform), jdsample.c (a triangle filter: 3/4 of the nearer sample, 1/4
//! of the farther, in each direction; the rounding alternates from column to column) and jdcolor.c (JFIF's YCbCr in 16-bit
//! fixed point). Where values leave their range, which only damaged files make them do, libjpeg-turbo's vector code wraps
//! and saturates at 16 bits; so do we.

use super::super::scan::Block;
use super::{Chroma, Steps};

/// Fractional bits of the transform's constants, and further ones between its two directions.
const CONSTANT_BITS: i32 = 13;
const PASS_BITS: i32 = 2;

/// A block to 8 rows of 8 samples.
pub(super) fn transform(block: &Block, steps: &Steps, samples: &mut [u8], stride: usize) {
    let mut values: [i16; 64] = std::array::from_fn(|at| block[at].wrapping_mul(steps.0[at]));
    if block[8..64].iter().all(|coefficient| *coefficient == 0) {
        // The shortcut saturates nothing.
        let row: [i16; 8] = std::array::from_fn(|x| values[x] << PASS_BITS);
        for (at, value) in values.iter_mut().enumerate() {
            *value = row[at % 8];
        }
    } else {
        for x in 0..8 {
            let column = one_direction(std::array::from_fn(|y| values[y * 8 + x]), CONSTANT_BITS - PASS_BITS);
            (0..8).for_each(|y| values[y * 8 + x] = column[y]);
        }
    }
    for y in 0..8 {
        let row = one_direction(
            std::array::from_fn(|x| values[y * 8 + x]),
            CONSTANT_BITS + PASS_BITS + 3,
        );
        for (sample, value) in samples[y * stride..].iter_mut().zip(row) {
            *sample = (value.clamp(-128, 127) + 128) as u8;
        }
    }
}

/// Eight values; results are rounded, shifted by `shift` and saturated.
fn one_direction(x: [i16; 8], shift: i32) -> [i16; 8] {
    let sum = |a: i16, b: i16| a.wrapping_add(b);
    let products = |a: i16, b: i16, of_a: i32, of_b: i32| (a as i32 * of_a).wrapping_add(b as i32 * of_b);
    // The even part.
    let even2 = products(x[2], x[6], 4433, 4433 - 15137);
    let even3 = products(x[2], x[6], 4433 + 6270, 4433);
    let even0 = (sum(x[0], x[4]) as i32) << CONSTANT_BITS;
    let even1 = (x[0].wrapping_sub(x[4]) as i32) << CONSTANT_BITS;
    let even = [
        even0.wrapping_add(even3),
        even1.wrapping_add(even2),
        even1.wrapping_sub(even2),
        even0.wrapping_sub(even3),
    ];
    // The odd part.
    let (z3, z4) = (sum(x[7], x[3]), sum(x[5], x[1]));
    let odd3 = products(z3, z4, 9633 - 16069, 9633);
    let odd4 = products(z3, z4, 9633, 9633 - 3196);
    let odd = [
        products(x[1], x[7], 12299 - 7373, -7373).wrapping_add(odd4),
        products(x[3], x[5], 25172 - 20995, -20995).wrapping_add(odd3),
        products(x[5], x[3], 16819 - 20995, -20995).wrapping_add(odd4),
        products(x[7], x[1], 2446 - 7373, -7373).wrapping_add(odd3),
    ];
    let rounded = |value: i32| {
        let value = value.wrapping_add(1 << (shift - 1)) >> shift;
        value.clamp(i16::MIN as i32, i16::MAX as i32) as i16
    };
    std::array::from_fn(|at| match at {
        0..4 => rounded(even[at].wrapping_add(odd[at])),
        _ => rounded(even[7 - at].wrapping_sub(odd[7 - at])),
    })
}

pub(super) fn blend_rows(nearer: &[u8], farther: &[u8], count: usize, to: &mut [i16]) {
    for ((to, &near), &far) in to.iter_mut().zip(nearer).zip(farther).take(count) {
        *to = 3 * near as i16 + far as i16;
    }
}

pub(super) fn to_rgb(luma: &[u8], chroma: Chroma<'_>, width: usize, [r, g, b]: [&mut [u8]; 3]) {
    for x in 0..width {
        let y = luma[x] as i32;
        let [cb, cr] = match chroma {
            Chroma::Samples(rows) => rows.map(|row| row[x] as i32 - 128),
            Chroma::Lines(lines, rounding) => lines.map(|line| {
                let neighbour = line.values[x / 2 + 2 * (x % 2)];
                ((3 * line.values[x / 2 + 1] + neighbour + rounding[x % 2]) >> 4) as i32 - 128
            }),
        };
        let clip = |value: i32| (y + ((value + (1 << 15)) >> 16)).clamp(0, 255) as u8;
        r[x] = clip(91881 * cr);
        g[x] = clip(-22554 * cb - 46802 * cr);
        b[x] = clip(116130 * cb);
    }
}
