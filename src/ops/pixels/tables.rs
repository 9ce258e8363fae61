//! Changes that make of a value another one, whatever is around it: a table of 256 per channel.

use super::blend::between;

type Table = [u8; 256];
/// How often each value occurs.
type Histogram = [u32; 256];

/// Each plane of `[3, pixels]` through its table.
pub(super) fn apply(values_chw: &mut [u8], tables: &[Table; 3]) {
    let plane = values_chw.len() / 3;
    for (plane, table) in values_chw.chunks_exact_mut(plane).zip(tables) {
        for value in plane {
            *value = table[*value as usize];
        }
    }
}

/// Of each plane of `[3, pixels]`.
pub(super) fn histograms(values_chw: &[u8]) -> [Histogram; 3] {
    let plane = values_chw.len() / 3;
    std::array::from_fn(|channel| {
        // Four counts in turn: equal neighbours would wait for each other.
        let mut counts = [[0; 256]; 4];
        for values in values_chw[channel * plane..][..plane].chunks(4) {
            for (counts, value) in counts.iter_mut().zip(values) {
                counts[*value as usize] += 1;
            }
        }
        std::array::from_fn(|value| counts.iter().map(|counts| counts[value]).sum())
    })
}

pub(super) fn brightness(factor: f32) -> Table {
    table(|value| between(0, value, factor))
}

pub(super) fn contrast(mean: u8, factor: f32) -> Table {
    table(|value| between(mean, value, factor))
}

pub(super) fn posterize(bits: u32) -> Table {
    table(|value| value & !((1u32 << (8 - bits)) - 1) as u8)
}

pub(super) fn solarize(threshold: f64) -> Table {
    table(|value| if (value as f64) < threshold { value } else { 255 - value })
}

pub(super) fn auto_contrast(histogram: &Histogram) -> Table {
    let used = |value: &usize| histogram[*value] > 0;
    let (Some(low), Some(high)) = ((0..256).find(used), (0..256).rfind(used)) else {
        return table(|value| value);
    };
    if low == high {
        return table(|value| value);
    }
    let scale = 255.0 / (high - low) as f64;
    let offset = -(low as f64) * scale;
    table(|value| (value as f64 * scale + offset) as u8)
}

pub(super) fn equalize(histogram: &Histogram) -> Table {
    let Some(last) = (0..256).rfind(|&value| histogram[value] > 0) else {
        return table(|value| value);
    };
    let below = histogram[..last].iter().sum::<u32>();
    let step = below / 255;
    if step == 0 {
        return table(|value| value);
    }
    let mut sum = step / 2;
    std::array::from_fn(|value| {
        let equalized = (sum / step).min(255) as u8;
        sum += histogram[value];
        equalized
    })
}

fn table(of: impl Fn(u8) -> u8) -> Table {
    std::array::from_fn(|value| of(value as u8))
}
