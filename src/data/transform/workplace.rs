//! The working memory of a thread, and how it makes a picture into a sample's rows.

use std::time::{Duration, Instant};

use super::placement::Placement;
use crate::data::decode::Decoder;
use crate::data::pictures::PictureCache;
use crate::ops::jpeg::{Rect, Scale};
use crate::ops::pixels::Canvas;
use crate::ops::preprocess::Plan;
use crate::ops::resample::{Axis, Planes, Resampler};
use crate::recipe::Decode;

/// What a sample is made of.
#[derive(Clone, Copy)]
pub enum Picture<'a> {
    /// A file.
    Encoded(&'a [u8]),
    /// A file, whose whole picture is to be kept as that row's if there is room.
    ToKeep(&'a [u8], &'a PictureCache, usize),
    /// The whole picture, decoded before.
    Kept(&'a Planes),
}

/// Where the time of one picture went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Durations {
    pub decode: Duration,
    /// Resizing, flipping, augmenting, normalizing.
    pub resample: Duration,
}

/// The working memory of one thread.
pub struct Workplace {
    pub(super) decoder: Decoder,
    pub(super) horizontal: Axis,
    pub(super) vertical: Axis,
    pub(super) resampler: Resampler,
    /// For pictures that a device makes into samples.
    pub(super) plan: Option<Plan>,
    /// Where samples are augmented.
    pub(super) canvas: Canvas,
}

impl Workplace {
    /// Error: out of memory.
    pub fn new() -> Result<Workplace, String> {
        Ok(Workplace {
            decoder: Decoder::new()?,
            horizontal: Axis::default(),
            vertical: Axis::default(),
            resampler: Resampler::default(),
            plan: None,
            canvas: Canvas::default(),
        })
    }

    /// Decodes what `place` asks for and hands the resized rows to `deliver`, numbered as rows of the sample.
    pub(super) fn run(
        &mut self,
        picture: Picture<'_>,
        decode: Decode,
        place: impl FnOnce(usize, usize) -> Placement,
        (width, height): (usize, usize),
        deliver: impl FnOnce(&Placement, &mut dyn FnMut(&mut dyn FnMut(usize, usize, &[u8]))),
    ) -> Result<Durations, String> {
        let start = Instant::now();
        let Workplace {
            decoder,
            horizontal,
            vertical,
            resampler,
            ..
        } = self;
        let mut place = Some(place);
        let mut placed: Option<Placement> = None;
        let mut origin = (0, 0);
        let mut part = |picture_width, picture_height, smallest| {
            let placement = match place.take() {
                Some(place) => placed.insert(place(picture_width, picture_height)),
                None => placed.as_mut().expect("it was placed when it was asked for first"),
            };
            let scale = match decode {
                Decode::Exact => Scale::Full,
                Decode::Fast => placement.scale().min(smallest),
            };
            let cut = placement.cut(scale);
            let [across, down] = cut.parts();
            let (crop, resized, filter) = (cut.crop, cut.resized, cut.filter);
            horizontal.set_part(crop.width, across, resized.0, filter, cut.columns(width));
            vertical.set_part(crop.height, down, resized.1, filter, cut.rows(height));
            let (columns, rows) = (horizontal.inputs(), vertical.inputs());
            origin = (crop.x, crop.y);
            let rect = Rect {
                x: crop.x + columns.start,
                y: crop.y + rows.start,
                width: columns.len(),
                height: rows.len(),
            };
            (rect, scale)
        };
        let planes = match picture {
            Picture::Kept(whole) => {
                part(whole.columns.len(), whole.rows.len(), Scale::Full);
                whole
            }
            Picture::Encoded(encoded) => decoder.scaled_region(encoded, part)?,
            Picture::ToKeep(encoded, cache, row) => {
                let mut reserved = None;
                let decoded = decoder.region(encoded, |picture_width, picture_height| {
                    let (needed, _) = part(picture_width, picture_height, Scale::Full);
                    if !cache.reserve(picture_width, picture_height) {
                        return needed;
                    }
                    reserved = Some((picture_width, picture_height));
                    Rect::whole(picture_width, picture_height)
                });
                match (&decoded, reserved) {
                    (Ok(whole), Some(_)) => cache.keep(row, whole),
                    (Err(_), Some((width, height))) => cache.release(width, height),
                    (_, None) => {}
                }
                decoded?
            }
        };
        let placement = placed.expect("the decoder asks for the rectangle before it delivers");
        let decode = start.elapsed();
        let start = Instant::now();
        deliver(&placement, &mut |emit| {
            resampler.run(planes, origin, horizontal, vertical, |channel, y, samples| {
                emit(channel, (y as isize - placement.offset.1) as usize, samples);
            });
        });
        Ok(Durations {
            decode,
            resample: start.elapsed(),
        })
    }
}
