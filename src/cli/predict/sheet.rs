//! A contact sheet: small pictures in lines, what was predicted of each written below it.

use std::path::Path;

use font8x8::{BASIC_FONTS, LATIN_FONTS, UnicodeFonts};

use super::Prediction;
use super::inputs::Pictures;
use crate::data::Samples;
use crate::data::decode::{Pixels, decode};
use crate::error::{Error, Result};

/// More would make a drawing that no program opens.
pub const MOST_PICTURES: usize = 1000;

/// Side of a picture's place.
const SIDE: usize = 200;
const MARGIN: usize = 12;
/// Letters are 8 pixels wide and high.
const LETTER: usize = 8;
const LINE: usize = 14;
const LINES: usize = 3;
const WHITE: [u8; 3] = [255; 3];
const BLACK: [u8; 3] = [0; 3];
const RED: [u8; 3] = [190, 0, 0];
const GREEN: [u8; 3] = [0, 120, 0];

/// A drawing in RGB.
pub struct Sheet {
    width: usize,
    height: usize,
    rgb_hwc: Vec<u8>,
}

/// Draws all pictures that have a prediction.
pub fn draw(pictures: &Pictures, predictions: &[Prediction], names: &[String], columns: usize) -> Result<Sheet> {
    let columns = columns.min(predictions.len().max(1));
    let rows = predictions.len().div_ceil(columns).max(1);
    let (cell_width, cell_height) = (SIDE + MARGIN, SIDE + LINES * LINE + MARGIN);
    let mut sheet = Sheet::new(columns * cell_width + MARGIN, rows * cell_height + MARGIN);
    for (number, prediction) in predictions.iter().enumerate() {
        let (x, y) = (
            MARGIN + number % columns * cell_width,
            MARGIN + number / columns * cell_height,
        );
        let bytes = pictures.encoded(prediction.input)?;
        // It was read a moment ago.
        if let Ok(picture) = decode(&bytes) {
            sheet.paste(&picture, x, y);
        }
        let (class, score) = prediction.classes[0];
        let (colour, truth) = match pictures.true_label(prediction.input) {
            None => (BLACK, String::new()),
            Some(label) if label == names[class] => (GREEN, String::new()),
            Some(label) => (RED, format!("is {label}")),
        };
        let text = [names[class].clone(), format!("{:.1}%", 100.0 * score), truth];
        for (line, text) in text.iter().enumerate() {
            sheet.write_text(text, x, y + SIDE + 4 + line * LINE, colour);
        }
    }
    Ok(sheet)
}

impl Sheet {
    fn new(width: usize, height: usize) -> Sheet {
        Sheet {
            width,
            height,
            rgb_hwc: WHITE.repeat(width * height),
        }
    }

    /// Shrinks a picture into a place, in the middle of it; every pixel is the mean of those that fall on it.
    fn paste(&mut self, picture: &Pixels, x: usize, y: usize) {
        let largest = picture.width.max(picture.height).max(1);
        let side = |length: usize| (length * SIDE / largest).clamp(1, SIDE);
        let (width, height) = (side(picture.width), side(picture.height));
        let (left, top) = (x + (SIDE - width) / 2, y + (SIDE - height) / 2);
        let span = |at: usize, small: usize, whole: usize| {
            let from = at * whole / small;
            from..((at + 1) * whole / small).max(from + 1).min(whole)
        };
        for row in 0..height {
            for column in 0..width {
                let (mut sums, mut count) = ([0u64; 3], 0);
                for from_y in span(row, height, picture.height) {
                    for from_x in span(column, width, picture.width) {
                        let at = 3 * (from_y * picture.width + from_x);
                        (0..3).for_each(|channel| sums[channel] += u64::from(picture.rgb_hwc[at + channel]));
                        count += 1;
                    }
                }
                self.set(left + column, top + row, sums.map(|sum| (sum / count.max(1)) as u8));
            }
        }
    }

    /// One line, cut where the place ends. What the font does not have becomes a question mark.
    fn write_text(&mut self, text: &str, x: usize, y: usize, colour: [u8; 3]) {
        let room = SIDE / LETTER;
        let mut letters: Vec<char> = text.chars().collect();
        if letters.len() > room {
            letters.truncate(room - 2);
            letters.extend("..".chars());
        }
        for (place, letter) in letters.into_iter().enumerate() {
            let question = || BASIC_FONTS.get('?').unwrap_or_default();
            let glyph = BASIC_FONTS
                .get(letter)
                .or_else(|| LATIN_FONTS.get(letter))
                .unwrap_or_else(question);
            for (row, bits) in glyph.into_iter().enumerate() {
                for column in (0..LETTER).filter(|column| bits >> column & 1 == 1) {
                    self.set(x + place * LETTER + column, y + row, colour);
                }
            }
        }
    }

    fn set(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        let at = 3 * (y * self.width + x);
        self.rgb_hwc[at..at + 3].copy_from_slice(&colour);
    }

    /// Writes a PNG file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let (width, height) = (self.width as u32, self.height as u32);
        image::save_buffer_with_format(
            path,
            &self.rgb_hwc,
            width,
            height,
            image::ExtendedColorType::Rgb8,
            image::ImageFormat::Png,
        )
        .map_err(|error| {
            Error::usage(
                format!("--grid {}: it cannot be written: {error}", path.display()),
                "choose a place that you may write",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_keep_their_shape_and_text_its_place() {
        let mut sheet = Sheet::new(SIDE + 20, SIDE + 60);
        let wide = Pixels {
            width: 400,
            height: 100,
            rgb_hwc: [10, 20, 30].repeat(400 * 100),
        };
        sheet.paste(&wide, 10, 10);
        let at = |sheet: &Sheet, x: usize, y: usize| -> [u8; 3] {
            let at = 3 * (y * sheet.width + x);
            sheet.rgb_hwc[at..at + 3].try_into().unwrap()
        };
        // 200 x 50 pixels in the middle of the place.
        assert_eq!(
            (at(&sheet, 10, 10 + 75), at(&sheet, 209, 10 + 124)),
            ([10, 20, 30], [10, 20, 30])
        );
        assert_eq!((at(&sheet, 10, 10 + 74), at(&sheet, 210, 10 + 100)), (WHITE, WHITE));
        sheet.write_text(&"W".repeat(99), 10, 220, BLACK);
        let black = |x: usize| (220..228).any(|y| at(&sheet, x, y) == BLACK);
        assert!((10..18).any(black) && !(10 + SIDE..SIDE + 20).any(black));
    }
}
