//! Planes of u8 to rows of interleaved red green blue, as kernels read pictures.

use super::jpeg::Rect;
use super::resample::Planes;

/// Writes the rectangle `part` of a picture, of which `planes` hold at least that, rows without gaps.
///
/// Panics if `rgb_hwc` has another size or the planes do not contain the rectangle.
pub fn interleave(planes: &Planes, part: Rect, rgb_hwc: &mut [u8]) {
    assert_eq!(
        rgb_hwc.len(),
        3 * part.width * part.height,
        "size of the picture's part"
    );
    assert!(
        planes.columns.start <= part.x && part.right() <= planes.columns.end,
        "columns of the planes"
    );
    let first = part.x - planes.columns.start;
    for (y, row) in (part.y..part.bottom()).zip(rgb_hwc.chunks_exact_mut(3 * part.width)) {
        interleave_planes(
            [0, 1, 2].map(|channel| &planes.row(channel, y)[first..][..part.width]),
            row,
        );
    }
}

/// The same of red, green and blue values without gaps, three times as many in all.
pub fn interleave_planes(rgb: [&[u8]; 3], to: &mut [u8]) {
    assert!(
        rgb.iter().all(|plane| 3 * plane.len() == to.len()),
        "sizes of the planes"
    );
    let done = vectors(rgb, to);
    let [r, g, b] = rgb.map(|line| &line[done..]);
    let pixels = to[3 * done..].as_chunks_mut::<3>().0;
    for (to, ((r, g), b)) in pixels.iter_mut().zip(r.iter().zip(g).zip(b)) {
        *to = [*r, *g, *b];
    }
}

/// Interleaves the pixels that fill whole vectors, if the machine has such instructions; how many those are.
fn vectors(rgb: [&[u8]; 3], row: &mut [u8]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("ssse3") {
        // SAFETY: the instructions are there.
        return unsafe { x86::sixteens(rgb, row) };
    }
    let _ = (rgb, row);
    0
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Pixels of a vector.
    const PIXELS: usize = 16;

    /// Which byte of a vector of R, G or B goes to each byte of three vectors of pixels; a negative number: none.
    const PLACES: [[[i8; PIXELS]; 3]; 3] = {
        let mut places = [[[-1; PIXELS]; 3]; 3];
        let mut at = 0;
        while at < 3 * PIXELS {
            places[at % 3][at / PIXELS][at % PIXELS] = (at / 3) as i8;
            at += 1;
        }
        places
    };

    /// All whole sixteens of pixels; how many those are.
    #[target_feature(enable = "ssse3")]
    pub fn sixteens(rgb: [&[u8]; 3], row: &mut [u8]) -> usize {
        let count = rgb[0].len() / PIXELS;
        let [r, g, b] = rgb.map(|line| line.as_chunks::<PIXELS>().0);
        let places = PLACES.map(|of_channel| of_channel.map(|places| load(&places.map(|place| place as u8))));
        let chunks = row.as_chunks_mut::<PIXELS>().0.chunks_exact_mut(3);
        for (to, ((r, g), b)) in chunks.zip(r.iter().zip(g).zip(b)) {
            let channels = [load(r), load(g), load(b)];
            for (third, to) in to.iter_mut().enumerate() {
                let of = |channel: usize| _mm_shuffle_epi8(channels[channel], places[channel][third]);
                let pixels = _mm_or_si128(of(0), _mm_or_si128(of(1), of(2)));
                // SAFETY: sixteen bytes, wherever they start.
                unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), pixels) };
            }
        }
        PIXELS * count
    }

    #[inline]
    #[target_feature(enable = "ssse3")]
    fn load(bytes: &[u8; PIXELS]) -> __m128i {
        // SAFETY: sixteen bytes, wherever they start.
        unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_interleaved_row_by_row() {
        let mut planes = Planes::default();
        planes.reshape(3..40, 5..9);
        for channel in 0..3 {
            for y in 5..9 {
                for (x, value) in planes.row_mut(channel, y)[..37].iter_mut().enumerate() {
                    *value = (channel * 80 + y * 7 + x) as u8;
                }
            }
        }
        for part in [
            Rect {
                x: 3,
                y: 5,
                width: 37,
                height: 4,
            },
            Rect {
                x: 5,
                y: 6,
                width: 33,
                height: 2,
            },
            Rect {
                x: 39,
                y: 8,
                width: 1,
                height: 1,
            },
        ] {
            let mut rgb = vec![0; 3 * part.width * part.height];
            interleave(&planes, part, &mut rgb);
            for (at, value) in rgb.iter().enumerate() {
                let (channel, pixel) = (at % 3, at / 3);
                let (x, y) = (part.x + pixel % part.width, part.y + pixel / part.width);
                assert_eq!(*value, (channel * 80 + y * 7 + x - 3) as u8, "{part:?} at {at}");
            }
        }
    }
}
