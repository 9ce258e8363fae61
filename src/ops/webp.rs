//! libwebp behind a safe face: the first frame of a WebP file on its canvas, and its EXIF chunk.
//!
//! The animation decoder is used for still images too, as Pillow does: it places a frame on the canvas.
//! Source of the interface: webp/demux.h of libwebp.

use libwebp_sys as raw;

/// First frame, RGBA, row after row.
pub struct WebpImage {
    pub width: usize,
    pub height: usize,
    pub rgba: Vec<u8>,
    pub exif: Option<Vec<u8>>,
    pub xmp: Option<Vec<u8>>,
}

/// Largest number of pixels that is decoded; a header that promises more is refused before memory is taken.
pub fn decode_webp(file: &[u8], most_pixels: usize) -> Result<WebpImage, String> {
    let data = raw::WebPData {
        bytes: file.as_ptr(),
        size: file.len(),
    };
    let (width, height) = canvas_size(&data)?;
    if width.saturating_mul(height) > most_pixels {
        return Err(format!("a WebP image of {width} x {height} pixels is too large"));
    }
    let decoder = Decoder::new(&data)?;
    let mut rgba = std::ptr::null_mut();
    let mut timestamp = 0;
    // SAFETY: the decoder is live, both pointers are to local variables. On success `rgba` points at the canvas, which the
    // decoder owns until it is deleted or asked for another frame.
    let ok = unsafe { raw::WebPAnimDecoderGetNext(decoder.0, &mut rgba, &mut timestamp) };
    if ok == 0 || rgba.is_null() {
        return Err("the WebP data is truncated or damaged".into());
    }
    // SAFETY: the canvas holds width x height RGBA pixels, the decoder's default colour mode.
    let rgba = unsafe { std::slice::from_raw_parts(rgba, width * height * 4) }.to_vec();
    // SAFETY: the decoder is live; the demuxer belongs to it.
    let demuxer = unsafe { raw::WebPAnimDecoderGetDemuxer(decoder.0) };
    Ok(WebpImage {
        width,
        height,
        rgba,
        exif: chunk(demuxer, c"EXIF"),
        xmp: chunk(demuxer, c"XMP "),
    })
}

struct Decoder(*mut raw::WebPAnimDecoder);

impl Decoder {
    fn new(data: &raw::WebPData) -> Result<Decoder, String> {
        // SAFETY: null options mean the defaults; `data` lives longer than the decoder that this module makes from it.
        let decoder = unsafe {
            raw::WebPAnimDecoderNewInternal(data, std::ptr::null(), raw::WEBP_DEMUX_ABI_VERSION as std::ffi::c_int)
        };
        match decoder.is_null() {
            true => Err("the WebP file cannot be read".into()),
            false => Ok(Decoder(decoder)),
        }
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: made by WebPAnimDecoderNewInternal and not used again.
        unsafe { raw::WebPAnimDecoderDelete(self.0) }
    }
}

fn canvas_size(data: &raw::WebPData) -> Result<(usize, usize), String> {
    // SAFETY: `data` describes a live slice; a null demuxer is handled, any other is deleted below.
    unsafe {
        let version = raw::WEBP_DEMUX_ABI_VERSION as std::ffi::c_int;
        let demuxer = raw::WebPDemuxInternal(data, 0, std::ptr::null_mut(), version);
        if demuxer.is_null() {
            return Err("the WebP file is truncated or damaged".into());
        }
        let width = raw::WebPDemuxGetI(demuxer, raw::WebPFormatFeature::WEBP_FF_CANVAS_WIDTH);
        let height = raw::WebPDemuxGetI(demuxer, raw::WebPFormatFeature::WEBP_FF_CANVAS_HEIGHT);
        raw::WebPDemuxDelete(demuxer);
        Ok((width as usize, height as usize))
    }
}

fn chunk(demuxer: *const raw::WebPDemuxer, name: &std::ffi::CStr) -> Option<Vec<u8>> {
    // SAFETY: all-zero is a valid value of this plain C struct.
    let mut found: raw::WebPChunkIterator = unsafe { std::mem::zeroed() };
    // SAFETY: the demuxer is live, the name has four bytes, the iterator is released below.
    unsafe {
        let ok = raw::WebPDemuxGetChunk(demuxer, name.as_ptr(), 1, &mut found);
        let bytes = (ok != 0 && !found.chunk.bytes.is_null())
            .then(|| std::slice::from_raw_parts(found.chunk.bytes, found.chunk.size).to_vec());
        raw::WebPDemuxReleaseChunkIterator(&mut found);
        bytes
    }
}
