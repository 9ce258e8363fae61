//! Where the pixels of a batch of images lie: lines of pixels, strides between them, all in floats.

/// How many pixels there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub images: usize,
    pub lines: usize,
    /// Pixels of a line.
    pub pixels: usize,
}

/// Pixel (image, line, place) begins at `start + image * image_stride + line * line_stride + place * pixel_stride`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raster {
    pub start: usize,
    pub image_stride: usize,
    pub line_stride: usize,
    pub pixel_stride: usize,
}

impl Extent {
    /// Lines of all images.
    pub fn all_lines(&self) -> usize {
        self.images * self.lines
    }

    pub fn all_pixels(&self) -> usize {
        self.all_lines() * self.pixels
    }
}

impl Raster {
    /// Where line `line` of all images' lines begins.
    pub fn line(&self, extent: &Extent, line: usize) -> usize {
        self.start + line / extent.lines * self.image_stride + line % extent.lines * self.line_stride
    }

    /// One past the last float, if every pixel is `width` floats.
    pub(super) fn end(&self, extent: &Extent, width: usize) -> usize {
        if extent.all_pixels() == 0 {
            return 0;
        }
        self.start
            + (extent.images - 1) * self.image_stride
            + (extent.lines - 1) * self.line_stride
            + (extent.pixels - 1) * self.pixel_stride
            + width
    }

    /// Do lines follow each other as pixels do, so that all of them are one line?
    pub(super) fn is_one_line(&self, extent: &Extent) -> bool {
        let line = extent.pixels * self.pixel_stride;
        (extent.lines < 2 || self.line_stride == line)
            && (extent.images < 2 || self.image_stride == extent.lines * line)
    }
}
