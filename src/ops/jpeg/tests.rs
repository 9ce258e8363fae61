//! Our decoder against libjpeg-turbo, and its kernels against their definition in plain Rust; bit for bit.

use turbojpeg::raw;

use super::kernels::{Chroma, ChromaLine, Kernels, Steps};
use super::*;
use crate::ops::resample::Planes;

/// Numbers without a pattern (SplitMix64).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn rect(&mut self, width: usize, height: usize) -> Rect {
        let (x, y) = (self.below(width), self.below(height));
        let (width, height) = (1 + self.below(width - x), 1 + self.below(height - y));
        Rect { x, y, width, height }
    }
}

#[derive(Clone, Copy, Debug)]
struct File {
    width: usize,
    height: usize,
    sampling: raw::TJSAMP,
    quality: i32,
    /// Parameters of the compressor that are switched on.
    coding: &'static [raw::TJPARAM],
    /// MCUs between restart markers.
    restart: i32,
}

const PLAIN_SAMPLINGS: [raw::TJSAMP; 4] = [
    raw::TJSAMP_TJSAMP_420,
    raw::TJSAMP_TJSAMP_422,
    raw::TJSAMP_TJSAMP_444,
    raw::TJSAMP_TJSAMP_GRAY,
];
const OTHER_SAMPLINGS: [raw::TJSAMP; 3] = [raw::TJSAMP_TJSAMP_440, raw::TJSAMP_TJSAMP_411, raw::TJSAMP_TJSAMP_441];
const BASELINE: &[raw::TJPARAM] = &[];
const OPTIMIZED: &[raw::TJPARAM] = &[raw::TJPARAM_TJPARAM_OPTIMIZE];

impl File {
    /// Any plain file of up to 70 x 70 pixels, and not less than 8 across.
    fn draw(draw: &mut Draw) -> File {
        File {
            width: 8 + draw.below(63),
            height: 1 + draw.below(70),
            sampling: PLAIN_SAMPLINGS[draw.below(4)],
            quality: [1, 20, 50, 75, 90, 95, 100][draw.below(7)],
            coding: [BASELINE, OPTIMIZED][draw.below(2)],
            restart: [0, 0, 1, 2, 7][draw.below(5)],
        }
    }

    /// Something between smooth waves and pure noise.
    fn pixels(&self, draw: &mut Draw) -> Vec<u8> {
        let (noise, slope) = ([0, 8, 60, 255][draw.below(4)], draw.below(9));
        let value = |at: usize| {
            let (y, x, channel) = (at / 3 / self.width, at / 3 % self.width, at % 3);
            let wave = (x * slope + y * 5 * channel + 90 * channel) % 512;
            (wave.min(511 - wave) + draw.below(noise + 1)).min(255) as u8
        };
        (0..self.width * self.height * 3).map(value).collect()
    }

    fn encode(&self, draw: &mut Draw) -> Vec<u8> {
        let pixels = self.pixels(draw);
        let mut buffer = std::ptr::null_mut();
        let mut size = 0;
        // SAFETY: the handle is live between its making and its end; `pixels` has the size announced; the buffer, which the
        // library allocates, is copied while it lives and freed once.
        unsafe {
            let handle = raw::tj3Init(raw::TJINIT_TJINIT_COMPRESS as i32);
            let set = |parameter: raw::TJPARAM, value: i32| {
                assert_eq!(raw::tj3Set(handle, parameter as i32, value), 0, "{self:?}");
            };
            set(raw::TJPARAM_TJPARAM_SUBSAMP, self.sampling);
            set(raw::TJPARAM_TJPARAM_QUALITY, self.quality);
            set(raw::TJPARAM_TJPARAM_RESTARTBLOCKS, self.restart);
            self.coding.iter().for_each(|parameter| set(*parameter, 1));
            let (width, height) = (self.width as i32, self.height as i32);
            let format = raw::TJPF_TJPF_RGB;
            let code = raw::tj3Compress8(
                handle,
                pixels.as_ptr(),
                width,
                width * 3,
                height,
                format,
                &mut buffer,
                &mut size,
            );
            assert_eq!(code, 0, "{self:?}");
            let encoded = std::slice::from_raw_parts(buffer, size as usize).to_vec();
            raw::tj3Free(buffer.cast());
            raw::tj3Destroy(handle);
            encoded
        }
    }
}

/// The whole picture as libjpeg-turbo gives it, with or without a warning.
fn reference(jpeg: &[u8]) -> Result<(JpegHeader, Vec<u8>), String> {
    let mut turbo = Decompressor::new().unwrap();
    let header = turbo.read_header(jpeg)?;
    let mut rgb = vec![0; header.width * header.height * 3];
    turbo.decode(jpeg, &header, Rect::whole(header.width, header.height), &mut rgb)?;
    Ok((header, rgb))
}

/// Decodes a rectangle and holds it against the whole. None: our decoder declines.
fn decode_and_compare(
    what: &str,
    decoder: &mut PlainDecoder,
    jpeg: &[u8],
    rect: Rect,
    (header, rgb): &(JpegHeader, Vec<u8>),
) -> Option<()> {
    let file = PlainFile::open(jpeg)?;
    assert_eq!(file.size(), (header.width, header.height), "{what}");
    let mut planes = Planes::default();
    decoder.decode(&file, rect, &mut planes)?;
    for y in rect.y..rect.bottom() {
        for channel in 0..3 {
            let row = &planes.row(channel, y)[rect.x - planes.columns.start..][..rect.width];
            let expected = rgb[(y * header.width + rect.x) * 3..].iter().skip(channel).step_by(3);
            assert!(
                row.iter().eq(expected.take(rect.width)),
                "{what}: row {y} of channel {channel} in {rect:?}"
            );
        }
    }
    Some(())
}

fn decoders() -> Vec<(Kernels, PlainDecoder)> {
    let with = |kernels| (kernels, PlainDecoder::with(kernels));
    Kernels::available().into_iter().map(with).collect()
}

#[test]
fn every_rectangle_is_libjpeg_turbos() {
    let mut draw = Draw(1);
    let mut decoders = decoders();
    for number in 0..700 {
        let file = File::draw(&mut draw);
        let jpeg = file.encode(&mut draw);
        let whole = reference(&jpeg).unwrap();
        for trial in 0..5 {
            let rect = match trial {
                0 => Rect::whole(file.width, file.height),
                _ => draw.rect(file.width, file.height),
            };
            for (kernels, decoder) in &mut decoders {
                let what = format!("{number}: {file:?} with {kernels:?}");
                let decoded = decode_and_compare(&what, decoder, &jpeg, rect, &whole);
                assert_eq!(decoded, Some(()), "{what} is a plain file");
            }
        }
    }
}

#[test]
fn larger_pictures_too() {
    let mut draw = Draw(2);
    let mut decoders = decoders();
    for sampling in PLAIN_SAMPLINGS {
        for (width, height, quality) in [(401, 203, 90), (640, 96, 97), (129, 640, 60)] {
            let file = File {
                width,
                height,
                quality,
                sampling,
                coding: BASELINE,
                restart: 0,
            };
            let jpeg = file.encode(&mut draw);
            let whole = reference(&jpeg).unwrap();
            for _ in 0..6 {
                let rect = draw.rect(width, height);
                for (kernels, decoder) in &mut decoders {
                    let what = format!("{file:?} with {kernels:?}");
                    assert_eq!(decode_and_compare(&what, decoder, &jpeg, rect, &whole), Some(()));
                }
            }
        }
    }
}

#[test]
fn what_is_not_plain_is_declined() {
    let mut draw = Draw(3);
    let plain = File {
        width: 50,
        height: 40,
        sampling: raw::TJSAMP_TJSAMP_420,
        quality: 80,
        coding: BASELINE,
        restart: 0,
    };
    let mut others: Vec<File> = OTHER_SAMPLINGS.map(|sampling| File { sampling, ..plain }).to_vec();
    others.extend((1..8).map(|width| File { width, ..plain }));
    for parameter in [&[raw::TJPARAM_TJPARAM_PROGRESSIVE], &[raw::TJPARAM_TJPARAM_ARITHMETIC]] {
        others.extend(PLAIN_SAMPLINGS.map(|sampling| File {
            sampling,
            coding: parameter,
            ..plain
        }));
    }
    for file in others {
        assert!(PlainFile::open(&file.encode(&mut draw)).is_none(), "{file:?}");
    }
    // Colours that are not YCbCr, as an Adobe marker or the components' names may say.
    let jpeg = plain.encode(&mut draw);
    assert!(PlainFile::open(&jpeg).is_some());
    let without_jfif = [&jpeg[..2], &jpeg[20..]].concat();
    assert!(PlainFile::open(&without_jfif).is_some());
    let adobe = |transform: u8| {
        let marker = *b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0";
        [&jpeg[..2], &marker, &[transform], &jpeg[20..]].concat()
    };
    assert!(PlainFile::open(&adobe(1)).is_some());
    assert!(PlainFile::open(&adobe(0)).is_none());
    assert!(PlainFile::open(&adobe(2)).is_none());
}

/// Whatever is not declined is what libjpeg-turbo makes of it, also where it only guesses.
#[test]
fn damaged_files_are_declined_or_decoded_as_by_libjpeg_turbo() {
    let mut draw = Draw(4);
    let mut decoders = decoders();
    let (mut accepted, mut declined) = (0, 0);
    for number in 0..48 {
        let file = File::draw(&mut draw);
        let jpeg = file.encode(&mut draw);
        for end in (0..jpeg.len()).step_by(7) {
            let Some(cut) = PlainFile::open(&jpeg[..end]) else {
                continue;
            };
            let rect = draw.rect(file.width, file.height);
            for (_, decoder) in &mut decoders {
                let decoded = decoder.decode(&cut, rect, &mut Planes::default());
                assert_eq!(decoded, None, "{file:?} cut at {end}");
            }
        }
        for trial in 0..150 {
            let mut damaged = jpeg.clone();
            for _ in 0..1 + trial % 3 {
                // Half of them where the header is.
                let at = draw.below(if trial % 2 == 0 {
                    jpeg.len().min(623)
                } else {
                    jpeg.len()
                });
                damaged[at] = match draw.below(3) {
                    0 => draw.next() as u8,
                    1 => 0xff,
                    _ => damaged[at] ^ (1 << draw.below(8)),
                };
            }
            let Some(opened) = PlainFile::open(&damaged) else {
                declined += 1;
                continue;
            };
            let (width, height) = opened.size();
            if width * height > 1 << 20 {
                continue;
            }
            let rect = draw.rect(width, height);
            let whole = reference(&damaged);
            for (kernels, decoder) in &mut decoders {
                let what = format!("{number}, {trial}: {file:?} with {kernels:?}");
                let decoded = match &whole {
                    Ok(whole) => decode_and_compare(&what, decoder, &damaged, rect, whole),
                    Err(cause) => {
                        let decoded = decoder.decode(&opened, rect, &mut Planes::default());
                        assert_eq!(decoded, None, "{what}: {cause}");
                        None
                    }
                };
                match decoded {
                    Some(()) => accepted += 1,
                    None => declined += 1,
                }
            }
        }
    }
    assert!(
        accepted > 100 && declined > 100,
        "{accepted} accepted, {declined} declined"
    );
}

/// Codes that no encoder would choose, and data at random: runs of zeros beyond the block's end, codes that are not there.
#[test]
fn odd_tables_are_read_as_by_libjpeg_turbo() {
    let mut draw = Draw(7);
    let mut decoders = decoders();
    let mut accepted = 0;
    for number in 0..3000 {
        let (width, height) = (8 * (1 + draw.below(4)), 8 * (1 + draw.below(3)));
        let mut jpeg = b"\xff\xd8\xff\xdb\0\x43\0".to_vec();
        jpeg.extend((0..64).map(|_| 1 + draw.below(40) as u8));
        jpeg.extend([0xff, 0xc0, 0, 11, 8, 0, height as u8, 0, width as u8, 1, 1, 0x11, 0]);
        for class in [0, 0x10] {
            let mut counts = [0u8; 16];
            let (mut free, mut symbols) = (2usize, 0);
            for count in &mut counts {
                // One code of each length stays free, for the longer ones.
                let most = 1 + draw.below(4);
                *count = draw.below(free.min(most)) as u8;
                symbols += *count as usize;
                free = (free - *count as usize).min(100) * 2;
            }
            if symbols == 0 {
                (counts[0], symbols) = (1, 1);
            }
            jpeg.extend([0xff, 0xc4, 0, 19 + symbols as u8, class]);
            jpeg.extend(counts);
            let often: [u8; 6] = [0x00, 0xf0, 0xf0, 0x01, 0x12, 0x26];
            jpeg.extend((0..symbols).map(|_| match (class, draw.below(3)) {
                (0, _) => draw.below(12) as u8,
                (_, 0) => draw.next() as u8,
                _ => often[draw.below(6)],
            }));
        }
        jpeg.extend([0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0]);
        let bits = [0xff, 0x55, 0x0f, 0x01][draw.below(4)];
        jpeg.extend((0..700).map(|_| draw.next() as u8 & bits & 0xfe));
        jpeg.extend([0xff, 0xd9]);
        let Ok(whole) = reference(&jpeg) else { continue };
        for _ in 0..3 {
            let rect = draw.rect(width, height);
            for (kernels, decoder) in &mut decoders {
                let what = format!("{number} with {kernels:?}");
                accepted += decode_and_compare(&what, decoder, &jpeg, rect, &whole).is_some() as u32;
            }
        }
    }
    assert!(accepted > 300, "only {accepted} were accepted");
}

#[test]
fn every_kernel_transforms_blocks_as_the_definition_does() {
    let mut draw = Draw(5);
    for number in 0..1500 {
        let largest = [1, 2, 30, 255, 65535][draw.below(5)];
        let steps = Steps(std::array::from_fn(|_| (1 + draw.below(largest)) as u16 as i16));
        let mut blocks = [[0i16; 72]; 8];
        for block in &mut blocks {
            let (coefficients, places, size) = (draw.below(64), [1, 8, 64][draw.below(3)], draw.below(16));
            for _ in 0..coefficients {
                block[draw.below(places)] = (draw.next() as i16) >> size;
            }
        }
        let mut expected = [0; 8 * 70];
        Kernels::Scalar.transform(&blocks, &steps, &mut expected, 70);
        for kernels in Kernels::available() {
            let mut samples = [0; 8 * 70];
            kernels.transform(&blocks, &steps, &mut samples, 70);
            for y in 0..8 {
                let row = y * 70..y * 70 + 64;
                assert_eq!(samples[row.clone()], expected[row], "{number}, row {y}, {kernels:?}");
            }
        }
    }
}

#[test]
fn every_kernel_converts_every_colour_as_the_definition_does() {
    let counting: Vec<u8> = (0..320).map(|x| x as u8).collect();
    for kernels in Kernels::available() {
        for (blue, luma) in (0..256).flat_map(|blue| [0, 90, 255].map(|luma| (blue as u8, luma))) {
            let chroma = Chroma::Samples([&[blue; 320], &counting]);
            let convert = |kernels: Kernels| {
                let mut rgb = [[0; 320]; 3];
                kernels.to_rgb(&[luma; 320], chroma, 256, rgb.each_mut().map(|row| row.as_mut_slice()));
                rgb.map(|row| row[..256].to_vec())
            };
            assert_eq!(convert(kernels), convert(Kernels::Scalar), "{kernels:?} {luma} {blue}");
        }
    }
}

#[test]
fn every_kernel_interpolates_as_the_definition_does() {
    let mut draw = Draw(6);
    for width in (1..80).chain([256, 301]) {
        let mut row = || -> Vec<u8> { (0..2 * width + 128).map(|_| draw.next() as u8).collect() };
        let (luma, chroma) = (row(), [[row(), row()], [row(), row()]]);
        let columns = (width / 3, width);
        for rounding in [Chroma::FULL_HEIGHT, Chroma::HALF_HEIGHT] {
            let convert = |kernels: Kernels| {
                let lines = [0, 1].map(|component: usize| {
                    let mut line = ChromaLine::default();
                    let rows = [&chroma[component][0][..], &chroma[component][1]];
                    kernels.blend_rows(&mut line, rows, 0, columns, width);
                    line
                });
                let pixels = 2 * (columns.1 - columns.0);
                let mut rgb = [0, 1, 2].map(|_| vec![0; pixels + 64]);
                let chroma = Chroma::Lines([&lines[0], &lines[1]], rounding);
                kernels.to_rgb(&luma, chroma, pixels, rgb.each_mut().map(|row| row.as_mut_slice()));
                rgb.map(|row| row[..pixels].to_vec())
            };
            for kernels in Kernels::available() {
                assert_eq!(convert(kernels), convert(Kernels::Scalar), "{kernels:?} at {width}");
            }
        }
    }
}
