//! What a device needs to make a picture's sample: the part of it that is read, or all of it if it stays there, with the
//! numbers that say what becomes of it and what is erased of the sample.
//!
//! Where a batch has no room left for that part, as of a photograph much larger than its sample, and where pixels are augmented,
//! the sample's u8 values are made here and the device only normalizes them. Samples are the same in all cases.

use std::time::Instant;

use super::{Durations, Transform, Workplace, workplace};
use crate::data::augment::SampleName;
use crate::data::device_pictures::DevicePictures;
use crate::data::pictures::PictureCache;
use crate::ops::interleave::{interleave, interleave_planes};
use crate::ops::jpeg::Rect;
use crate::ops::pixels::Erased;
use crate::ops::preprocess::{Cut, Picture, Plan};
use crate::ops::resample::{Axis, Planes, Resampler};
use crate::ops::staging::{Claim, Staged, Staging, StagingShape};

/// In which form a picture is there.
#[derive(Clone, Copy)]
pub enum Stageable<'a> {
    /// The file of a row, whose whole picture is to be kept if there is room.
    Encoded(&'a [u8], Keeping<'a>),
    /// The whole picture, decoded before.
    Kept(&'a Planes),
    /// The whole picture, on the device.
    OnDevice(Picture),
}

/// Where the picture of a row may be kept.
#[derive(Clone, Copy)]
pub struct Keeping<'a> {
    pub row: usize,
    pub host: Option<&'a PictureCache>,
    pub device: Option<&'a DevicePictures>,
}

/// A picture in a batch for the device.
#[derive(Clone, Copy, Debug)]
pub struct StagedSample {
    pub staged: Staged,
    /// The row whose whole picture this is, if room on the device was set aside for it.
    pub stays: Option<usize>,
}

/// What of a picture goes into a batch.
enum Share<'a> {
    /// All of it, and it stays on the device: that of a row.
    Whole(Claim<'a>, usize),
    /// What is read.
    Part(Claim<'a>),
    /// The sample that was made of it.
    Sample,
}

/// Samples' bytes that a picture which is decoded fast takes in a batch at most, on average: it is decoded at the smallest scale
/// that leaves its crop as many pixels as the sample in each direction.
const SAMPLES_OF_FAST: usize = 4;

impl Transform {
    /// Room for batches of pictures of which one takes `mean` bytes when it is decoded; in all at most `most` bytes.
    pub fn staging_shape(&self, pictures: usize, mean: usize, most: usize) -> StagingShape {
        let size = self.size();
        let shape = match (self.augmentations.change_pixels(), self.is_exact()) {
            (true, _) => StagingShape::new(pictures, size, 0, most),
            (false, true) => StagingShape::of_pictures(pictures, size, mean, most),
            (false, false) => {
                StagingShape::of_pictures(pictures, size, mean.min(SAMPLES_OF_FAST * self.sample_len()), most)
            }
        };
        shape.erasing(self.augmentations.most_erased(size))
    }

    /// Puts a picture into a batch; one that is on the device already only if the transform is a cut. Error: why the picture cannot
    /// be decoded.
    pub fn stage(
        &self,
        picture: Stageable<'_>,
        name: SampleName,
        workplace: &mut Workplace,
        staging: &Staging,
    ) -> Result<(StagedSample, Durations), String> {
        let erased = self.augmentations.erased(name, self.size());
        let erased = erased.as_ref();
        if self.augmentations.change_pixels() {
            return self.stage_augmented(picture, name, workplace, (staging, erased));
        }
        let mut begun = Instant::now();
        let mut durations = Durations::default();
        let Workplace {
            decoder,
            horizontal,
            vertical,
            resampler,
            plan,
            ..
        } = workplace;
        let plan = plan.get_or_insert_with(|| Plan::new(self.size()));
        let mut axes = (horizontal, vertical, resampler);
        let (planes, share) = match picture {
            Stageable::OnDevice(whole) => {
                plan.set(self.cut(name, whole.width, whole.height));
                let claim = staging.claim(plan, 0, erased).ok_or_else(no_room)?;
                durations.resample = begun.elapsed();
                let staged = claim.staged_elsewhere(plan, whole);
                return Ok((StagedSample { staged, stays: None }, durations));
            }
            Stageable::Kept(whole) => {
                plan.set(self.cut(name, whole.columns.len(), whole.rows.len()));
                let needed = plan.needed();
                let claim = staging.claim(plan, 3 * needed.width * needed.height, erased);
                (whole, claim.map_or(Share::Sample, Share::Part))
            }
            Stageable::Encoded(encoded, _) if !self.is_exact() => {
                let mut placement = None;
                // Asked twice if a smaller scale cannot be had after all, so there is no claim before it is decided.
                let planes = decoder.scaled_region(encoded, |width, height, smallest| {
                    let placement = placement.get_or_insert_with(|| self.place(name, width, height));
                    let scale = placement.scale().min(smallest);
                    plan.set(placement.cut(scale));
                    (plan.needed(), scale)
                })?;
                let needed = plan.needed();
                let claim = staging.claim(plan, 3 * needed.width * needed.height, erased);
                (planes, claim.map_or(Share::Sample, Share::Part))
            }
            Stageable::Encoded(encoded, keeping) => {
                let mut decided = None;
                let decoded = decoder.region(encoded, |width, height| {
                    plan.set(self.cut(name, width, height));
                    let (share, kept, part) = decide(plan, (width, height), keeping, (staging, erased));
                    decided = Some((share, kept, (width, height)));
                    part
                });
                let (share, kept, size) = match (decided, &decoded) {
                    (Some(decided), _) => decided,
                    (None, Err(cause)) => return Err(cause.clone()),
                    (None, Ok(_)) => unreachable!("the decoder asks for the rectangle before it delivers"),
                };
                keeping.settle(&decoded, &share, kept, size);
                (decoded?, share)
            }
        };
        durations.decode = begun.elapsed();
        begun = Instant::now();
        let stays = match share {
            Share::Whole(_, row) => Some(row),
            _ => None,
        };
        let staged = match share {
            Share::Whole(claim, _) => put(
                claim,
                planes,
                Rect::whole(planes.columns.len(), planes.rows.len()),
                plan,
            ),
            Share::Part(claim) => put(claim, planes, plan.needed(), plan),
            Share::Sample => {
                let cut = *plan.cut();
                plan.set(Cut::nothing(self.size()));
                let (height, width) = self.size();
                let claim = staging.claim(plan, 3 * height * width, erased).ok_or_else(no_room)?;
                resize(&mut axes, planes, &cut, self.size(), claim.pixels);
                claim.staged(plan, Picture::whole(0, width, height))
            }
        };
        durations.resample = begun.elapsed();
        Ok((StagedSample { staged, stays }, durations))
    }

    /// The sample's u8 values, made here.
    fn stage_augmented(
        &self,
        picture: Stageable<'_>,
        name: SampleName,
        workplace: &mut Workplace,
        (staging, erased): (&Staging, Option<&Erased>),
    ) -> Result<(StagedSample, Durations), String> {
        let picture = match picture {
            Stageable::Kept(whole) => workplace::Picture::Kept(whole),
            Stageable::Encoded(encoded, Keeping { row, host, .. }) => match host {
                Some(host) => workplace::Picture::ToKeep(encoded, host, row),
                None => workplace::Picture::Encoded(encoded),
            },
            Stageable::OnDevice(_) => unreachable!("pictures stay on a device for cuts only"),
        };
        let mut plan = workplace.plan.take().unwrap_or_else(|| Plan::new(self.size()));
        let (height, width) = self.size();
        let mut staged = None;
        let durations = self.on_canvas(picture, name, workplace, |canvas| {
            plan.set(Cut::nothing((height, width)));
            staged = staging.claim(&plan, 3 * height * width, erased).map(|claim| {
                let planes: Vec<&[u8]> = canvas.values_chw().chunks_exact(height * width).collect();
                interleave_planes([planes[0], planes[1], planes[2]], claim.pixels);
                claim.staged(&plan, Picture::whole(0, width, height))
            });
        });
        workplace.plan = Some(plan);
        let (durations, staged) = (durations?, staged.ok_or_else(no_room)?);
        Ok((StagedSample { staged, stays: None }, durations))
    }
}

impl Keeping<'_> {
    /// Keeps a copy on the host, or gives back what was set aside for a picture that could not be decoded.
    fn settle(
        &self,
        decoded: &Result<&Planes, String>,
        share: &Share<'_>,
        on_host: bool,
        (width, height): (usize, usize),
    ) {
        let device = self.device.filter(|_| matches!(share, Share::Whole(..)));
        match (decoded, self.host.filter(|_| on_host), device) {
            (Ok(whole), Some(host), _) => host.keep(self.row, whole),
            (Err(_), Some(host), _) => host.release(width, height),
            (Err(_), _, Some(device)) => device.release(width, height),
            _ => {}
        }
    }
}

/// What goes into the batch, whether the whole is to be kept on the host, and which part is to be decoded.
fn decide<'a>(
    plan: &Plan,
    (width, height): (usize, usize),
    keeping: Keeping<'_>,
    (staging, erased): (&'a Staging, Option<&Erased>),
) -> (Share<'a>, bool, Rect) {
    let whole = Rect::whole(width, height);
    if let Some(device) = keeping.device.filter(|device| device.reserve(width, height)) {
        match staging.claim(plan, 3 * width * height, erased) {
            Some(claim) => return (Share::Whole(claim, keeping.row), false, whole),
            None => device.release(width, height), // another time
        }
    }
    let host = keeping.host.is_some_and(|host| host.reserve(width, height));
    let needed = plan.needed();
    let share = match staging.claim(plan, 3 * needed.width * needed.height, erased) {
        Some(claim) => Share::Part(claim),
        None => Share::Sample,
    };
    (share, host, if host { whole } else { needed })
}

fn put(claim: Claim<'_>, planes: &Planes, part: Rect, plan: &Plan) -> Staged {
    interleave(planes, part, claim.pixels);
    claim.staged(plan, Picture::part(0, part))
}

/// The sample's u8 values, `[height, width, 3]`.
fn resize(
    (horizontal, vertical, resampler): &mut (&mut Axis, &mut Axis, &mut Resampler),
    planes: &Planes,
    cut: &Cut,
    (height, width): (usize, usize),
    rgb_hwc: &mut [u8],
) {
    let (crop, [part_across, part_down]) = (cut.crop, cut.parts());
    let (columns, rows) = (cut.columns(width), cut.rows(height));
    rgb_hwc.fill(0);
    horizontal.set_part(crop.width, part_across, cut.resized.0, cut.filter, columns.clone());
    vertical.set_part(crop.height, part_down, cut.resized.1, cut.filter, rows);
    resampler.run(
        planes,
        (crop.x, crop.y),
        horizontal,
        vertical,
        |channel, row, samples| {
            let y = (row as isize - cut.offset.1) as usize;
            let line = &mut rgb_hwc[3 * y * width..][..3 * width];
            for (column, value) in columns.clone().zip(samples) {
                let x = (column as isize - cut.offset.0) as usize;
                let x = if cut.flip { width - 1 - x } else { x };
                line[3 * x + channel] = *value;
            }
        },
    );
}

fn no_room() -> String {
    "the batch has no room for another sample; this is a bug of dtrain's, please report it".to_owned()
}
