//! The random choices of training augmentation. Each is a pure function of (seed, epoch, sample): see `rng`.
//!
//! Distributions and rounding are torchvision's (`RandomResizedCrop.get_params`, `RandomHorizontalFlip`); the random
//! numbers are ours.

mod color_jitter;
mod erasing;
mod rand_augment;

pub use erasing::most_erased;

use crate::ops::jpeg::Rect;
use crate::rng::{Purpose, Stream};

/// Share of the picture's area that a crop covers.
const AREA: (f64, f64) = (0.08, 1.0);
/// Width over height of a crop; its logarithm is uniform.
const ASPECT: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
const ATTEMPTS: u32 = 10;

/// Which sample is augmented, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleName {
    pub seed: u64,
    pub epoch: u32,
    /// Of the draw: its row in the training set, unless it is drawn more than once in an epoch.
    pub sample: u64,
}

impl SampleName {
    /// What tests call their samples: all in one epoch of one run.
    #[cfg(test)]
    pub(super) fn of_a_test(sample: u64) -> SampleName {
        SampleName {
            seed: 42,
            epoch: 1,
            sample,
        }
    }

    pub(super) fn stream(&self, purpose: Purpose) -> Stream {
        Stream::new(self.seed, self.epoch, self.sample, purpose)
    }

    /// True in half of the cases.
    pub fn flips(&self) -> bool {
        self.stream(Purpose::Flip).uniform(0) < 0.5
    }

    /// RandomResizedCrop's rectangle in a picture of `width` x `height`.
    ///
    /// Attempt k uses the numbers 4k (area), 4k+1 (aspect), 4k+2 (top) and 4k+3 (left) of the stream.
    pub fn crop(&self, width: usize, height: usize) -> Rect {
        let stream = self.stream(Purpose::Crop);
        for attempt in 0..ATTEMPTS {
            let between =
                |index: u32, (low, high): (f64, f64)| low + (high - low) * stream.uniform(4 * attempt + index);
            let area = (width * height) as f64 * between(0, AREA);
            let aspect = between(1, (ASPECT.0.ln(), ASPECT.1.ln())).exp();
            let crop_width = (area * aspect).sqrt().round_ties_even() as usize;
            let crop_height = (area / aspect).sqrt().round_ties_even() as usize;
            if (1..=width).contains(&crop_width) && (1..=height).contains(&crop_height) {
                return Rect {
                    y: stream.below(4 * attempt + 2, (height - crop_height + 1) as u64) as usize,
                    x: stream.below(4 * attempt + 3, (width - crop_width + 1) as u64) as usize,
                    width: crop_width,
                    height: crop_height,
                };
            }
        }
        central_crop(width, height)
    }
}

/// The largest central rectangle whose aspect is allowed.
fn central_crop(width: usize, height: usize) -> Rect {
    let aspect = width as f64 / height as f64;
    let (mut crop_width, mut crop_height) = (width, height);
    if aspect < ASPECT.0 {
        crop_height = ((width as f64 / ASPECT.0).round_ties_even() as usize).min(height);
    } else if aspect > ASPECT.1 {
        crop_width = ((height as f64 * ASPECT.1).round_ties_even() as usize).min(width);
    }
    Rect {
        x: (width - crop_width) / 2,
        y: (height - crop_height) / 2,
        width: crop_width,
        height: crop_height,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_lie_inside_and_have_the_distribution_of_torchvision() {
        let (width, height, n) = (512, 384, 4000);
        let (mut area, mut log_aspect, mut flips) = (0.0, 0.0, 0);
        for sample in 0..n {
            let crop = SampleName::of_a_test(sample).crop(width, height);
            assert!(crop.right() <= width && crop.bottom() <= height && crop.width > 0 && crop.height > 0);
            area += (crop.width * crop.height) as f64 / (width * height) as f64 / n as f64;
            log_aspect += (crop.width as f64 / crop.height as f64).ln() / n as f64;
            flips += SampleName::of_a_test(sample).flips() as usize;
        }
        // 50,000 draws of torchvision's get_params for this size: area 0.4314 with deviation 0.217, log aspect 0.0311 with
        // 0.164. Four standard errors of the difference to 4,000 draws; of the flips 126.
        assert!((area - 0.4314).abs() < 0.0143, "{area}");
        assert!((log_aspect - 0.0311).abs() < 0.0108, "{log_aspect}");
        assert!(flips.abs_diff(n as usize / 2) < 126, "{flips}");
    }

    #[test]
    fn a_panorama_falls_back_to_its_centre() {
        let crop = SampleName::of_a_test(0).crop(4000, 10);
        assert_eq!((crop.width, crop.height, crop.x, crop.y), (13, 10, 1993, 0));
        let crop = SampleName::of_a_test(0).crop(10, 4000);
        assert_eq!((crop.width, crop.height, crop.x, crop.y), (10, 13, 0, 1993));
        assert_eq!(SampleName::of_a_test(7).crop(1, 1), Rect::whole(1, 1));
    }
}
