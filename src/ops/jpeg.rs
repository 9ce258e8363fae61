//! JPEG files to samples, equal to libjpeg-turbo's, which is what Pillow uses.
//!
//! `turbo` is libjpeg-turbo itself: it reads everything, and what it does is right by definition. `plain` is our own
//! decoder for the kind of file that most are (baseline, one scan, undamaged): it makes the same samples faster, computes
//! no more than the rectangle that is asked for, and declines whatever is out of the ordinary.
//! What counts as damage, orientation and CMYK's conversion are the business of `data::decode`.

mod codes;
mod frame;
mod huffman;
mod kernels;
mod plain;
mod reader;
mod scan;
#[cfg(test)]
mod tests;
mod turbo;

pub use plain::{PlainDecoder, PlainFile};
pub use turbo::{Colors, Decompressor, JpegHeader, Outcome};

/// A rectangle of pixels, in the orientation in which the file stores them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rect {
    pub x: usize,
    pub y: usize,
    pub width: usize,
    pub height: usize,
}

impl Rect {
    pub fn whole(width: usize, height: usize) -> Rect {
        Rect {
            x: 0,
            y: 0,
            width,
            height,
        }
    }

    pub fn right(&self) -> usize {
        self.x + self.width
    }

    pub fn bottom(&self) -> usize {
        self.y + self.height
    }
}
