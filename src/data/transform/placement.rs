//! Which part of a picture becomes a sample: a crop, resized, of which a window is kept, maybe mirrored.

use std::ops::Range;

use crate::ops::jpeg::{Rect, Scale};
use crate::ops::preprocess::Cut;
use crate::ops::resample::Filter;

/// How a centre crop rounds when it cannot be in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Middle {
    /// torchvision: to the even number.
    Torchvision,
    /// The image processors of transformers: down.
    Processor,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Placement {
    pub crop: Rect,
    /// Width and height of the resized crop.
    pub resized: (usize, usize),
    pub filter: Filter,
    /// Column and row of the resized crop at which the sample starts; where they are negative the sample is padded.
    pub offset: (isize, isize),
    pub flip: bool,
}

impl Placement {
    /// The crop fills the sample; `size` is height and width.
    pub fn squash(crop: Rect, filter: Filter, size: (usize, usize)) -> Placement {
        Placement {
            crop,
            resized: (size.1, size.0),
            filter,
            offset: (0, 0),
            flip: false,
        }
    }

    /// The shorter side becomes `side`, the longer one is rounded down.
    pub fn shorter_side(crop: Rect, filter: Filter, side: usize) -> Placement {
        let long = |long: usize, short: usize| ((side * long) as f64 / short as f64) as usize;
        let size = match crop.width <= crop.height {
            true => (long(crop.height, crop.width), side),
            false => (side, long(crop.width, crop.height)),
        };
        Placement::squash(crop, filter, size)
    }

    /// The same, for pictures that are decoded already, and at this scale.
    pub fn cut(&self, scale: Scale) -> Cut {
        let Placement {
            crop,
            resized,
            filter,
            offset,
            flip,
        } = *self;
        let (x, columns) = reduced(crop.x, crop.width, scale);
        let (y, rows) = reduced(crop.y, crop.height, scale);
        Cut {
            crop: Rect {
                x,
                y,
                width: columns.count,
                height: rows.count,
            },
            part: (scale != Scale::Full).then_some([columns.part, rows.part]),
            resized,
            filter,
            offset,
            flip,
        }
    }

    pub fn flipped(self, flip: bool) -> Placement {
        Placement { flip, ..self }
    }

    /// The middle `size` (height, width) of the resized crop.
    pub fn centered(self, size: (usize, usize), middle: Middle) -> Placement {
        let offset = |have: usize, want: usize| match (have < want, middle) {
            (true, _) => -(((want - have) / 2) as isize),
            (false, Middle::Torchvision) => ((have - want) as f64 / 2.0).round_ties_even() as isize,
            (false, Middle::Processor) => ((have - want) / 2) as isize,
        };
        Placement {
            offset: (offset(self.resized.0, size.1), offset(self.resized.1, size.0)),
            ..self
        }
    }

    /// The smallest scale at which the crop still has as many pixels as it is resized to.
    pub fn scale(&self) -> Scale {
        let enough = |scale: &Scale| {
            self.crop.width >= self.resized.0 * scale.divisor() && self.crop.height >= self.resized.1 * scale.divisor()
        };
        Scale::ALL.into_iter().rfind(enough).unwrap_or(Scale::Full)
    }

    /// The columns of the resized crop that a sample of this width shows.
    pub fn window_columns(&self, width: usize) -> Range<usize> {
        window(self.offset.0, width, self.resized.0)
    }

    pub fn window_rows(&self, height: usize) -> Range<usize> {
        window(self.offset.1, height, self.resized.1)
    }

    /// The columns of the sample that are not padding.
    pub fn columns_covered(&self, width: usize) -> Range<usize> {
        let window = self.window_columns(width);
        let shift = |column: usize| (column as isize - self.offset.0) as usize;
        let covered = shift(window.start)..shift(window.end);
        match self.flip {
            false => covered,
            true => width - covered.end..width - covered.start,
        }
    }

    /// Nothing is padding.
    pub fn covers(&self, width: usize, height: usize) -> bool {
        self.window_columns(width).len() == width && self.window_rows(height).len() == height
    }
}

/// A stretch of pixels in a picture that is decoded smaller.
struct Stretch {
    /// Pixels that it touches there.
    count: usize,
    /// Start and length among these.
    part: (f64, f64),
}

/// The first pixel that `length` pixels from `start` touch, and how they lie behind it.
fn reduced(start: usize, length: usize, scale: Scale) -> (usize, Stretch) {
    let divisor = scale.divisor();
    let first = start / divisor;
    let stretch = Stretch {
        count: scale.reduced(start + length) - first,
        part: (
            (start % divisor) as f64 / divisor as f64,
            length as f64 / divisor as f64,
        ),
    };
    (first, stretch)
}

fn window(offset: isize, wanted: usize, available: usize) -> Range<usize> {
    let end = (offset + wanted as isize).clamp(0, available as isize) as usize;
    (offset.max(0) as usize).min(end)..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_and_offsets_are_torchvisions() {
        let of = |width, height| Placement::shorter_side(Rect::whole(width, height), Filter::Bilinear, 224);
        assert_eq!(of(512, 384).resized, (298, 224));
        assert_eq!(of(384, 513).resized, (224, 299));
        assert_eq!(of(74, 50).resized, (331, 224));
        let middle = |width, middle| of(width, 384).centered((224, 224), middle).offset;
        // 512: (298 - 224) / 2; 517: 301, 38.5 to the even number or down; 519: 302.
        assert_eq!(middle(512, Middle::Torchvision), (37, 0));
        assert_eq!(middle(517, Middle::Torchvision), (38, 0));
        assert_eq!(middle(520, Middle::Torchvision), (40, 0));
        assert_eq!(middle(520, Middle::Processor), (39, 0));
    }

    #[test]
    fn a_small_picture_is_padded() {
        let placement =
            Placement::squash(Rect::whole(5, 4), Filter::Bilinear, (4, 5)).centered((8, 8), Middle::Torchvision);
        assert_eq!(placement.offset, (-1, -2));
        assert_eq!((placement.window_columns(8), placement.window_rows(8)), (0..5, 0..4));
        assert_eq!((placement.columns_covered(8), placement.covers(8, 8)), (1..6, false));
        assert_eq!(placement.flipped(true).columns_covered(8), 2..7);
    }
}
