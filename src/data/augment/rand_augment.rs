//! RandAugment: which changes a sample goes through. Ops, magnitudes and signs are those of torchvision's `RandAugment`.

use super::SampleName;
use crate::ops::pixels::Change;
use crate::recipe::RandAugment;
use crate::rng::Purpose;

const OPS: u64 = 14;

impl SampleName {
    /// The changes of a sample of this size, one after the other.
    ///
    /// Op k uses the numbers 2k (which one) and 2k+1 (its sign) of the stream.
    pub fn rand_augment(&self, settings: RandAugment, size: (usize, usize)) -> impl Iterator<Item = Change> {
        let stream = self.stream(Purpose::RandAugment);
        (0..settings.num_ops).map(move |k| {
            let number = stream.below(2 * k, OPS);
            let sign = if stream.uniform(2 * k + 1) < 0.5 { -1.0 } else { 1.0 };
            change(number, sign, settings, size)
        })
    }
}

/// Op `number` of torchvision's list; ops without a sign ignore it.
fn change(number: u64, sign: f64, settings: RandAugment, (height, width): (usize, usize)) -> Change {
    let up_to = |most: f64| between(0.0, most, settings);
    let signed = |most: f64| sign * up_to(most);
    let factor = || (1.0 + signed(0.9)) as f32;
    // Of the larger side in the paper, which had pictures of 331 pixels.
    let pixels = |side: usize| signed(150.0 / 331.0 * side as f64) as i64;
    match number {
        0 => Change::Identity,
        1 => Change::ShearX(signed(0.3)),
        2 => Change::ShearY(signed(0.3)),
        3 => Change::TranslateX(pixels(width)),
        4 => Change::TranslateY(pixels(height)),
        5 => Change::Rotate(signed(30.0)),
        6 => Change::Brightness(factor()),
        7 => Change::Saturation(factor()),
        8 => Change::Contrast(factor()),
        9 => Change::Sharpness(factor()),
        10 => {
            let bins_per_bit = (settings.num_magnitude_bins - 1) as f32 / 4.0;
            let bits_lost = settings.magnitude as f32 / bins_per_bit;
            Change::Posterize(8 - bits_lost.round_ties_even() as u32)
        }
        11 => Change::Solarize(between(255.0, 0.0, settings)),
        12 => Change::AutoContrast,
        _ => Change::Equalize,
    }
}

/// The magnitude in `torch.linspace(start, end, num_magnitude_bins)`, which counts in f32 from both ends.
fn between(start: f64, end: f64, settings: RandAugment) -> f64 {
    let (start, end) = (start as f32, end as f32);
    let (at, last) = (settings.magnitude, settings.num_magnitude_bins - 1);
    let step = (end - start) / last as f32;
    let value = match at < settings.num_magnitude_bins / 2 {
        true => start + step * at as f32,
        false => end - step * (last - at) as f32,
    };
    value as f64
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;
    use crate::ops::pixels::Canvas;

    const STORED: &[u8] = include_bytes!("../../../tests/fixtures/augmentations.safetensors");
    /// In torchvision's order.
    const NAMES: [&str; OPS as usize] = [
        "Identity",
        "ShearX",
        "ShearY",
        "TranslateX",
        "TranslateY",
        "Rotate",
        "Brightness",
        "Color",
        "Contrast",
        "Sharpness",
        "Posterize",
        "Solarize",
        "AutoContrast",
        "Equalize",
    ];

    #[test]
    fn magnitudes_are_torchvisions() {
        let stored = SafeTensors::deserialize(STORED).unwrap();
        let mut seen = 0;
        for (name, tensor) in stored.tensors() {
            let parts: Vec<&str> = name.split('.').collect();
            let &["magnitudes", bins, size, op] = &parts[..] else {
                continue;
            };
            let (width, height) = size.split_once('x').unwrap();
            let size = (height.parse().unwrap(), width.parse().unwrap());
            let values = tensor
                .data()
                .as_chunks::<4>()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes));
            for (magnitude, expected) in values.enumerate() {
                let settings = RandAugment {
                    num_ops: 1,
                    magnitude: magnitude as u32,
                    num_magnitude_bins: bins.parse().unwrap(),
                };
                let number = NAMES.iter().position(|name| *name == op).unwrap();
                let of = |sign| change(number as u64, sign, settings, size);
                let expected = expected as f64;
                let (positive, negative) = (of(1.0), of(-1.0));
                // torch's vectors of eight and of sixteen round differently: two units in the last place of f32.
                let close = |got: f64, expected: f64| (got - expected).abs() <= 2.4e-7 * expected.abs();
                let right = match (positive, negative) {
                    (Change::ShearX(a), Change::ShearX(b))
                    | (Change::ShearY(a), Change::ShearY(b))
                    | (Change::Rotate(a), Change::Rotate(b)) => close(a, expected) && a == -b,
                    (Change::TranslateX(a), Change::TranslateX(b)) | (Change::TranslateY(a), Change::TranslateY(b)) => {
                        a == expected as i64 && a == -b
                    }
                    (Change::Brightness(a), Change::Brightness(b))
                    | (Change::Saturation(a), Change::Saturation(b))
                    | (Change::Contrast(a), Change::Contrast(b))
                    | (Change::Sharpness(a), Change::Sharpness(b)) => {
                        close(a as f64, 1.0 + expected) && close(b as f64 + expected, 1.0)
                    }
                    (Change::Posterize(a), Change::Posterize(b)) => a as f64 == expected && a == b,
                    (Change::Solarize(a), Change::Solarize(b)) => close(a, expected) && a == b,
                    _ => false,
                };
                assert!(
                    right,
                    "{name} {magnitude}: {positive:?} and {negative:?} for {expected}"
                );
                seen += 1;
            }
        }
        assert_eq!(seen, 3 * (2 + 11 + 31) * 11);
    }

    /// `[height, width, 3]` to a canvas' order.
    fn chw(values_hwc: &[u8]) -> Vec<u8> {
        (0..3)
            .flat_map(|channel| values_hwc.iter().skip(channel).step_by(3).copied())
            .collect()
    }

    /// What torchvision's `RandAugment(2, 9)` drew: an op, then, if it has a sign, 1 for minus; and so on.
    #[test]
    fn draws_in_a_row_give_torchvisions_pictures() {
        let stored = SafeTensors::deserialize(STORED).unwrap();
        let photo = stored.tensor("picture.photo").unwrap();
        let size = (photo.shape()[0], photo.shape()[1]);
        let settings = RandAugment {
            num_ops: 2,
            ..RandAugment::default()
        };
        let mut seen = 0;
        for (name, expected) in stored.tensors() {
            let Some(draws) = name.strip_prefix("photo|RandAugment|") else {
                continue;
            };
            let mut canvas = Canvas::default();
            canvas.reshape(size.1, size.0);
            canvas.values_chw_mut().copy_from_slice(&chw(photo.data()));
            let mut draws = draws.split('|').map(|draw| draw.parse::<u64>().unwrap());
            while let Some(number) = draws.next() {
                let signed = (1..=9).contains(&number);
                let sign = if signed && draws.next() == Some(1) { -1.0 } else { 1.0 };
                canvas.apply(change(number, sign, settings, size));
            }
            assert_eq!(canvas.values_chw(), chw(expected.data()), "{name}");
            seen += 1;
        }
        assert_eq!(seen, 5);
    }

    #[test]
    fn ops_are_equally_frequent_and_signs_fair() {
        let settings = RandAugment {
            num_ops: 2,
            ..RandAugment::default()
        };
        let (mut counts, mut signs, mut pairs) = ([0; OPS as usize], [0i32; 2], 0);
        let n = 7000;
        for sample in 0..n {
            let name = SampleName {
                seed: 42,
                epoch: 1,
                sample,
            };
            let changes: Vec<Change> = name.rand_augment(settings, (224, 224)).collect();
            assert_eq!(changes.len(), 2);
            for change in &changes {
                let drawn = |number: &usize| {
                    [-1.0, 1.0]
                        .iter()
                        .any(|sign| super::change(*number as u64, *sign, settings, (224, 224)) == *change)
                };
                counts[(0..OPS as usize).find(drawn).unwrap()] += 1;
                if let Change::Rotate(degrees) = change {
                    signs[usize::from(*degrees > 0.0)] += 1;
                }
            }
            pairs += u64::from(std::mem::discriminant(&changes[0]) == std::mem::discriminant(&changes[1]));
        }
        // 14,000 draws of 14 ops, and n pairs of which a 14th are equal: five standard deviations, since there are 16 of them.
        for (op, count) in NAMES.iter().zip(counts) {
            assert!((1000i32 - count).abs() < 153, "{op}: {count}");
        }
        assert!((500.0 - pairs as f64).abs() < 108.0, "{pairs}");
        assert!((signs[0] - signs[1]).abs() < 158, "{signs:?}");
    }
}
