//! One encoded picture to one normalized sample: decode, crop, flip, resize, augment, normalize, into its place in the batch.
//!
//! The arithmetic is torchvision's on Pillow images (`RandomResizedCrop`, `Resize`, `CenterCrop`, `ToTensor`, `Normalize`),
//! bit for bit; see `ops::resample` and `Normalization`. Where the crop lies is decided before anything is decoded.
//! Shapes: a sample is `[3, height, width]` (chw), f32.

mod augmented;
mod normalization;
mod placement;
mod staged;
mod workplace;

pub use augmented::Augmentations;
pub use normalization::Normalization;
use placement::{Middle, Placement};
pub use staged::{Keeping, Stageable, StagedSample};
pub use workplace::{Durations, Picture, Workplace};

use super::augment::SampleName;
use super::preprocessor::{Preprocessor, Size};
use crate::ops::jpeg::{Rect, Scale};
use crate::ops::parts::Front;
use crate::ops::preprocess::Cut;
use crate::ops::resample::Filter;
use crate::recipe::{Decode, EvalTransform, TransformKind};

/// What is done to every picture.
#[derive(Clone, Debug)]
pub struct Transform {
    steps: Steps,
    /// Height and width of a sample.
    size: (usize, usize),
    normalization: Normalization,
    decode: Decode,
    augmentations: Augmentations,
}

#[derive(Clone, Debug)]
enum Steps {
    /// RandomResizedCrop(size), RandomHorizontalFlip.
    Train,
    /// Resize(shorter side), CenterCrop(size).
    Eval { side: usize, filter: Filter },
    /// Resize(size) of the image processor, CenterCrop(size).
    Script(Size),
    /// The same rectangle of every picture.
    Crop { crop: Rect, flip: bool },
    /// What the model's own image processor does.
    Processor(Preprocessor),
}

impl Transform {
    /// The transforms of Hugging Face's training scripts (bilinear, to the size that the model sees), or the processor's own.
    pub fn new(preprocessor: &Preprocessor, kind: TransformKind) -> Transform {
        let size = preprocessor.input_size();
        let normalization = Normalization::of_tensor(preprocessor.image_mean, preprocessor.image_std);
        match kind {
            TransformKind::Train => Transform {
                steps: Steps::Train,
                size,
                normalization,
                decode: Decode::Exact,
                augmentations: Augmentations::default(),
            },
            TransformKind::Processor => Transform::of_processor(preprocessor),
            TransformKind::Eval => Transform::resize_center(size.0.min(size.1), Filter::Bilinear, size, normalization),
        }
    }

    /// What a model is evaluated with.
    pub fn of_evaluation(preprocessor: &Preprocessor, kind: EvalTransform) -> Transform {
        match kind {
            EvalTransform::Crop => Transform::new(preprocessor, TransformKind::Eval),
            EvalTransform::Processor => Transform::of_processor(preprocessor),
            EvalTransform::Script => Transform {
                steps: Steps::Script(preprocessor.size),
                ..Transform::new(preprocessor, TransformKind::Eval)
            },
        }
    }

    /// torchvision's Resize(side) and CenterCrop(size).
    pub fn resize_center(side: usize, filter: Filter, size: (usize, usize), normalization: Normalization) -> Transform {
        Transform {
            steps: Steps::Eval { side, filter },
            size,
            normalization,
            decode: Decode::Exact,
            augmentations: Augmentations::default(),
        }
    }

    /// torchvision's `resized_crop` (bilinear) of a rectangle of the upright picture, which must contain it.
    pub fn resized_crop(crop: Rect, flip: bool, size: (usize, usize), normalization: Normalization) -> Transform {
        Transform {
            steps: Steps::Crop { crop, flip },
            size,
            normalization,
            decode: Decode::Exact,
            augmentations: Augmentations::default(),
        }
    }

    /// The image processor of the model itself, in its Pillow variant: resize, centre crop, rescale, normalize.
    pub fn of_processor(preprocessor: &Preprocessor) -> Transform {
        Transform {
            steps: Steps::Processor(preprocessor.clone()),
            size: preprocessor.input_size(),
            normalization: Normalization::of_processor(preprocessor),
            decode: Decode::Exact,
            augmentations: Augmentations::default(),
        }
    }

    /// The same of pictures that are decoded so.
    pub fn decoded(self, decode: Decode) -> Transform {
        Transform { decode, ..self }
    }

    /// The same with these augmentations behind it.
    pub fn augmented(self, augmentations: Augmentations) -> Transform {
        Transform { augmentations, ..self }
    }

    /// Height and width of a sample.
    pub fn size(&self) -> (usize, usize) {
        self.size
    }

    /// f32 values in a sample.
    pub fn sample_len(&self) -> usize {
        3 * self.size.0 * self.size.1
    }

    /// Writes the sample made of the file `encoded`. Error: why the picture cannot be decoded.
    pub fn apply(
        &self,
        encoded: &[u8],
        name: SampleName,
        workplace: &mut Workplace,
        sample_chw: &mut [f32],
    ) -> Result<Durations, String> {
        self.apply_to(Picture::Encoded(encoded), name, workplace, &mut Front::over(sample_chw))
    }

    /// As `apply`, of a picture in whichever form it is there.
    pub fn apply_to(
        &self,
        picture: Picture<'_>,
        name: SampleName,
        workplace: &mut Workplace,
        sample_chw: &mut Front<'_>,
    ) -> Result<Durations, String> {
        assert_eq!(sample_chw.len(), self.sample_len(), "size of a sample");
        let (height, width) = self.size;
        let normalization = &self.normalization;
        if self.augmentations.change_pixels() {
            return self.on_canvas(picture, name, workplace, |canvas| {
                let plane = width * height;
                for (channel, values) in canvas.values_chw().chunks_exact(plane).enumerate() {
                    normalization.write(channel, values, sample_chw, channel * plane);
                }
                self.augmentations.erase(name, self.size, sample_chw);
            });
        }
        workplace.run(
            picture,
            self.decode,
            |picture_width, picture_height| self.place(name, picture_width, picture_height),
            (width, height),
            |placement, resized| {
                if !placement.covers(width, height) {
                    for channel in 0..3 {
                        let padding = normalization.value(channel, 0);
                        sample_chw.write(channel * width * height, width * height, |_| padding);
                    }
                }
                let first = placement.columns_covered(width).start;
                resized(&mut |channel, y, samples| {
                    let start = (channel * height + y) * width + first;
                    match placement.flip {
                        false => normalization.write(channel, samples, sample_chw, start),
                        true => normalization.write_mirrored(channel, samples, sample_chw, start),
                    }
                });
                self.augmentations.erase(name, self.size, sample_chw);
            },
        )
    }

    /// As `apply`, but the u8 values before normalization, `[height, width, 3]`; padding is 0.
    pub fn apply_u8(&self, encoded: &[u8], name: SampleName, workplace: &mut Workplace) -> Result<Vec<u8>, String> {
        let (height, width) = self.size;
        let mut rgb_hwc = vec![0; 3 * height * width];
        self.on_canvas(Picture::Encoded(encoded), name, workplace, |canvas| {
            for (channel, plane) in canvas.values_chw().chunks_exact(height * width).enumerate() {
                for (rgb, value) in rgb_hwc.chunks_exact_mut(3).zip(plane) {
                    rgb[channel] = *value;
                }
            }
        })?;
        Ok(rgb_hwc)
    }

    /// Whether pictures are decoded as they are.
    pub fn is_exact(&self) -> bool {
        self.decode == Decode::Exact
    }

    /// Whether `cut` says all that is done to a picture before normalization, so that a device makes samples of one that it has.
    pub fn is_a_cut(&self) -> bool {
        self.is_exact() && !self.augmentations.change_pixels()
    }

    /// What becomes of a decoded, upright picture of `width` x `height`: for `ops::preprocess`. Not all, unless `is_a_cut`.
    pub fn cut(&self, name: SampleName, width: usize, height: usize) -> Cut {
        self.place(name, width, height).cut(Scale::Full)
    }

    pub fn normalization(&self) -> &Normalization {
        &self.normalization
    }

    /// Where a sample comes from in an upright picture of `width` x `height`.
    fn place(&self, name: SampleName, width: usize, height: usize) -> Placement {
        let whole = Rect::whole(width, height);
        match &self.steps {
            Steps::Train => {
                let crop = name.crop(width, height);
                Placement::squash(crop, Filter::Bilinear, self.size).flipped(name.flips())
            }
            Steps::Eval { side, filter } => {
                Placement::shorter_side(whole, *filter, *side).centered(self.size, Middle::Torchvision)
            }
            Steps::Script(Size::Exact { height, width }) => {
                Placement::squash(whole, Filter::Bilinear, (*height, *width)).centered(self.size, Middle::Torchvision)
            }
            Steps::Script(Size::ShortestEdge(edge)) => {
                Placement::shorter_side(whole, Filter::Bilinear, *edge).centered(self.size, Middle::Torchvision)
            }
            Steps::Crop { crop, flip } => Placement::squash(*crop, Filter::Bilinear, self.size).flipped(*flip),
            Steps::Processor(preprocessor) => {
                let filter = preprocessor.resample;
                let placement = match (preprocessor.do_resize, preprocessor.size, preprocessor.crop_pct) {
                    (false, _, _) => Placement::squash(whole, filter, (height, width)),
                    (true, Size::Exact { height, width }, _) => Placement::squash(whole, filter, (height, width)),
                    (true, Size::ShortestEdge(edge), Some(share)) if edge < 384 => {
                        Placement::shorter_side(whole, filter, (edge as f64 / share) as usize)
                    }
                    (true, Size::ShortestEdge(edge), Some(_)) => Placement::squash(whole, filter, (edge, edge)),
                    (true, Size::ShortestEdge(edge), None) => Placement::shorter_side(whole, filter, edge),
                };
                placement.centered(self.size, Middle::Processor)
            }
        }
    }
}
