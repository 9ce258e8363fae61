//! ColorJitter: factors and their order, as torchvision's `ColorJitter.get_params` distributes them.

use super::SampleName;
use crate::ops::pixels::Change;
use crate::recipe::ColorJitter;
use crate::rng::Purpose;

impl SampleName {
    /// The changes of a sample, one after the other; an amount of 0 takes none.
    ///
    /// The numbers 0 to 3 of the stream are the factors, 4 to 6 their order.
    pub fn color_jitter(&self, settings: ColorJitter) -> impl Iterator<Item = Change> {
        let stream = self.stream(Purpose::ColorJitter);
        let factor = |index: u32, amount: f64| {
            let (low, high) = ((1.0 - amount).max(0.0), 1.0 + amount);
            (amount > 0.0).then(|| (low + (high - low) * stream.uniform(index)) as f32)
        };
        let ColorJitter {
            brightness,
            contrast,
            saturation,
            hue,
        } = settings;
        let turn = (hue > 0.0).then(|| hue * (2.0 * stream.uniform(3) - 1.0));
        let mut changes = [
            factor(0, brightness).map(Change::Brightness),
            factor(1, contrast).map(Change::Contrast),
            factor(2, saturation).map(Change::Saturation),
            turn.map(Change::Hue),
        ];
        // Fisher and Yates.
        for (index, left) in [(4, 4), (5, 3), (6, 2)] {
            changes.swap(left - 1, stream.below(index, left as u64) as usize);
        }
        changes.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn drawn(settings: ColorJitter, sample: u64) -> Vec<Change> {
        let name = SampleName {
            seed: 42,
            epoch: 1,
            sample,
        };
        name.color_jitter(settings).collect()
    }

    #[test]
    fn factors_are_uniform_and_orders_equally_frequent() {
        let settings = ColorJitter {
            brightness: 0.4,
            contrast: 1.5,
            saturation: 0.2,
            hue: 0.1,
        };
        // torchvision's: 1 - x, not below 0, to 1 + x; of the hue -x to x.
        let ranges = [(0.6, 1.4), (0.0, 2.5), (0.8, 1.2), (-0.1, 0.1)];
        let n = 4800;
        let (mut orders, mut means) = (BTreeMap::new(), [0.0; 4]);
        for sample in 0..n {
            let changes = drawn(settings, sample);
            let numbered = changes.iter().map(|change| match *change {
                Change::Brightness(factor) => (0, factor as f64),
                Change::Contrast(factor) => (1, factor as f64),
                Change::Saturation(factor) => (2, factor as f64),
                Change::Hue(share) => (3, share),
                _ => panic!("{change:?}"),
            });
            let order: Vec<usize> = numbered.clone().map(|(number, _)| number).collect();
            *orders.entry(order).or_insert(0) += 1;
            for (number, value) in numbered {
                let (low, high) = ranges[number];
                assert!((low - 1e-6..=high + 1e-6).contains(&value), "{number}: {value}");
                means[number] += (value - low) / (high - low) / n as f64;
            }
        }
        // 200 of each of the 24 orders, five standard deviations; four standard errors of a uniform mean.
        assert_eq!(orders.len(), 24);
        assert!(orders.values().all(|count| (200i32 - count).abs() < 70), "{orders:?}");
        assert!(means.iter().all(|mean| (mean - 0.5).abs() < 0.0167), "{means:?}");
    }

    #[test]
    fn what_is_0_is_left_out() {
        let contrast = ColorJitter {
            contrast: 0.3,
            ..ColorJitter::default()
        };
        assert!(matches!(drawn(contrast, 5)[..], [Change::Contrast(_)]));
        assert!(drawn(ColorJitter::default(), 5).is_empty());
    }
}
