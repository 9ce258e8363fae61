//! Encoded bytes to RGB: what Pillow's `ImageOps.exif_transpose(Image.open(f)).convert("RGB")` gives, bit for bit.
//!
//! The format is told by the first bytes, never by a name. A caller says which rectangle of the upright picture it
//! needs once the size is known; of a JPEG only the blocks of that rectangle are decoded.
//! Here is what the formats share; `jpeg` and `other` read the files, `exif` turns the picture upright.

mod exif;
mod jpeg;
mod other;

use crate::ops::jpeg::{Decompressor, PlainDecoder, Rect, Scale};
use crate::ops::resample::Planes;
pub use exif::Orientation;

/// More pixels than this are refused (Pillow's own limit against decompression bombs).
pub const MOST_PIXELS: usize = 2 * 89_478_485;

/// A whole picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixels {
    pub width: usize,
    pub height: usize,
    /// `[height, width, 3]`.
    pub rgb_hwc: Vec<u8>,
}

/// Decodes a whole picture. Error: the cause, in words.
pub fn decode(bytes: &[u8]) -> Result<Pixels, String> {
    let mut decoder = Decoder::new()?;
    let planes = decoder.region(bytes, Rect::whole)?;
    let (width, height) = (planes.columns.len(), planes.rows.len());
    let mut rgb_hwc = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        let [r, g, b] = [0, 1, 2].map(|channel| &planes.row(channel, y)[..width]);
        rgb_hwc.extend(r.iter().zip(g).zip(b).flat_map(|((&r, &g), &b)| [r, g, b]));
    }
    Ok(Pixels { width, height, rgb_hwc })
}

/// Decodes picture after picture; keeps its working memory.
pub struct Decoder {
    plain: PlainDecoder,
    decompressor: Decompressor,
    /// Pixels as the file stores them, with bytes of a pixel side by side.
    stored: Vec<u8>,
    /// Or channel by channel.
    stored_planes: Planes,
    upright: Planes,
}

impl Decoder {
    pub fn new() -> Result<Decoder, String> {
        Ok(Decoder {
            plain: PlainDecoder::default(),
            decompressor: Decompressor::new()?,
            stored: Vec::new(),
            stored_planes: Planes::default(),
            upright: Planes::default(),
        })
    }

    /// Calls `choose(width, height)` with the size of the upright picture, and decodes at least the rectangle it returns.
    ///
    /// The planes are R, G and B; their `columns` and `rows` count in the upright picture. Whether a picture is refused
    /// does not depend on the rectangle, as far as its file tells.
    pub fn region(&mut self, bytes: &[u8], choose: impl FnOnce(usize, usize) -> Rect) -> Result<&Planes, String> {
        let mut choose = Some(choose);
        let once = |width, height, _| match choose.take() {
            Some(choose) => (choose(width, height), Scale::Full),
            None => unreachable!("what is chosen at full scale is final"),
        };
        self.scaled_region(bytes, once)
    }

    /// As `region`, but the picture may be decoded smaller than it is: `choose(width, height, smallest)` gives the scale,
    /// `smallest` or a larger one, and the rectangle in the picture of that scale. If that cannot be decoded after all, it is
    /// asked once more and may choose nothing but the full scale.
    pub fn scaled_region(
        &mut self,
        bytes: &[u8],
        mut choose: impl FnMut(usize, usize, Scale) -> (Rect, Scale),
    ) -> Result<&Planes, String> {
        match bytes {
            [0xff, 0xd8, 0xff, ..] => self.jpeg_region(bytes, choose)?,
            _ => self.other_region(bytes, |width, height| choose(width, height, Scale::Full).0)?,
        }
        Ok(&self.upright)
    }

    /// Fills `upright` with the picture's `view` rectangle out of `stored`, which holds the file's rectangle `stored_rect`
    /// of a picture stored with `stored_size`; `rgb` reads the pixel that starts with the slice.
    fn turn_upright(
        &mut self,
        view: Rect,
        orientation: Orientation,
        stored_size: (usize, usize),
        stored_rect: Rect,
        pixel_bytes: usize,
        rgb: impl Fn(&[u8]) -> [u8; 3],
    ) {
        self.upright.reshape(view.x..view.right(), view.y..view.bottom());
        let stride = stored_rect.width * pixel_bytes;
        for y in view.y..view.bottom() {
            let start = |x: usize| {
                let (x, y) = orientation.stored_at(x, y, stored_size.0, stored_size.1);
                ((y - stored_rect.y) * stride + (x - stored_rect.x) * pixel_bytes) as isize
            };
            let first = start(view.x);
            let step = if view.width > 1 { start(view.x + 1) - first } else { 0 };
            let row = (y - view.y) * self.upright.stride..;
            let [r, g, b] = self
                .upright
                .planes
                .each_mut()
                .map(|plane| &mut plane[row.clone()][..view.width]);
            for (x, ((r, g), b)) in r.iter_mut().zip(g).zip(b).enumerate() {
                [*r, *g, *b] = rgb(&self.stored[(first + x as isize * step) as usize..]);
            }
        }
    }

    /// Fills `upright` with the `view` rectangle out of `stored_planes`, of a picture stored with `stored_size`.
    fn turn_planes(&mut self, view: Rect, orientation: Orientation, stored_size: (usize, usize)) {
        self.upright.reshape(view.x..view.right(), view.y..view.bottom());
        let from = &self.stored_planes;
        for y in view.y..view.bottom() {
            let place = |x: usize| {
                let (x, y) = orientation.stored_at(x, y, stored_size.0, stored_size.1);
                ((y - from.rows.start) * from.stride + x - from.columns.start) as isize
            };
            let first = place(view.x);
            let step = if view.width > 1 { place(view.x + 1) - first } else { 0 };
            for (to, from) in self.upright.rows_mut(y).into_iter().zip(&from.planes) {
                for (x, to) in to[..view.width].iter_mut().enumerate() {
                    *to = from[(first + x as isize * step) as usize];
                }
            }
        }
    }
}

/// The size that a header announces, if it may be decoded.
fn check_size(width: usize, height: usize) -> Result<(), String> {
    if width == 0 || height == 0 {
        return Err(format!("the picture has no pixels ({width} x {height})"));
    }
    if width.saturating_mul(height) > MOST_PIXELS {
        return Err(format!(
            "a picture of {width} x {height} pixels is too large (most: {MOST_PIXELS} pixels)"
        ));
    }
    Ok(())
}
