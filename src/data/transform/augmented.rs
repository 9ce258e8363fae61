//! What training samples go through besides crop and flip, in the order of torchvision's reference training:
//! RandAugment and ColorJitter on u8, as on Pillow images, then, after normalization, RandomErasing.

use super::workplace::{Durations, Picture, Workplace};
use super::{SampleName, Transform};
use crate::data::augment::most_erased;
use crate::ops::parts::Front;
use crate::ops::pixels::{Canvas, Erased};
use crate::recipe::{ColorJitter, ErasingMode, RandAugment, Recipe};

/// Which augmentations are on, and how strong they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Augmentations {
    pub rand_augment: RandAugment,
    pub color_jitter: ColorJitter,
    /// Share of the samples of which a rectangle is erased.
    pub random_erasing: f64,
    pub random_erasing_mode: ErasingMode,
}

impl Default for Augmentations {
    /// All are off.
    fn default() -> Self {
        Augmentations {
            rand_augment: RandAugment::default(),
            color_jitter: ColorJitter::default(),
            random_erasing: 0.0,
            random_erasing_mode: ErasingMode::Const,
        }
    }
}

impl Augmentations {
    pub fn of(recipe: &Recipe) -> Augmentations {
        Augmentations {
            rand_augment: recipe.rand_augment,
            color_jitter: recipe.color_jitter,
            random_erasing: recipe.random_erasing,
            random_erasing_mode: recipe.random_erasing_mode,
        }
    }

    /// Whether the u8 values change.
    pub(super) fn change_pixels(&self) -> bool {
        self.rand_augment.is_on() || self.color_jitter.is_on()
    }

    fn change(&self, name: SampleName, size: (usize, usize), canvas: &mut Canvas) {
        for change in name.rand_augment(self.rand_augment, size) {
            canvas.apply(change);
        }
        for change in name.color_jitter(self.color_jitter) {
            canvas.apply(change);
        }
    }

    /// What is erased of a normalized sample, if it is one of those.
    pub(super) fn erased(&self, name: SampleName, size: (usize, usize)) -> Option<Erased> {
        if self.random_erasing == 0.0 {
            return None;
        }
        let rect = name.erased(self.random_erasing, size)?;
        Some(Erased::new(rect, name.filling(self.random_erasing_mode)))
    }

    /// Most values that fill an erased rectangle; None: nothing is ever erased.
    pub(super) fn most_erased(&self, size: (usize, usize)) -> Option<usize> {
        (self.random_erasing > 0.0).then(|| match self.random_erasing_mode {
            ErasingMode::Const => 0,
            ErasingMode::Rand => 3,
            ErasingMode::Pixel => 3 * most_erased(size),
        })
    }

    pub(super) fn erase(&self, name: SampleName, (height, width): (usize, usize), sample_chw: &mut Front<'_>) {
        if let Some(erased) = self.erased(name, (height, width)) {
            erased.apply(sample_chw.complete(), (width, height));
        }
    }
}

impl Transform {
    /// Hands over the sample's u8 values as they are before normalization, all changes made; padding is 0.
    pub(super) fn on_canvas(
        &self,
        picture: Picture<'_>,
        name: SampleName,
        workplace: &mut Workplace,
        hand_over: impl FnOnce(&Canvas),
    ) -> Result<Durations, String> {
        let (height, width) = self.size;
        let mut canvas = std::mem::take(&mut workplace.canvas);
        let durations = workplace.run(
            picture,
            self.decode,
            |picture_width, picture_height| self.place(name, picture_width, picture_height),
            (width, height),
            |placement, resized| {
                canvas.reshape(width, height);
                if !placement.covers(width, height) {
                    canvas.values_chw_mut().fill(0);
                }
                resized(&mut |channel, y, samples| {
                    let row = &mut canvas.row_mut(channel, y)[placement.columns_covered(width)];
                    row.copy_from_slice(samples);
                    if placement.flip {
                        row.reverse();
                    }
                });
                self.augmentations.change(name, self.size, &mut canvas);
                hand_over(&canvas);
            },
        );
        workplace.canvas = canvas;
        durations
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::preprocessor::Preprocessor;
    use crate::recipe::TransformKind;

    const SIZE: usize = 24;

    /// A BMP picture of 40 x 30.
    fn file() -> Vec<u8> {
        let value = |at: usize| ((at / 3 % 40) * 5 + (at / 120) * 3 + at * at % 23) as u8;
        let picture = image::RgbImage::from_raw(40, 30, (0..40 * 30 * 3).map(value).collect()).unwrap();
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, image::ImageFormat::Bmp).unwrap();
        bytes.into_inner()
    }

    fn transform(augmentations: Augmentations) -> Transform {
        let preprocessor = Preprocessor::parse(r#"{"size": 24}"#).unwrap();
        Transform::new(&preprocessor, TransformKind::Train).augmented(augmentations)
    }

    fn name(sample: u64) -> SampleName {
        SampleName {
            seed: 3,
            epoch: 1,
            sample,
        }
    }

    fn sample(transform: &Transform, name: SampleName) -> (Vec<f32>, Vec<u8>) {
        let mut workplace = Workplace::new().unwrap();
        let mut sample_chw = vec![f32::NAN; transform.sample_len()];
        transform.apply(&file(), name, &mut workplace, &mut sample_chw).unwrap();
        (sample_chw, transform.apply_u8(&file(), name, &mut workplace).unwrap())
    }

    /// The sample that the u8 values make, and where it was erased.
    fn by_hand(transform: &Transform, rgb_hwc: &[u8], sample_chw: &[f32]) -> usize {
        let mut erased = 0;
        for (at, &value) in sample_chw.iter().enumerate() {
            let (channel, pixel) = (at / (SIZE * SIZE), at % (SIZE * SIZE));
            let expected = transform.normalization().value(channel, rgb_hwc[3 * pixel + channel]);
            erased += usize::from(value != expected);
        }
        erased
    }

    #[test]
    fn what_is_off_leaves_a_cut_and_what_changes_pixels_does_not() {
        let off = transform(Augmentations::default());
        assert!(off.is_a_cut());
        let rand_augment = RandAugment {
            num_ops: 2,
            ..RandAugment::default()
        };
        let color_jitter = ColorJitter {
            hue: 0.2,
            ..ColorJitter::default()
        };
        let default = Augmentations::default();
        for on in [
            Augmentations {
                rand_augment,
                ..default
            },
            Augmentations {
                color_jitter,
                ..default
            },
            Augmentations {
                random_erasing: 1.0,
                ..default
            },
        ] {
            let transform = transform(on);
            assert_eq!(transform.is_a_cut(), on.random_erasing > 0.0, "{on:?}");
            let mut changed = 0;
            for number in 0..10 {
                let (sample_chw, rgb_hwc) = sample(&transform, name(number));
                let (plain, plain_rgb_hwc) = sample(&off, name(number));
                assert_eq!(by_hand(&off, &plain_rgb_hwc, &plain), 0);
                // Erasing comes after normalization and changes no u8 value; the others change nothing else.
                let erased = by_hand(&transform, &rgb_hwc, &sample_chw);
                assert_eq!(erased > 0, on.random_erasing > 0.0, "{on:?}");
                assert!(on.random_erasing == 0.0 || rgb_hwc == plain_rgb_hwc);
                changed += usize::from(sample_chw != plain);
            }
            // Of RandAugment's ops some change nothing.
            assert!(changed >= 8, "{on:?}: {changed} of 10");
        }
    }

    #[test]
    fn other_epochs_and_samples_are_changed_otherwise() {
        let on = Augmentations {
            rand_augment: RandAugment {
                num_ops: 3,
                ..RandAugment::default()
            },
            ..Augmentations::default()
        };
        let preprocessor = Preprocessor::parse(r#"{"size": 24}"#).unwrap();
        let transform = Transform::new(&preprocessor, TransformKind::Processor).augmented(on);
        let epoch = |epoch: u32| sample(&transform, SampleName { epoch, ..name(4) }).0;
        assert_eq!(epoch(1), epoch(1));
        assert!((2..6).any(|other| epoch(other) != epoch(1)));
        assert!((0..4).any(|other| sample(&transform, name(other)).0 != epoch(1)));
    }
}
