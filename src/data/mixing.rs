//! Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019): samples mixed with their neighbours in the epoch's order.
//!
//! Definitions are timm's for single elements (`Mixup` with `mode="elem"`); the random numbers are ours. The partner of a
//! sample follows from its place in the epoch, all else from its name, so neither ranks nor batch sizes change anything.
//! Mixed are normalized pictures, on the device that computes.

use candle_core::{DType, Device};

use super::augment::SampleName;
use super::loader::{Batch, Mixture};
use crate::error::Result;
use crate::ops::cast::cast;
use crate::ops::jpeg::Rect;
use crate::ops::mixing::{Blend, mix};
use crate::recipe::Recipe;
use crate::rng::Purpose;

/// How samples are mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mixing {
    /// The own share is drawn from Beta(alpha, alpha); 0: never so.
    pub mixup_alpha: f64,
    /// The same of the area that is not cut out.
    pub cutmix_alpha: f64,
    /// Of a sample to be mixed at all.
    pub probability: f64,
}

/// Where both kinds are possible, CutMix is taken as often as Mixup.
const SWITCH: f64 = 0.5;

/// What is drawn for a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Drawn {
    Itself,
    /// The own share.
    Mixup(f32),
    CutMix(Rect),
}

impl Mixing {
    /// None: the recipe mixes nothing.
    pub fn of(recipe: &Recipe) -> Option<Mixing> {
        let mixing = Mixing {
            mixup_alpha: recipe.mixup_alpha,
            cutmix_alpha: recipe.cutmix_alpha,
            probability: recipe.mixup_prob,
        };
        (mixing.mixup_alpha > 0.0 || mixing.cutmix_alpha > 0.0).then_some(mixing)
    }

    /// A batch's own samples, mixed, on `device`. A sample whose partner could not be read stays as it is.
    pub fn apply(&self, batch: Batch, seed: u64, device: &Device) -> Result<Batch> {
        let Some(partners) = &batch.partners else {
            return Ok(batch);
        };
        let (_, _, height, width) = batch.pixels_bchw.dims4()?;
        let own = partners.own.clone();
        let mut mixture = Mixture::default();
        let mut blends = Vec::with_capacity(own.len());
        for at in own.clone() {
            let name = SampleName {
                seed,
                epoch: batch.epoch,
                sample: batch.samples[at],
            };
            let (partner, drawn) = match partners.of[at] {
                Some(partner) => (partner, self.draw(name, height, width)),
                None => (at, Drawn::Itself),
            };
            let (share, cut, of_label) = match drawn {
                Drawn::Itself => (1.0, Rect::whole(0, 0), 1.0),
                Drawn::Mixup(share) => (share, Rect::whole(0, 0), share),
                Drawn::CutMix(cut) => (1.0, cut, share_left(cut, height, width)),
            };
            mixture.second_labels.push(batch.labels[partner]);
            mixture.shares.push(of_label);
            blends.push(Blend {
                own: at,
                partner,
                share,
                cut,
            });
        }
        let pixels_nchw = cast(&batch.pixels_on(device)?, DType::F32)?;
        Ok(Batch {
            pixels_bchw: mix(&pixels_nchw, &blends)?,
            labels: batch.labels[own.clone()].to_vec(),
            samples: batch.samples[own].to_vec(),
            epoch: batch.epoch,
            labels_there: None,
            partners: None,
            mixture: Some(mixture),
            _lent: None,
        })
    }

    /// Of the stream `Mix(0)` the numbers 0 (whether), 1 (which kind), 2 and 3 (the rectangle's centre); of `Mix(1)` and
    /// `Mix(2)` the beta deviate.
    fn draw(&self, name: SampleName, height: usize, width: usize) -> Drawn {
        let choices = name.stream(Purpose::Mix(0));
        if choices.uniform(0) >= self.probability {
            return Drawn::Itself;
        }
        let cuts = match (self.mixup_alpha > 0.0, self.cutmix_alpha > 0.0) {
            (true, true) => choices.uniform(1) < SWITCH,
            (_, cuts) => cuts,
        };
        let alpha = if cuts { self.cutmix_alpha } else { self.mixup_alpha };
        let [a, b] = [1, 2].map(|number| name.stream(Purpose::Mix(number)).log_gamma(alpha));
        let share = (1.0 / (1.0 + (b - a).exp())) as f32;
        let centre = |number: u32, n: usize| choices.below(number, n as u64) as usize;
        match cuts {
            _ if share == 1.0 => Drawn::Itself,
            false => Drawn::Mixup(share),
            true => Drawn::CutMix(cut(share, (centre(2, height), centre(3, width)), height, width)),
        }
    }
}

/// The rectangle around `centre` (row, column) that leaves `share` of the area, as far as it lies in the picture.
fn cut(share: f32, centre: (usize, usize), height: usize, width: usize) -> Rect {
    let ratio = (1.0 - share).sqrt();
    let edges = |centre: usize, size: usize| {
        let side = (size as f32 * ratio) as usize;
        (centre.saturating_sub(side / 2), (centre + side.div_ceil(2)).min(size))
    };
    let ((top, bottom), (left, right)) = (edges(centre.0, height), edges(centre.1, width));
    Rect {
        x: left,
        y: top,
        width: right - left,
        height: bottom - top,
    }
}

/// What a rectangle really leaves of the area.
fn share_left(cut: Rect, height: usize, width: usize) -> f32 {
    (1.0 - (cut.width * cut.height) as f64 / (height * width) as f64) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Tensor;

    /// timm's `_mix_elem` with given shares and centres (tests/fixtures/training_aids.py), bit for bit.
    #[test]
    fn pictures_and_shares_are_timms() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/training_aids.safetensors");
        let bytes = std::fs::read(path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let words = |name: &str| -> Vec<[u8; 4]> {
            let tensor = file.tensor(&format!("mix.{name}")).unwrap();
            tensor.data().as_chunks::<4>().0.to_vec()
        };
        let floats = |name: &str| -> Vec<f32> { words(name).into_iter().map(f32::from_le_bytes).collect() };
        let centres: Vec<usize> = words("centres")
            .into_iter()
            .map(|b| i32::from_le_bytes(b) as usize)
            .collect();
        let (given, (height, width)) = (floats("given"), (9, 14));
        let pictures = Tensor::from_vec(floats("pictures"), (8, 3, height, width), &Device::Cpu).unwrap();
        for kind in ["mixup", "cutmix"] {
            let (mut blends, mut shares) = (Vec::new(), Vec::new());
            for (i, &share) in given.iter().enumerate() {
                let cuts = kind == "cutmix" && share != 1.0;
                let cut = match cuts {
                    true => cut(share, (centres[2 * i], centres[2 * i + 1]), height, width),
                    false => Rect::whole(0, 0),
                };
                shares.push(if cuts { share_left(cut, height, width) } else { share });
                blends.push(Blend {
                    own: i,
                    partner: 7 - i,
                    share: if cuts { 1.0 } else { share },
                    cut,
                });
            }
            assert_eq!(shares, floats(&format!("{kind}.shares")), "{kind}");
            let ours = mix(&pictures, &blends)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap();
            assert!(ours == floats(&format!("{kind}.pictures")), "{kind}");
        }
        assert!(
            mix(
                &pictures,
                &[Blend {
                    own: 8,
                    partner: 0,
                    share: 0.5,
                    cut: Rect::whole(0, 0)
                }]
            )
            .is_err()
        );
    }

    /// Beta(α, α) has the mean 1/2 and the variance 1/(4(2α+1)); of a uniform centre's rectangle a part may lie outside.
    #[test]
    fn shares_have_the_distribution_of_a_beta_deviate() {
        let n = 4000;
        for alpha in [0.2, 1.0, 3.0] {
            let mixing = Mixing {
                mixup_alpha: alpha,
                cutmix_alpha: 0.0,
                probability: 1.0,
            };
            let shares: Vec<f64> = (0..n)
                .map(|sample| match mixing.draw(SampleName::of_a_test(sample), 8, 8) {
                    Drawn::Mixup(share) => f64::from(share),
                    Drawn::Itself => 1.0,
                    other => panic!("{other:?}"),
                })
                .collect();
            let mean = shares.iter().sum::<f64>() / n as f64;
            let variance = shares.iter().map(|share| (share - 0.5).powi(2)).sum::<f64>() / n as f64;
            let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            // Four standard errors; that of the variance is below variance·√(2/n).
            assert!(
                (mean - 0.5).abs() < 4.0 * (expected / n as f64).sqrt(),
                "{alpha}: {mean}"
            );
            assert!(
                (variance / expected - 1.0).abs() < 4.0 * (2.0 / n as f64).sqrt(),
                "{alpha}: {variance}"
            );
        }
        let both = Mixing {
            mixup_alpha: 0.8,
            cutmix_alpha: 1.0,
            probability: 0.5,
        };
        let drawn: Vec<Drawn> = (0..n)
            .map(|sample| both.draw(SampleName::of_a_test(sample), 30, 20))
            .collect();
        let count = |is: fn(&Drawn) -> bool| drawn.iter().filter(|drawn| is(drawn)).count() as i64;
        // Four deviations of a half and of a quarter of 4000.
        assert!((count(|drawn| *drawn == Drawn::Itself) - 2000).abs() < 127);
        assert!((count(|drawn| matches!(drawn, Drawn::CutMix(_))) - 1000).abs() < 110);
        for drawn in drawn {
            if let Drawn::CutMix(cut) = drawn {
                assert!(cut.right() <= 20 && cut.bottom() <= 30, "{cut:?}");
            }
        }
    }

    #[test]
    fn a_sample_without_its_partner_stays_as_it_is() {
        let batch = |partners| Batch {
            pixels_bchw: Tensor::from_vec((0..12).map(|v| v as f32).collect(), (4, 3, 1, 1), &Device::Cpu).unwrap(),
            labels: vec![5, 6, 7, 8],
            samples: vec![50, 60, 70, 80],
            epoch: 1,
            partners,
            labels_there: None,
            mixture: None,
            _lent: None,
        };
        let mixing = Mixing {
            mixup_alpha: 1.0,
            cutmix_alpha: 0.0,
            probability: 1.0,
        };
        let partners = super::super::loader::Partners {
            own: 1..4,
            of: vec![Some(1), Some(0), None, None],
        };
        let mixed = mixing.apply(batch(Some(partners)), 42, &Device::Cpu).unwrap();
        let mixture = mixed.mixture.unwrap();
        assert_eq!((mixed.labels, mixed.samples), (vec![6, 7, 8], vec![60, 70, 80]));
        assert_eq!(mixture.second_labels, [5, 7, 8]);
        let share = mixture.shares[0];
        assert!(share < 1.0 && mixture.shares[1..] == [1.0, 1.0]);
        let pixels = mixed.pixels_bchw.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(pixels[0], 3.0 * share + 0.0 * (1.0 - share));
        assert_eq!(pixels[3..], [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        let plain = mixing.apply(batch(None), 42, &Device::Cpu).unwrap();
        assert!(plain.mixture.is_none() && plain.labels == [5, 6, 7, 8]);
    }
}
