//! JPEG files: which blocks to decode, what to forgive, CMYK.
//!
//! Forgiven is what Pillow forgives: anything that libjpeg warns about and decodes on. Refused is what Pillow refuses:
//! libjpeg's errors, and a file that ends before its picture does.

use super::{Decoder, Orientation, check_size};
use crate::ops::jpeg::{Colors, JpegHeader, Outcome, PlainFile, Rect, Scale};

/// Upsampling of the colours looks this many pixels to the left and right.
const UPSAMPLING_REACH: usize = 2;

impl Decoder {
    pub(super) fn jpeg_region(
        &mut self,
        bytes: &[u8],
        mut choose: impl FnMut(usize, usize, Scale) -> (Rect, Scale),
    ) -> Result<(), String> {
        let segments = Segments::read(bytes)?;
        let turn = Orientation::from_metadata(segments.exif.as_deref(), segments.xmp);
        if let Some(file) = PlainFile::open(bytes) {
            let size = file.size();
            let smallest = turn.smallest_scale(size);
            let mut scale = Scale::Full;
            let view = view(size, turn, |width, height| {
                let (view, chosen) = choose(width, height, smallest);
                scale = chosen;
                view
            })?;
            let size = (scale.reduced(size.0), scale.reduced(size.1));
            let needed = turn.stored_rect(view, size.0, size.1);
            let planes = match turn {
                Orientation::AsStored => &mut self.upright,
                _ => &mut self.stored_planes,
            };
            return match (self.plain.decode_at(scale, &file, needed, planes), turn) {
                (Some(()), Orientation::AsStored) => Ok(()),
                (Some(()), _) => {
                    self.turn_planes(view, turn, size);
                    Ok(())
                }
                (None, _) => self.any_jpeg_region(bytes, &segments, turn, |width, height| match scale {
                    Scale::Full => view,
                    _ => choose(width, height, Scale::Full).0,
                }),
            };
        }
        self.any_jpeg_region(bytes, &segments, turn, |width, height| {
            choose(width, height, Scale::Full).0
        })
    }

    /// By libjpeg-turbo, whose word is final.
    fn any_jpeg_region(
        &mut self,
        bytes: &[u8],
        segments: &Segments<'_>,
        turn: Orientation,
        choose: impl FnOnce(usize, usize) -> Rect,
    ) -> Result<(), String> {
        let header = self.decompressor.read_header(bytes)?;
        let size = (header.width, header.height);
        let view = view(size, turn, choose)?;
        let needed = turn.stored_rect(view, header.width, header.height);
        if !segments.has_end {
            self.refuse_truncated(bytes, &header, segments.scans)?;
        }
        let decoded = decodable(needed, &header);
        let pixel_bytes = header.colors.bytes_per_pixel();
        self.stored.resize(decoded.width * decoded.height * pixel_bytes, 0);
        let outcome = self.decompressor.decode(bytes, &header, decoded, &mut self.stored)?;
        if segments.scans == Scans::Several && outcome == Outcome::Warned(RAN_OUT.into()) {
            return Err(truncated(bytes));
        }
        match header.colors {
            Colors::Rgb => self.turn_upright(view, turn, size, decoded, pixel_bytes, |p| [p[0], p[1], p[2]]),
            Colors::Cmyk => self.turn_upright(view, turn, size, decoded, pixel_bytes, rgb_of_inverted_cmyk),
        }
        Ok(())
    }

    /// Without an end marker the picture may still be whole (Pillow then accepts it). Decoding all rows but the last makes
    /// libjpeg stop behind the last block instead of looking for the marker, so it runs out only if blocks are missing.
    fn refuse_truncated(&mut self, bytes: &[u8], header: &JpegHeader, scans: Scans) -> Result<(), String> {
        if scans == Scans::Several || header.height < 2 || header.mcu_width.is_none() {
            return Err(truncated(bytes));
        }
        let but_last = Rect::whole(header.width, header.height - 1);
        self.stored
            .resize(but_last.width * but_last.height * header.colors.bytes_per_pixel(), 0);
        match self.decompressor.decode(bytes, header, but_last, &mut self.stored)? {
            Outcome::Warned(what) if what == RAN_OUT => Err(truncated(bytes)),
            _ => Ok(()),
        }
    }
}

/// The rectangle that is wanted of the upright picture.
fn view(
    stored_size: (usize, usize),
    turn: Orientation,
    choose: impl FnOnce(usize, usize) -> Rect,
) -> Result<Rect, String> {
    check_size(stored_size.0, stored_size.1)?;
    let (width, height) = turn.turn_size(stored_size.0, stored_size.1);
    Ok(choose(width, height))
}

/// libjpeg's warning when it makes up an end marker.
const RAN_OUT: &str = "Premature end of JPEG file";

fn truncated(bytes: &[u8]) -> String {
    format!("the JPEG file is truncated ({} bytes)", bytes.len())
}

/// The smallest rectangle around `needed` that can be decoded and whose pixels in `needed` equal a whole decode's.
fn decodable(needed: Rect, header: &JpegHeader) -> Rect {
    let Some(mcu_width) = header.mcu_width else {
        return Rect::whole(header.width, header.height);
    };
    let x = needed.x.saturating_sub(UPSAMPLING_REACH) / mcu_width * mcu_width;
    let right = (needed.right() + UPSAMPLING_REACH)
        .next_multiple_of(mcu_width)
        .min(header.width);
    Rect {
        x,
        width: right - x,
        ..needed
    }
}

/// Adobe's files, and so all CMYK files for Pillow, store inverted values; then Pillow's conversion to RGB.
fn rgb_of_inverted_cmyk(pixel: &[u8]) -> [u8; 3] {
    let key = pixel[3] as u32;
    [0, 1, 2].map(|channel| {
        let product = (255 - pixel[channel] as u32) * key + 128;
        let scaled = (product + (product >> 8)) >> 8;
        key.saturating_sub(scaled) as u8
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scans {
    One,
    Several,
}

/// What stands before, and how the file ends.
struct Segments<'a> {
    exif: Option<std::borrow::Cow<'a, [u8]>>,
    xmp: Option<&'a [u8]>,
    scans: Scans,
    /// There is an end-of-image marker behind the start of the first scan.
    has_end: bool,
}

impl<'a> Segments<'a> {
    /// Walks over the segments up to the first scan.
    fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let mut found = Segments {
            exif: None,
            xmp: None,
            scans: Scans::One,
            has_end: false,
        };
        let mut at = 2;
        let mut components = 0;
        loop {
            // Junk and fill bytes before a marker are passed over.
            let marker = loop {
                match (bytes.get(at), bytes.get(at + 1)) {
                    (Some(0xff), Some(0xff)) => at += 1,
                    (Some(0xff), Some(0x00)) => at += 2,
                    (Some(0xff), Some(&marker)) => break marker,
                    (Some(_), Some(_)) => at += 1,
                    _ => return Err(truncated(bytes)),
                }
            };
            at += 2;
            if matches!(marker, 0x01 | 0xd0..=0xd9) {
                continue; // no length
            }
            let length = match bytes.get(at..at + 2) {
                Some(length) => u16::from_be_bytes([length[0], length[1]]) as usize,
                None => return Err(truncated(bytes)),
            };
            let body = bytes.get(at + 2..at + length.max(2)).ok_or_else(|| truncated(bytes))?;
            at += length.max(2);
            match marker {
                0xe1 if body.starts_with(b"Exif\0\0") => match &mut found.exif {
                    // Long EXIF is cut into several segments.
                    Some(exif) => exif.to_mut().extend_from_slice(&body[6..]),
                    none => *none = Some(body.into()),
                },
                0xe1 if body.starts_with(b"http://ns.adobe.com/xap/1.0/\0") => found.xmp = Some(body),
                0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                    components = body.get(5).copied().unwrap_or(0);
                    if !matches!(components, 1 | 3 | 4) {
                        return Err(format!("a JPEG file of {components} components"));
                    }
                    if matches!(marker, 0xc2 | 0xc6 | 0xca | 0xce) {
                        found.scans = Scans::Several;
                    }
                }
                0xda => {
                    if body.first().is_some_and(|&in_scan| in_scan < components) {
                        found.scans = Scans::Several;
                    }
                    found.has_end = bytes.ends_with(&[0xff, 0xd9]) || has_end_marker(&bytes[at..]);
                    return Ok(found);
                }
                _ => {}
            }
        }
    }
}

fn has_end_marker(scan: &[u8]) -> bool {
    scan.windows(2).any(|pair| pair == [0xff, 0xd9])
}
