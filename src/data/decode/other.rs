//! The formats beside JPEG: PNG, GIF (first frame), BMP, WebP (first frame), TIFF, each converted to RGB as Pillow does.
//!
//! Transparency is dropped, not blended: that is what `convert("RGB")` means.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder};

use super::{Decoder, MOST_PIXELS, Orientation, check_size};
use crate::ops::jpeg::Rect;
use crate::ops::webp::decode_webp;

/// A picture as its file stores it.
struct Stored {
    width: usize,
    height: usize,
    rgb_hwc: Vec<u8>,
    orientation: Orientation,
}

impl Decoder {
    pub(super) fn other_region(
        &mut self,
        bytes: &[u8],
        choose: impl FnOnce(usize, usize) -> Rect,
    ) -> Result<(), String> {
        let stored = match bytes {
            [0x89, b'P', b'N', b'G', ..] => png(bytes)?,
            [b'G', b'I', b'F', b'8', ..] => gif(bytes)?,
            [b'B', b'M', ..] => bmp(bytes)?,
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => webp(bytes)?,
            [b'I', b'I', b'*', 0, ..] | [b'M', b'M', 0, b'*', ..] => tiff(bytes)?,
            [] => return Err("there are no bytes".into()),
            _ => {
                return Err(format!(
                    "not a picture in a known format ({} bytes, first: {:02x?})",
                    bytes.len(),
                    &bytes[..bytes.len().min(8)]
                ));
            }
        };
        let size = (stored.width, stored.height);
        let (width, height) = stored.orientation.turn_size(stored.width, stored.height);
        let view = choose(width, height);
        self.stored = stored.rgb_hwc;
        self.turn_upright(view, stored.orientation, size, Rect::whole(size.0, size.1), 3, |p| {
            [p[0], p[1], p[2]]
        });
        Ok(())
    }
}

fn png(bytes: &[u8]) -> Result<Stored, String> {
    use png::{BitDepth, ColorType};
    let cause = |e: png::DecodingError| format!("PNG: {e}");
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: 4 * MOST_PIXELS });
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(cause)?;
    let info = reader.info();
    let (width, height) = (info.width as usize, info.height as usize);
    check_size(width, height)?;
    let (color, depth) = (info.color_type, info.bit_depth);
    let palette = info.palette.as_deref().unwrap_or_default().to_vec();
    let mut raw = vec![
        0;
        reader
            .output_buffer_size()
            .ok_or("PNG: the picture does not fit into memory")?
    ];
    let frame = reader.next_frame(&mut raw).map_err(cause)?;
    if (frame.width as usize, frame.height as usize) != (width, height) {
        return Err(format!(
            "PNG: the first frame has {} x {} pixels, the picture {width} x {height}",
            frame.width, frame.height
        ));
    }
    let line = frame.line_size;
    // Metadata may stand behind the pixels; damage there does no harm.
    let _ = reader.finish();
    let info = reader.info();
    let exif = info
        .exif_metadata
        .as_deref()
        .map(<[u8]>::to_vec)
        .or_else(|| raw_profile(info));
    let xmp = (info.utf8_text.iter())
        .find(|chunk| chunk.keyword == "XML:com.adobe.xmp")
        .and_then(|chunk| chunk.get_text().ok());
    let mut rgb_hwc = Vec::with_capacity(width * height * 3);
    let entry = |index: u8| {
        let at = index as usize * 3;
        // Pillow's palettes start out as a ramp of grays.
        palette
            .get(at..at + 3)
            .map_or([index; 3], |rgb| [rgb[0], rgb[1], rgb[2]])
    };
    for row in raw.chunks_exact(line).take(height) {
        let packed = |x: usize, bits: usize| {
            let bit = x * bits;
            (row[bit / 8] >> (8 - bits - bit % 8)) & ((1u16 << bits) - 1) as u8
        };
        match (color, depth) {
            (ColorType::Rgb, BitDepth::Eight) => rgb_hwc.extend_from_slice(&row[..width * 3]),
            (ColorType::Rgb, _) => rgb_hwc.extend(row.chunks_exact(2).take(width * 3).map(|be| be[0])),
            (ColorType::Rgba, BitDepth::Eight) => rgb_hwc.extend(row.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]])),
            (ColorType::Rgba, _) => rgb_hwc.extend(row.chunks_exact(8).flat_map(|p| [p[0], p[2], p[4]])),
            (ColorType::Indexed, depth) => {
                rgb_hwc.extend((0..width).flat_map(|x| entry(packed(x, depth as usize))));
            }
            // 16-bit gray is Pillow's mode I;16, which clips on its way to RGB.
            (ColorType::Grayscale, BitDepth::Sixteen) => {
                let clipped = |be: &[u8]| if be[0] == 0 { be[1] } else { 255 };
                rgb_hwc.extend(row.chunks_exact(2).take(width).flat_map(|be| [clipped(be); 3]));
            }
            (ColorType::Grayscale, depth) => {
                let bits = depth as usize;
                let scale = 255 / ((1u16 << bits) - 1) as u8;
                rgb_hwc.extend((0..width).flat_map(|x| [packed(x, bits) * scale; 3]));
            }
            (ColorType::GrayscaleAlpha, BitDepth::Eight) => rgb_hwc.extend(row.chunks_exact(2).flat_map(|p| [p[0]; 3])),
            (ColorType::GrayscaleAlpha, _) => rgb_hwc.extend(row.chunks_exact(4).flat_map(|p| [p[0]; 3])),
        }
    }
    Ok(Stored {
        width,
        height,
        rgb_hwc,
        orientation: Orientation::from_metadata(exif.as_deref(), xmp.as_ref().map(String::as_bytes)),
    })
}

/// EXIF as ImageMagick puts it into PNG: hexadecimal behind a name and a length.
fn raw_profile(info: &png::Info) -> Option<Vec<u8>> {
    const KEYWORD: &str = "Raw profile type exif";
    let plain = info
        .uncompressed_latin1_text
        .iter()
        .find(|chunk| chunk.keyword == KEYWORD)
        .map(|chunk| chunk.text.clone());
    let compressed = || {
        info.compressed_latin1_text
            .iter()
            .find(|chunk| chunk.keyword == KEYWORD)?
            .get_text()
            .ok()
    };
    let text = plain.or_else(compressed)?;
    let digits: Vec<u8> = text.split('\n').skip(3).flat_map(str::bytes).collect();
    digits
        .chunks_exact(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

fn gif(bytes: &[u8]) -> Result<Stored, String> {
    let cause = |e: gif::DecodingError| format!("GIF: {e}");
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::Indexed);
    let mut decoder = options.read_info(Cursor::new(bytes)).map_err(cause)?;
    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let (screen_width, screen_height) = (decoder.width() as usize, decoder.height() as usize);
    check_size(screen_width.max(1), screen_height.max(1))?;
    let frame = decoder
        .read_next_frame()
        .map_err(cause)?
        .ok_or("GIF: there is no frame")?;
    let (left, top) = (frame.left as usize, frame.top as usize);
    let (frame_width, frame_height) = (frame.width as usize, frame.height as usize);
    // A frame that reaches over the screen widens it.
    let (width, height) = (
        screen_width.max(left + frame_width),
        screen_height.max(top + frame_height),
    );
    check_size(width, height)?;
    let palette = frame.palette.as_deref().or(global.as_deref());
    let entry = |index: u8| {
        let at = index as usize * 3;
        palette
            .and_then(|p| p.get(at..at + 3))
            .map_or([index; 3], |rgb| [rgb[0], rgb[1], rgb[2]])
    };
    let background = entry(frame.transparent.unwrap_or(0));
    let mut rgb_hwc = background.repeat(width * height);
    for (y, line) in frame
        .buffer
        .chunks_exact(frame_width.max(1))
        .take(frame_height)
        .enumerate()
    {
        for (x, &index) in line.iter().enumerate() {
            let at = ((top + y) * width + left + x) * 3;
            rgb_hwc[at..at + 3].copy_from_slice(&entry(index));
        }
    }
    Ok(Stored {
        width,
        height,
        rgb_hwc,
        orientation: Orientation::AsStored,
    })
}

fn webp(bytes: &[u8]) -> Result<Stored, String> {
    let image = decode_webp(bytes, MOST_PIXELS)?;
    Ok(Stored {
        width: image.width,
        height: image.height,
        rgb_hwc: image.rgba.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        orientation: Orientation::from_metadata(image.exif.as_deref(), image.xmp.as_deref()),
    })
}

fn bmp(bytes: &[u8]) -> Result<Stored, String> {
    let decoder = image::codecs::bmp::BmpDecoder::new(Cursor::new(bytes)).map_err(|e| format!("BMP: {e}"))?;
    from_image_crate(decoder, "BMP")
}

fn tiff(bytes: &[u8]) -> Result<Stored, String> {
    let decoder = image::codecs::tiff::TiffDecoder::new(Cursor::new(bytes)).map_err(|e| format!("TIFF: {e}"))?;
    from_image_crate(decoder, "TIFF")
}

fn from_image_crate(mut decoder: impl ImageDecoder, format: &str) -> Result<Stored, String> {
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    check_size(width, height)?;
    let tag = decoder.orientation().map_or(1, |orientation| orientation.to_exif());
    let image = DynamicImage::from_decoder(decoder).map_err(|e| format!("{format}: {e}"))?;
    let rgb_hwc = match image {
        DynamicImage::ImageRgb8(rgb) => rgb.into_raw(),
        DynamicImage::ImageRgba8(rgba) => rgba.pixels().flat_map(|p| [p[0], p[1], p[2]]).collect(),
        DynamicImage::ImageLuma8(gray) => gray.pixels().flat_map(|p| [p[0]; 3]).collect(),
        DynamicImage::ImageLumaA8(gray) => gray.pixels().flat_map(|p| [p[0]; 3]).collect(),
        // Mode I;16 clips on its way to RGB.
        DynamicImage::ImageLuma16(gray) => gray.pixels().flat_map(|p| [p[0].min(255) as u8; 3]).collect(),
        DynamicImage::ImageRgb16(rgb) => rgb.into_raw().into_iter().map(|v| (v >> 8) as u8).collect(),
        DynamicImage::ImageRgba16(rgba) => (rgba.pixels())
            .flat_map(|p| [p[0], p[1], p[2]].map(|v| (v >> 8) as u8))
            .collect(),
        other => {
            return Err(format!(
                "{format}: samples of kind {:?} are not supported",
                other.color()
            ));
        }
    };
    Ok(Stored {
        width,
        height,
        rgb_hwc,
        orientation: Orientation::from_tag(tag as u32),
    })
}
