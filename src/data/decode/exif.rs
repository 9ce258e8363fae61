//! EXIF orientation: finding the tag, and what it does to coordinates and pixels.
//!
//! Wild files carry orientation 0 and 56624, truncated and foreign EXIF; all of that means: as stored.
//! Source: EXIF 2.32, TIFF 6.0; an XMP packet's `tiff:Orientation` counts where EXIF has none, as in Pillow.

use crate::ops::jpeg::{Rect, Scale};

/// How the stored picture is turned for the viewer; the numbers are EXIF's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orientation {
    AsStored,
    MirrorHorizontal = 2,
    Rotate180,
    MirrorVertical,
    Transpose,
    Rotate90Clockwise,
    Transverse,
    Rotate90CounterClockwise,
}

impl Orientation {
    pub fn from_tag(value: u32) -> Orientation {
        use Orientation::*;
        match value {
            2 => MirrorHorizontal,
            3 => Rotate180,
            4 => MirrorVertical,
            5 => Transpose,
            6 => Rotate90Clockwise,
            7 => Transverse,
            8 => Rotate90CounterClockwise,
            _ => AsStored,
        }
    }

    /// From the metadata of a file: EXIF (a TIFF, maybe behind one or two `Exif\0\0`) first, then XMP.
    pub fn from_metadata(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
        let tag = exif
            .and_then(orientation_in_exif)
            .or_else(|| xmp.and_then(orientation_in_xmp));
        Orientation::from_tag(tag.unwrap_or(1))
    }

    /// Rows become columns.
    pub fn swaps_axes(self) -> bool {
        use Orientation::*;
        matches!(
            self,
            Transpose | Rotate90Clockwise | Transverse | Rotate90CounterClockwise
        )
    }

    /// Size as viewed of a picture stored with this size, and the other way round.
    pub fn turn_size(self, width: usize, height: usize) -> (usize, usize) {
        match self.swaps_axes() {
            true => (height, width),
            false => (width, height),
        }
    }

    /// Where the pixel (x, y) of the view lies in the stored picture of `width` x `height`.
    pub fn stored_at(self, x: usize, y: usize, width: usize, height: usize) -> (usize, usize) {
        use Orientation::*;
        match self {
            AsStored => (x, y),
            MirrorHorizontal => (width - 1 - x, y),
            Rotate180 => (width - 1 - x, height - 1 - y),
            MirrorVertical => (x, height - 1 - y),
            Transpose => (y, x),
            Rotate90Clockwise => (y, height - 1 - x),
            Transverse => (width - 1 - y, height - 1 - x),
            Rotate90CounterClockwise => (width - 1 - y, x),
        }
    }

    /// The smallest scale that a picture stored in this size may be decoded at: pixels that become one must lie in the same
    /// places from whichever corner they are counted.
    pub fn smallest_scale(self, (width, height): (usize, usize)) -> Scale {
        let divides = |scale: &Scale| width.is_multiple_of(scale.divisor()) && height.is_multiple_of(scale.divisor());
        match self {
            Orientation::AsStored => Scale::Eighth,
            _ => Scale::ALL.into_iter().rfind(divides).unwrap_or(Scale::Full),
        }
    }

    /// The stored rectangle of a viewed one; `width` x `height` is the stored size.
    pub fn stored_rect(self, view: Rect, width: usize, height: usize) -> Rect {
        let (ax, ay) = self.stored_at(view.x, view.y, width, height);
        let (bx, by) = self.stored_at(view.right() - 1, view.bottom() - 1, width, height);
        Rect {
            x: ax.min(bx),
            y: ay.min(by),
            width: ax.abs_diff(bx) + 1,
            height: ay.abs_diff(by) + 1,
        }
    }
}

/// The orientation tag of the first directory; None: there is none that could be read.
fn orientation_in_exif(mut exif: &[u8]) -> Option<u32> {
    for _ in 0..2 {
        exif = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    }
    let little = match exif.get(..4)? {
        b"II*\0" | b"II\0*" => true,
        b"MM\0*" | b"MM*\0" => false,
        _ => return None,
    };
    let u16_at = |at: usize| {
        let bytes: [u8; 2] = exif.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if little {
            u16::from_le_bytes(bytes)
        } else {
            u16::from_be_bytes(bytes)
        } as u32)
    };
    let u32_at = |at: usize| {
        let bytes: [u8; 4] = exif.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if little {
            u32::from_le_bytes(bytes)
        } else {
            u32::from_be_bytes(bytes)
        })
    };
    let directory = u32_at(4)? as usize;
    let mut found = None;
    for entry in 0..u16_at(directory)? as usize {
        let at = directory + 2 + 12 * entry;
        let (Some(tag), Some(kind), Some(count), Some(_value)) =
            (u16_at(at), u16_at(at + 2), u32_at(at + 4), u32_at(at + 8))
        else {
            break; // truncated: what was read so far counts
        };
        if tag != 0x0112 {
            continue;
        }
        const SHORT: u32 = 3;
        const LONG: u32 = 4;
        const SIGNED_SHORT: u32 = 8;
        const SIGNED_LONG: u32 = 9;
        found = match (kind, count) {
            (SHORT | SIGNED_SHORT, 1) => u16_at(at + 8),
            (LONG | SIGNED_LONG, 1) => u32_at(at + 8),
            _ => Some(0), // present, and no number: no turn, and XMP is not asked
        };
    }
    found
}

/// `tiff:Orientation="6"` or `<tiff:Orientation>6<`.
fn orientation_in_xmp(xmp: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"tiff:Orientation";
    let mut rest = xmp;
    while let Some(at) = rest.windows(NAME.len()).position(|w| w == NAME) {
        rest = &rest[at + NAME.len()..];
        let value = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"));
        if let Some(digit @ b'0'..=b'9') = value.and_then(|v| v.first()) {
            return Some((digit - b'0') as u32);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of one SHORT entry.
    fn exif(little: bool, tag: u16, kind: u16, value: u16) -> Vec<u8> {
        let two = |v: u16| if little { v.to_le_bytes() } else { v.to_be_bytes() };
        let four = |v: u32| if little { v.to_le_bytes() } else { v.to_be_bytes() };
        let mut out = b"Exif\0\0".to_vec();
        out.extend(if little { b"II*\0" } else { b"MM\0*" });
        out.extend(four(8));
        out.extend(two(1));
        out.extend([two(tag), two(kind)].concat());
        out.extend(four(1));
        out.extend([two(value), two(0)].concat());
        out.extend(four(0));
        out
    }

    #[test]
    fn the_tag_is_found_in_both_byte_orders() {
        for little in [true, false] {
            for value in 0..10 {
                let found = Orientation::from_metadata(Some(&exif(little, 0x112, 3, value)), None);
                assert_eq!(found, Orientation::from_tag(value as u32));
            }
        }
    }

    #[test]
    fn nonsense_means_as_stored() {
        let stored = |bytes: &[u8]| assert_eq!(Orientation::from_metadata(Some(bytes), None), Orientation::AsStored);
        stored(&exif(true, 0x112, 3, 0));
        stored(&exif(true, 0x112, 3, 56624));
        stored(&exif(true, 0x112, 1, 6));
        stored(&exif(true, 0x110, 3, 6));
        let good = exif(false, 0x112, 3, 6);
        for end in 0..good.len() - 4 {
            stored(&good[..end]);
        }
        stored(b"Exif\0\0II*\0\xff\xff\xff\xff");
    }

    #[test]
    fn xmp_counts_only_without_exif() {
        let xmp: &[u8] = b"<rdf tiff:Orientation=\"8\"/>";
        let element: &[u8] = b"<tiff:Orientation>3</tiff:Orientation>";
        assert_eq!(Orientation::from_metadata(None, Some(xmp)), Orientation::from_tag(8));
        assert_eq!(
            Orientation::from_metadata(None, Some(element)),
            Orientation::from_tag(3)
        );
        let one = exif(true, 0x112, 3, 1);
        assert_eq!(Orientation::from_metadata(Some(&one), Some(xmp)), Orientation::AsStored);
    }

    #[test]
    fn rectangles_follow_their_corners() {
        for tag in 1..=8 {
            let turn = Orientation::from_tag(tag);
            let (width, height) = (7, 4);
            let (view_width, view_height) = turn.turn_size(width, height);
            let view = Rect {
                x: 1,
                y: 2,
                width: view_width - 2,
                height: view_height - 3,
            };
            let stored = turn.stored_rect(view, width, height);
            let mut hits = 0;
            for y in view.y..view.bottom() {
                for x in view.x..view.right() {
                    let (sx, sy) = turn.stored_at(x, y, width, height);
                    assert!((stored.x..stored.right()).contains(&sx) && (stored.y..stored.bottom()).contains(&sy));
                    hits += 1;
                }
            }
            assert_eq!(hits, stored.width * stored.height);
        }
    }
}
