//! Decoded pictures to normalized samples: crop, resize as Pillow does it, flip, normalize, in one pass over a whole batch.
//!
//! Pictures are u8, rows of interleaved red green blue, of any sizes, in one flat buffer; what becomes of each is a [`Cut`].
//! A [`Batch`] is the plan: it holds the cuts and, as `kernels/preprocess.cu` reads them, jobs and tables of weights. The
//! weights are those of `ops::resample`, so the u8 values are Pillow's on every device. Decoding, and which part of
//! a picture is cut out, is decided in `data`.

mod batch;
mod tables;

use rayon::prelude::*;

use super::jpeg::Rect;
use super::resample::{Axis, Filter, Planes, Resampler};
pub use batch::Batch;
pub use tables::{JOB, Plan, UNIT};

/// Bytes that must be readable behind the last picture of a flat buffer.
pub const SLACK: usize = 16;

/// Where a decoded picture lies, or the part of it that is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Its first byte in the flat buffer.
    pub start: usize,
    pub width: usize,
    pub height: usize,
    /// Column and row of the upright picture at which it begins.
    pub x: usize,
    pub y: usize,
}

impl Picture {
    pub fn whole(start: usize, width: usize, height: usize) -> Picture {
        Picture::part(start, Rect::whole(width, height))
    }

    pub fn part(start: usize, part: Rect) -> Picture {
        let Rect { x, y, width, height } = part;
        Picture {
            start,
            width,
            height,
            x,
            y,
        }
    }
}

/// What becomes of a picture: a crop, resized, of which a window is kept, maybe mirrored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    pub crop: Rect,
    /// Start and length of what is resized among the crop's columns and rows, if that is not all of it: edges in a picture that
    /// was decoded smaller lie between pixels.
    pub part: Option<[(f64, f64); 2]>,
    /// Width and height of the resized crop.
    pub resized: (usize, usize),
    pub filter: Filter,
    /// Column and row of the resized crop at which the sample starts; what lies outside of it is black.
    pub offset: (isize, isize),
    pub flip: bool,
}

impl Cut {
    /// What leaves a picture of a sample's size (height, width) as it is.
    pub fn nothing((height, width): (usize, usize)) -> Cut {
        Cut {
            crop: Rect::whole(width, height),
            part: None,
            resized: (width, height),
            filter: Filter::Bilinear,
            offset: (0, 0),
            flip: false,
        }
    }
}

/// What each u8 value of each channel becomes.
pub type Values = [[f32; 256]; 3];

/// Writes the samples, `[b, 3, height, width]`, on the CPU.
///
/// Panics if `samples` is not as large as the batch, or `pixels` ends before a picture does.
pub fn preprocess(pixels: &[u8], batch: &Batch, values: &Values, samples_bchw: &mut [f32]) {
    preprocess_pictures(pixels, batch.pictures(), batch.size(), values, samples_bchw);
}

/// As [`preprocess`], without the numbers that are for kernels; `height` and `width` of a sample.
pub fn preprocess_pictures(
    pixels: &[u8],
    pictures: &[(Picture, Cut)],
    (height, width): (usize, usize),
    values: &Values,
    samples_bchw: &mut [f32],
) {
    let plane = height * width;
    assert_eq!(samples_bchw.len(), pictures.len() * 3 * plane, "size of the samples");
    samples_bchw
        .par_chunks_exact_mut(3 * plane)
        .zip(pictures)
        .for_each_init(Work::default, |work, (sample_chw, (picture, cut))| {
            for (plane, values) in sample_chw.chunks_exact_mut(plane).zip(values) {
                plane.fill(values[0]);
            }
            work.cut(pixels, picture, cut, (height, width), |channel, y, x, value| {
                sample_chw[channel * plane + y * width + x] = values[channel][value as usize];
            });
        });
}

/// As [`preprocess`], but the u8 values before normalization.
pub fn preprocess_u8(pixels: &[u8], batch: &Batch) -> Vec<u8> {
    let (height, width) = batch.size();
    let mut samples = vec![0; batch.len() * 3 * height * width];
    let mut work = Work::default();
    for ((picture, cut), sample) in batch
        .pictures()
        .iter()
        .zip(samples.chunks_exact_mut(3 * height * width))
    {
        work.cut(pixels, picture, cut, (height, width), |channel, y, x, value| {
            sample[(channel * height + y) * width + x] = value;
        });
    }
    samples
}

#[derive(Default)]
struct Work {
    planes: Planes,
    resampler: Resampler,
    horizontal: Axis,
    vertical: Axis,
}

impl Work {
    /// Calls `put(channel, row, column, value)` for all of a sample that is not padding.
    fn cut(
        &mut self,
        pixels: &[u8],
        picture: &Picture,
        cut: &Cut,
        (height, width): (usize, usize),
        mut put: impl FnMut(usize, usize, usize, u8),
    ) {
        let (columns, rows) = (cut.columns(width), cut.rows(height));
        if columns.is_empty() || rows.is_empty() {
            return;
        }
        let (crop, [part_across, part_down]) = (cut.crop, cut.parts());
        self.horizontal
            .set_part(crop.width, part_across, cut.resized.0, cut.filter, columns.clone());
        self.vertical
            .set_part(crop.height, part_down, cut.resized.1, cut.filter, rows.clone());
        // What there is of the crop: the resampler sees to it that this is all it needs.
        let across = crop.x.max(picture.x)..crop.right().min(picture.x + picture.width);
        let down = crop.y.max(picture.y)..crop.bottom().min(picture.y + picture.height);
        self.planes.reshape(across.clone(), down.clone());
        for row in down {
            let first = (row - picture.y) * picture.width + across.start - picture.x;
            let from = &pixels[picture.start + 3 * first..][..3 * across.len()];
            for channel in 0..3 {
                let to = self.planes.row_mut(channel, row);
                for (to, from) in to.iter_mut().zip(from.chunks_exact(3)) {
                    *to = from[channel];
                }
            }
        }
        self.resampler.run(
            &self.planes,
            (crop.x, crop.y),
            &self.horizontal,
            &self.vertical,
            |channel, row, line| {
                let y = (row as isize - cut.offset.1) as usize;
                for (column, value) in columns.clone().zip(line) {
                    let x = (column as isize - cut.offset.0) as usize;
                    put(channel, y, if cut.flip { width - 1 - x } else { x }, *value);
                }
            },
        );
    }
}
