//! JPEG files to samples, equal to libjpeg-turbo's, which is what Pillow uses.
//!
//! `turbo` is libjpeg-turbo itself: it reads everything, and what it does is right by definition. `plain` is our own
//! decoder for the kind of file that most are (baseline, one scan, undamaged): it makes the same samples faster, computes
//! no more than the rectangle that is asked for, and declines whatever is out of the ordinary. It can also decode at a half,
//! a quarter or an eighth of the size.
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

/// How much smaller than it is a picture is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scale {
    Full,
    Half,
    Quarter,
    Eighth,
}

impl Scale {
    /// The smallest pictures last.
    pub const ALL: [Scale; 4] = [Scale::Full, Scale::Half, Scale::Quarter, Scale::Eighth];

    /// Pixels of the picture that become one, in each direction.
    pub fn divisor(self) -> usize {
        1 << self as usize
    }

    /// Width or height of a picture that is decoded so.
    pub fn reduced(self, length: usize) -> usize {
        length.div_ceil(self.divisor())
    }
}

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
