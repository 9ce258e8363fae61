//! What a device needs to make a picture's sample: the part of it that is read, or all of it if it stays there, with the
//! numbers that say what becomes of it.
//!
//! Where a batch has no room left for that part, as of a photograph much larger than its sample, the picture is resized
//! here and the device only normalizes it. Samples are the same in all three cases.

use std::time::Instant;

use super::{Durations, Transform, Workplace};
use crate::data::augment::SampleName;
use crate::data::device_pictures::DevicePictures;
use crate::data::pictures::PictureCache;
use crate::ops::interleave::interleave;
use crate::ops::jpeg::Rect;
use crate::ops::preprocess::{Cut, Picture, Plan};
use crate::ops::resample::{Axis, Planes, Resampler};
use crate::ops::staging::{Claim, Staged, Staging};

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

impl Transform {
    /// Puts a picture into a batch. Only for transforms that are a cut. Error: why the picture cannot be decoded.
    pub fn stage(
        &self,
        picture: Stageable<'_>,
        name: SampleName,
        workplace: &mut Workplace,
        staging: &Staging,
    ) -> Result<(StagedSample, Durations), String> {
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
                let claim = staging.claim(plan, 0).ok_or_else(no_room)?;
                durations.resample = begun.elapsed();
                let staged = claim.staged_elsewhere(plan, whole);
                return Ok((StagedSample { staged, stays: None }, durations));
            }
            Stageable::Kept(whole) => {
                plan.set(self.cut(name, whole.columns.len(), whole.rows.len()));
                let needed = plan.needed();
                let claim = staging.claim(plan, 3 * needed.width * needed.height);
                (whole, claim.map_or(Share::Sample, Share::Part))
            }
            Stageable::Encoded(encoded, keeping) => {
                let mut decided = None;
                let decoded = decoder.region(encoded, |width, height| {
                    plan.set(self.cut(name, width, height));
                    let (share, kept, part) = decide(plan, (width, height), keeping, staging);
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
                let claim = staging.claim(plan, 3 * height * width).ok_or_else(no_room)?;
                resize(&mut axes, planes, &cut, self.size(), claim.pixels);
                claim.staged(plan, Picture::whole(0, width, height))
            }
        };
        durations.resample = begun.elapsed();
        Ok((StagedSample { staged, stays }, durations))
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
    staging: &'a Staging,
) -> (Share<'a>, bool, Rect) {
    let whole = Rect::whole(width, height);
    if let Some(device) = keeping.device.filter(|device| device.reserve(width, height)) {
        match staging.claim(plan, 3 * width * height) {
            Some(claim) => return (Share::Whole(claim, keeping.row), false, whole),
            None => device.release(width, height), // another time
        }
    }
    let host = keeping.host.is_some_and(|host| host.reserve(width, height));
    let needed = plan.needed();
    let share = match staging.claim(plan, 3 * needed.width * needed.height) {
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
    let (crop, (columns, rows)) = (cut.crop, (cut.columns(width), cut.rows(height)));
    rgb_hwc.fill(0);
    horizontal.set(crop.width, cut.resized.0, cut.filter, columns.clone());
    vertical.set(crop.height, cut.resized.1, cut.filter, rows);
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
