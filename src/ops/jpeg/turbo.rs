//! libjpeg-turbo behind a safe face: header, and any rectangle of an image as RGB or CMYK bytes.
//!
//! The settings are the ones that Pillow leaves in place (accurate integer DCT, fancy upsampling), so pixels are equal
//! to Pillow's. What counts as damage, orientation and CMYK's conversion are the business of `data::decode`.
//! Source of the interface: turbojpeg.h of libjpeg-turbo 3.1 (`tj3*`).

use std::ffi::CStr;

use turbojpeg::raw;

use super::Rect;

/// What the decoder can make of the file's components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colors {
    /// One to three components: delivered as R, G, B.
    Rgb,
    /// Four components: delivered as the file has them (Adobe writes them inverted), YCCK converted to CMYK.
    Cmyk,
}

impl Colors {
    pub fn bytes_per_pixel(self) -> usize {
        match self {
            Colors::Rgb => 3,
            Colors::Cmyk => 4,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JpegHeader {
    pub width: usize,
    pub height: usize,
    pub colors: Colors,
    /// Width of the blocks that are coded together, in pixels; None where the file can be decoded only as a whole.
    pub mcu_width: Option<usize>,
}

/// How far a decode that delivered pixels went without complaint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Clean,
    /// libjpeg's first warning; the pixels behind the damage are guesses.
    Warned(String),
}

/// How libjpeg's warnings begin (jerror.h, JWRN_*).
const WARNINGS: &[&str] = &[
    "Corrupt JPEG data",
    "Premature end of JPEG file",
    "Inconsistent progression sequence",
    "Invalid SOS parameters",
    "Unknown Adobe color transform code",
    "Warning: unknown JFIF revision number",
    "Application transferred too many scanlines",
];

/// libjpeg-turbo's decompressor of one image at a time.
pub struct Decompressor {
    handle: raw::tjhandle,
}

// SAFETY: a handle owns all its memory and libjpeg-turbo keeps no state outside of it (its error text is thread-local and
// read in the same call); it may move between threads, and `&mut self` keeps two threads from using it at once.
unsafe impl Send for Decompressor {}

impl Decompressor {
    /// Error: out of memory.
    pub fn new() -> Result<Decompressor, String> {
        // SAFETY: no preconditions; null is handled.
        let handle = unsafe { raw::tj3Init(raw::TJINIT_TJINIT_DECOMPRESS as i32) };
        if handle.is_null() {
            return Err("libjpeg-turbo could not make a decompressor: out of memory".into());
        }
        Ok(Decompressor { handle })
    }

    /// Reads up to the first scan. Must precede `decode` of the same bytes.
    pub fn read_header(&mut self, jpeg: &[u8]) -> Result<JpegHeader, String> {
        // A handle keeps tables from image to image; a file that lacks its own must not depend on what came before.
        *self = Decompressor::new()?;
        // SAFETY: the pointer and length are those of a live slice, which the call only reads.
        let code = unsafe { raw::tj3DecompressHeader(self.handle, jpeg.as_ptr(), jpeg.len() as raw::size_t) };
        self.outcome(code)?;
        let [width, height] = [
            self.parameter(raw::TJPARAM_TJPARAM_JPEGWIDTH),
            self.parameter(raw::TJPARAM_TJPARAM_JPEGHEIGHT),
        ];
        if width <= 0 || height <= 0 {
            return Err("the JPEG header gives no size".into());
        }
        if self.parameter(raw::TJPARAM_TJPARAM_PRECISION) != 8 {
            return Err("JPEG samples have more than 8 bits".into());
        }
        let colors = match self.parameter(raw::TJPARAM_TJPARAM_COLORSPACE) as raw::TJCS {
            raw::TJCS_TJCS_CMYK | raw::TJCS_TJCS_YCCK => Colors::Cmyk,
            _ => Colors::Rgb,
        };
        let mcu_width = match self.parameter(raw::TJPARAM_TJPARAM_SUBSAMP) {
            raw::TJSAMP_TJSAMP_444 | raw::TJSAMP_TJSAMP_GRAY | raw::TJSAMP_TJSAMP_440 | raw::TJSAMP_TJSAMP_441 => {
                Some(8)
            }
            raw::TJSAMP_TJSAMP_422 | raw::TJSAMP_TJSAMP_420 => Some(16),
            raw::TJSAMP_TJSAMP_411 => Some(32),
            _ => None,
        };
        let mcu_width = mcu_width.filter(|_| self.parameter(raw::TJPARAM_TJPARAM_LOSSLESS) == 0);
        Ok(JpegHeader {
            width: width as usize,
            height: height as usize,
            colors,
            mcu_width,
        })
    }

    /// Decodes `rect` into `out` (row after row, `colors.bytes_per_pixel()` bytes a pixel, no gaps); decoding of a file of
    /// one scan stops behind the last row. `rect.x` must be a multiple of `mcu_width`; without one `rect` must be the whole.
    ///
    /// The pixels equal those of a whole decode except in the two leftmost and rightmost columns of `rect`, where
    /// upsampling does not see its neighbours.
    pub fn decode(&mut self, jpeg: &[u8], header: &JpegHeader, rect: Rect, out: &mut [u8]) -> Result<Outcome, String> {
        let pixel_bytes = header.colors.bytes_per_pixel();
        assert_eq!(
            out.len(),
            rect.width * rect.height * pixel_bytes,
            "size of the pixel buffer"
        );
        assert!(
            rect.width > 0 && rect.right() <= header.width,
            "rectangle outside of the image"
        );
        assert!(
            rect.height > 0 && rect.bottom() <= header.height,
            "rectangle outside of the image"
        );
        let whole = rect == Rect::whole(header.width, header.height);
        let region = match whole {
            true => [0; 4],
            false => [rect.x, rect.y, rect.width, rect.height].map(|v| v as i32),
        };
        let region = raw::tjregion {
            x: region[0],
            y: region[1],
            w: region[2],
            h: region[3],
        };
        // SAFETY: the handle is live; the region is checked against the header by the call.
        if unsafe { raw::tj3SetCroppingRegion(self.handle, region) } != 0 {
            return Err(self.message());
        }
        let format = match header.colors {
            Colors::Rgb => raw::TJPF_TJPF_RGB,
            Colors::Cmyk => raw::TJPF_TJPF_CMYK,
        };
        let pitch = (rect.width * pixel_bytes) as i32;
        // SAFETY: `jpeg` is only read. The call writes `rect.height` rows of `pitch` bytes: the size asserted above, since
        // the region just set is `rect`. The file's size was read into the handle by `read_header`; the call reads the
        // header of the same bytes again.
        let code = unsafe {
            raw::tj3Decompress8(
                self.handle,
                jpeg.as_ptr(),
                jpeg.len() as raw::size_t,
                out.as_mut_ptr(),
                pitch,
                format,
            )
        };
        self.outcome(code)
    }

    fn parameter(&mut self, which: raw::TJPARAM) -> i32 {
        // SAFETY: the handle is live and the parameter is one of the library's constants.
        unsafe { raw::tj3Get(self.handle, which as i32) }
    }

    fn outcome(&mut self, code: i32) -> Result<Outcome, String> {
        if code == 0 {
            return Ok(Outcome::Clean);
        }
        // SAFETY: the handle is live.
        let warned = unsafe { raw::tj3GetErrorCode(self.handle) } as raw::TJERR == raw::TJERR_TJERR_WARNING;
        let message = self.message();
        // The code says "warning" also when an error came after a warning; only the text tells.
        match warned && WARNINGS.iter().any(|warning| message.contains(warning)) {
            true => Ok(Outcome::Warned(message)),
            false => Err(message),
        }
    }

    fn message(&mut self) -> String {
        // SAFETY: the library returns a null-terminated text that lives until the next call on this thread.
        let text = unsafe { CStr::from_ptr(raw::tj3GetErrorStr(self.handle)) };
        text.to_string_lossy().into_owned()
    }
}

impl Drop for Decompressor {
    fn drop(&mut self) {
        // SAFETY: the handle is live and not used again.
        unsafe { raw::tj3Destroy(self.handle) }
    }
}
