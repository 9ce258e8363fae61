//! Decoding and transforms against what Pillow and torchvision made of the same files, bit for bit.

mod common;

use std::path::Path;

use dtrain::data::augment::SampleName;
use dtrain::data::decode::{Decoder, decode};
use dtrain::data::preprocessor::Preprocessor;
use dtrain::data::transform::{Normalization, Transform, Workplace};
use dtrain::data::{Columns, Dataset};
use dtrain::ops::jpeg::{Decompressor, PlainDecoder, PlainFile, Rect};
use dtrain::ops::resample::{Filter, Planes};
use dtrain::recipe::Decode;
use dtrain::rng::{Purpose, Stream};
use safetensors::SafeTensors;
use serde::Deserialize;
use turbojpeg::{Compressor, PixelFormat, Subsamp};

#[derive(Deserialize)]
struct Case {
    file: String,
    size_wh: (usize, usize),
    rgb_sha256: String,
    crop_top_left_height_width: [usize; 4],
    flip: bool,
}

fn cases(folder: &Path) -> Vec<Case> {
    serde_json::from_slice(&std::fs::read(folder.join("meta.json")).unwrap()).unwrap()
}

#[test]
fn every_file_decodes_to_pillows_rgb() {
    let Some(folder) = common::shared("parity/transforms") else {
        return;
    };
    let mut wrong = Vec::new();
    for case in cases(&folder) {
        match decode(&std::fs::read(folder.join(&case.file)).unwrap()) {
            Ok(pixels) => {
                assert_eq!((pixels.width, pixels.height), case.size_wh, "{}", case.file);
                if sha256_hex(&pixels.rgb_hwc) != case.rgb_sha256 {
                    wrong.push(case.file);
                }
            }
            Err(cause) => wrong.push(format!("{}: {cause}", case.file)),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_transform_gives_the_references_bytes() {
    let Some(folder) = common::shared("parity/transforms") else {
        return;
    };
    let expected = std::fs::read(folder.join("expected_u8_hwc.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&expected).unwrap();
    let normalization = || Normalization::of_tensor([0.5; 3], [0.5; 3]);
    let vit = Preprocessor::parse(r#"{"image_processor_type": "ViTImageProcessor", "size": 224}"#).unwrap();
    let name = SampleName {
        seed: 0,
        epoch: 0,
        sample: 0,
    };
    let mut workplace = Workplace::new().unwrap();
    let mut wrong = Vec::new();
    for case in cases(&folder) {
        let bytes = std::fs::read(folder.join(&case.file)).unwrap();
        let [y, x, height, width] = case.crop_top_left_height_width;
        let transforms = [
            (
                "train_crop",
                Transform::resized_crop(Rect { x, y, width, height }, case.flip, (224, 224), normalization()),
            ),
            (
                "resize224_center224",
                Transform::resize_center(224, Filter::Bilinear, (224, 224), normalization()),
            ),
            ("squash224_bilinear", Transform::of_processor(&vit)),
            (
                "shortest256_bicubic_center224",
                Transform::resize_center(256, Filter::Bicubic, (224, 224), normalization()),
            ),
        ];
        for (what, transform) in transforms {
            let expected = expected.tensor(&format!("{}.{what}", case.file)).unwrap();
            let got = transform.apply_u8(&bytes, name, &mut workplace).unwrap();
            let largest = got.iter().zip(expected.data()).map(|(a, b)| a.abs_diff(*b)).max();
            if got.len() != expected.data().len() || largest != Some(0) {
                wrong.push(format!("{} {what}: largest difference {largest:?}", case.file));
            }
            // The normalized sample holds the same values.
            let mut sample_chw = vec![f32::NAN; transform.sample_len()];
            transform.apply(&bytes, name, &mut workplace, &mut sample_chw).unwrap();
            for (at, &value) in sample_chw.iter().enumerate() {
                let (channel, pixel) = (at / (224 * 224), at % (224 * 224));
                let by_hand = (got[pixel * 3 + channel] as f32 / 255.0 - 0.5) / 0.5;
                assert!(
                    (value - by_hand).abs() < 1e-6,
                    "{} {what} at {at}: {value}, not {by_hand}",
                    case.file
                );
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Waves with noise, `[height, width, 3]`.
fn drawn(width: usize, height: usize) -> Vec<u8> {
    let noise = Stream::new(1, 0, (width * height) as u64, Purpose::Augment(0));
    let value = |at: usize| {
        let (y, x, channel) = (at / 3 / width, at / 3 % width, at % 3);
        let wave = (x as f64 * 0.13 + channel as f64).sin() + (y as f64 * 0.07 * (1 + channel) as f64).cos();
        (128.0 + 55.0 * wave + 60.0 * (noise.uniform(at as u32) - 0.5)) as u8
    };
    (0..width * height * 3).map(value).collect()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Coding {
    Baseline,
    OptimizedTables,
    Progressive,
    Arithmetic,
}

fn jpeg(width: usize, height: usize, subsamp: Subsamp, coding: Coding, quality: i32) -> Vec<u8> {
    let pixels = drawn(width, height);
    let mut compressor = Compressor::new().unwrap();
    compressor.set_subsamp(subsamp).unwrap();
    compressor.set_quality(quality).unwrap();
    compressor.set_optimize(coding == Coding::OptimizedTables).unwrap();
    compressor.set_progressive(coding == Coding::Progressive).unwrap();
    compressor.set_arithmetic(coding == Coding::Arithmetic).unwrap();
    let image = turbojpeg::Image {
        pixels: pixels.as_slice(),
        width,
        height,
        pitch: width * 3,
        format: PixelFormat::RGB,
    };
    compressor.compress_to_vec(image).unwrap()
}

const SUBSAMPLINGS: [Subsamp; 5] = [
    Subsamp::Sub2x2,
    Subsamp::Sub2x1,
    Subsamp::None,
    Subsamp::Gray,
    Subsamp::Sub1x2,
];
const CODINGS: [Coding; 4] = [
    Coding::Baseline,
    Coding::OptimizedTables,
    Coding::Progressive,
    Coding::Arithmetic,
];

/// Holds rectangles of a picture against the whole, which was decoded otherwise.
fn rectangles_equal_the_whole(what: &str, bytes: &[u8], decoder: &mut Decoder, rectangles: u32) {
    let whole = decode(bytes).unwrap();
    let draw = Stream::new(2, 0, bytes.len() as u64, Purpose::Crop);
    for number in 0..rectangles {
        let below = |index: u32, n: usize| draw.below(4 * number + index, n as u64) as usize;
        let (mut x, mut y) = (below(0, whole.width), below(1, whole.height));
        if number % 3 == 0 {
            (x, y) = (x / 8 * 8, y / 8 * 8); // on the edges of blocks
        }
        let rect = Rect {
            x,
            y,
            width: 1 + below(2, whole.width - x),
            height: 1 + below(3, whole.height - y),
        };
        let planes = decoder.region(bytes, |width, height| {
            assert_eq!((width, height), (whole.width, whole.height));
            rect
        });
        let planes = planes.unwrap();
        assert!(planes.columns.start <= rect.x && rect.right() <= planes.columns.end);
        for y in rect.y..rect.bottom() {
            for channel in 0..3 {
                let row = &planes.row(channel, y)[rect.x - planes.columns.start..][..rect.width];
                let expected = whole.rgb_hwc[(y * whole.width + rect.x) * 3..]
                    .iter()
                    .skip(channel)
                    .step_by(3);
                assert!(
                    row.iter().eq(expected.take(rect.width)),
                    "{what}: row {y} of channel {channel} in {rect:?}"
                );
            }
        }
    }
}

#[test]
fn a_rectangle_is_a_part_of_the_whole_picture() {
    let mut decoder = Decoder::new().unwrap();
    for subsampling in SUBSAMPLINGS {
        for coding in CODINGS {
            for (width, height) in [(211, 150), (64, 48), (17, 33)] {
                let what = format!("{width} x {height} {subsampling:?} {coding:?}");
                let bytes = jpeg(width, height, subsampling, coding, 90);
                rectangles_equal_the_whole(&what, &bytes, &mut decoder, 12);
            }
        }
    }
    let Some(folder) = common::shared("parity/transforms") else {
        return;
    };
    for case in cases(&folder) {
        let bytes = std::fs::read(folder.join(&case.file)).unwrap();
        rectangles_equal_the_whole(&case.file, &bytes, &mut decoder, 6);
    }
}

/// Every picture of real datasets: a crop as training draws it, decoded by us, against libjpeg-turbo's whole decode.
#[test]
fn crops_of_real_photographs_are_libjpeg_turbos() {
    let (mut turbo, mut plain) = (Decompressor::new().unwrap(), PlainDecoder::default());
    let (mut planes, mut pixels) = (Planes::default(), Vec::new());
    let mut declined = Vec::new();
    for (folder, split) in [("data/food10", "train[:600]"), ("data/cats_dogs", "train[:200]")] {
        let Some(folder) = common::shared(folder) else {
            return;
        };
        let dataset = Dataset::open(&folder, split, &Columns::default()).unwrap();
        for row in 0..dataset.len() {
            let (bytes, name) = (dataset.encoded(row).unwrap(), format!("{split} {row}"));
            let Ok(header) = turbo.read_header(&bytes) else {
                continue; // not a JPEG file
            };
            let sample = SampleName {
                seed: 1,
                epoch: 0,
                sample: row as u64,
            };
            let rect = sample.crop(header.width, header.height);
            let file = PlainFile::open(&bytes);
            if file.and_then(|file| plain.decode(&file, rect, &mut planes)).is_none() {
                declined.push(name);
                continue;
            }
            pixels.resize(header.width * header.height * 3, 0);
            turbo
                .decode(&bytes, &header, Rect::whole(header.width, header.height), &mut pixels)
                .unwrap();
            for y in rect.y..rect.bottom() {
                for channel in 0..3 {
                    let row = &planes.row(channel, y)[rect.x - planes.columns.start..][..rect.width];
                    let expected = pixels[(y * header.width + rect.x) * 3..]
                        .iter()
                        .skip(channel)
                        .step_by(3);
                    assert!(
                        row.iter().eq(expected.take(rect.width)),
                        "{name}: row {y} of channel {channel} in {rect:?}"
                    );
                }
            }
        }
    }
    assert!(declined.len() < 40, "declined, but should be plain: {declined:?}");
    println!("declined: {declined:?}");
}

/// The files of a fresh clone and, if it is there, the reference's WebP.
fn small_files() -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for coding in CODINGS {
        for subsampling in SUBSAMPLINGS {
            let bytes = jpeg(49, 35, subsampling, coding, 80);
            files.push((format!("{coding:?} {subsampling:?} JPEG"), bytes));
        }
    }
    let image = image::RgbImage::from_raw(49, 35, drawn(49, 35)).unwrap();
    for format in [
        image::ImageFormat::Png,
        image::ImageFormat::Bmp,
        image::ImageFormat::Tiff,
    ] {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        files.push((format!("{format:?}"), bytes.into_inner()));
    }
    let rgba = image::DynamicImage::from(image).to_rgba8();
    let mut gif = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut gif);
    encoder.encode_frame(image::Frame::new(rgba)).unwrap();
    drop(encoder);
    files.push(("GIF".into(), gif));
    if let Some(webp) = common::shared("parity/transforms/25_food-lossy.webp") {
        files.push(("WebP".into(), std::fs::read(webp).unwrap()));
    }
    files
}

#[test]
fn damaged_files_are_refused_or_decoded_and_never_cause_a_panic() {
    let mut decoder = Decoder::new().unwrap();
    let mut try_it = |bytes: &[u8]| {
        let middle = |width: usize, height: usize| Rect {
            x: width / 3,
            y: height / 3,
            width: (width / 3).max(1),
            height: (height / 3).max(1),
        };
        decoder.region(bytes, middle).map(drop)
    };
    for (what, bytes) in small_files() {
        assert_eq!(try_it(&bytes), Ok(()), "{what}");
        let draw = Stream::new(3, 0, bytes.len() as u64, Purpose::Augment(1));
        for number in 0..60 {
            let end = draw.below(number, bytes.len() as u64) as usize;
            let decoded = try_it(&bytes[..end]).is_ok();
            assert!(
                !(decoded && what.ends_with("JPEG") && end + 2 < bytes.len()),
                "{what} cut at {end} was decoded"
            );
        }
        for number in 0..120 {
            let mut damaged = bytes.clone();
            for flip in 0..1 + number % 3 {
                let at = draw.below(100 + 8 * number + flip, bytes.len() as u64 * 8) as usize;
                // Half of them in the first quarter, where headers are.
                let at = if number % 2 == 0 { at / 4 } else { at };
                damaged[at / 8] ^= 1 << (at % 8);
            }
            let _ = try_it(&damaged);
        }
    }
    for no_picture in [b"".as_slice(), b"\xff\xd8\xff", b"<html>"] {
        assert!(try_it(no_picture).is_err());
    }
}

/// FIPS 180-4, for the checksums of the reference alone.
fn sha256_hex(message: &[u8]) -> String {
    let roots = |power: f64, n: usize| -> Vec<u32> {
        let primes = (2u32..).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0));
        primes
            .take(n)
            .map(|p| ((p as f64).powf(power).fract() * 4_294_967_296.0) as u32)
            .collect()
    };
    let (k, mut h) = (roots(1.0 / 3.0, 64), roots(0.5, 8));
    let mut padded = message.to_vec();
    padded.push(0x80);
    padded.resize((padded.len() + 8).next_multiple_of(64) - 8, 0);
    padded.extend((message.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks_exact(64) {
        let mut w: Vec<u32> = block
            .chunks_exact(4)
            .map(|b| u32::from_be_bytes(b.try_into().unwrap()))
            .collect();
        for t in 16..64 {
            let s0 = w[t - 15].rotate_right(7) ^ w[t - 15].rotate_right(18) ^ (w[t - 15] >> 3);
            let s1 = w[t - 2].rotate_right(17) ^ w[t - 2].rotate_right(19) ^ (w[t - 2] >> 10);
            w.push(w[t - 16].wrapping_add(s0).wrapping_add(w[t - 7]).wrapping_add(s1));
        }
        let mut v = h.clone();
        for t in 0..64 {
            let s1 = v[4].rotate_right(6) ^ v[4].rotate_right(11) ^ v[4].rotate_right(25);
            let choice = (v[4] & v[5]) ^ (!v[4] & v[6]);
            let t1 = v[7]
                .wrapping_add(s1)
                .wrapping_add(choice)
                .wrapping_add(k[t])
                .wrapping_add(w[t]);
            let s0 = v[0].rotate_right(2) ^ v[0].rotate_right(13) ^ v[0].rotate_right(22);
            let majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
            v.rotate_right(1);
            v[4] = v[4].wrapping_add(t1);
            v[0] = t1.wrapping_add(s0).wrapping_add(majority);
        }
        for (h, v) in h.iter_mut().zip(v) {
            *h = h.wrapping_add(v);
        }
    }
    h.iter().map(|word| format!("{word:08x}")).collect()
}

#[test]
fn the_checksum_is_sha256() {
    assert_eq!(
        sha256_hex(b"abc"),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
}

/// `fixtures/food_crops.py` made the crops with Pillow.
#[test]
fn random_crops_of_photographs_are_pillows() {
    let Some(folder) = common::shared("data/food10") else {
        return;
    };
    let dataset = Dataset::open(&folder, "train", &Columns::default()).unwrap();
    let name = SampleName {
        seed: 0,
        epoch: 0,
        sample: 0,
    };
    let mut workplace = Workplace::new().unwrap();
    let (mut wrong, mut crops) = (Vec::new(), 0);
    for line in include_str!("fixtures/food_crops.csv").lines() {
        let fields: Vec<&str> = line.split(',').collect();
        let [row, x, y, width, height, flip] = [0, 1, 2, 3, 4, 5].map(|at| fields[at].parse::<usize>().unwrap());
        let normalization = Normalization::of_tensor([0.5; 3], [0.5; 3]);
        let rect = Rect { x, y, width, height };
        let transform = Transform::resized_crop(rect, flip == 1, (224, 224), normalization);
        let got = transform.apply_u8(&dataset.encoded(row).unwrap(), name, &mut workplace);
        if sha256_hex(&got.unwrap()) != fields[6] {
            wrong.push(line);
        }
        crops += 1;
    }
    assert!(
        crops == 500 && wrong.is_empty(),
        "{} of {crops}: {wrong:#?}",
        wrong.len()
    );
}

/// Mean difference of two samples in levels of u8.
fn mean_difference(a: &[u8], b: &[u8]) -> f64 {
    let sum: u64 = a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.len() as f64
}

/// Exact and fast sample of a crop.
fn both(bytes: &[u8], crop: Rect, size: usize, workplace: &mut Workplace) -> [Vec<u8>; 2] {
    let name = SampleName {
        seed: 0,
        epoch: 0,
        sample: 0,
    };
    [Decode::Exact, Decode::Fast].map(|decode| {
        let normalization = Normalization::of_tensor([0.5; 3], [0.5; 3]);
        let transform = Transform::resized_crop(crop, false, (size, size), normalization).decoded(decode);
        transform.apply_u8(bytes, name, workplace).unwrap()
    })
}

/// A picture that is smooth enough for a difference to mean something: waves, in all sizes and samplings, upright and
/// turned. A crop that lay half a pixel wrong would differ by several levels.
#[test]
fn fast_decoding_differs_little() {
    let mut workplace = Workplace::new().unwrap();
    let waves = |width: usize, height: usize, subsamp: Subsamp| {
        let value = |at: usize| {
            let (y, x, channel) = (at / 3 / width, at / 3 % width, at % 3);
            let wave = (x as f64 * 0.05 + channel as f64).sin() + (y as f64 * 0.03 * (1 + channel) as f64).cos();
            (128.0 + 60.0 * wave) as u8
        };
        let pixels: Vec<u8> = (0..width * height * 3).map(value).collect();
        let image = turbojpeg::Image {
            pixels: pixels.as_slice(),
            width,
            height,
            pitch: width * 3,
            format: PixelFormat::RGB,
        };
        turbojpeg::compress(image, 90, subsamp).unwrap().to_vec()
    };
    for subsamp in [Subsamp::Sub2x2, Subsamp::Sub2x1, Subsamp::None, Subsamp::Gray] {
        let bytes = waves(613, 467, subsamp);
        for (size, crop) in [
            (224, Rect::whole(613, 467)),
            (
                100,
                Rect {
                    x: 3,
                    y: 5,
                    width: 401,
                    height: 403,
                },
            ),
            (
                100,
                Rect {
                    x: 212,
                    y: 66,
                    width: 401,
                    height: 401,
                },
            ),
            (
                50,
                Rect {
                    x: 101,
                    y: 33,
                    width: 407,
                    height: 415,
                },
            ),
            (33, Rect::whole(613, 467)),
        ] {
            let [exact, fast] = both(&bytes, crop, size, &mut workplace);
            let difference = mean_difference(&exact, &fast);
            assert!(exact != fast, "{subsamp:?} {size}: nothing was decoded smaller");
            // At an eighth, chroma of half the width has a sample for every 16 pixels: interpolated between them, these
            // waves (126 pixels long, of about 60 levels) lose a twentieth.
            let most = match (subsamp, size) {
                (Subsamp::Sub2x1, 33 | 50) => 3.0,
                _ => 1.0,
            };
            assert!(difference < most, "{subsamp:?} {crop:?} to {size}: {difference}");
        }
        // Less than twice as large as the sample: nothing to gain.
        let crop = Rect {
            x: 3,
            y: 5,
            width: 401,
            height: 403,
        };
        let [exact, fast] = both(&bytes, crop, 224, &mut workplace);
        assert!(exact == fast, "{subsamp:?}");
    }
    // Turned: 8 divides both sides, or it does not and the picture is decoded exactly.
    for (width, height) in [(640, 480), (613, 467)] {
        let upright = waves(width, height, Subsamp::Sub2x2);
        for tag in 2..=8u8 {
            let mut bytes = upright.clone();
            let mut segment = b"\xff\xe1\0\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
            segment.extend([tag, 0, 0, 0, 0, 0, 0]);
            bytes.splice(2..2, segment);
            let crop = Rect {
                x: 21,
                y: 33,
                width: 420,
                height: 410,
            };
            let [exact, fast] = both(&bytes, crop, 64, &mut workplace);
            let difference = mean_difference(&exact, &fast);
            assert!(difference < 1.0, "turned by {tag}: {difference}");
            assert_eq!(exact == fast, width == 613, "turned by {tag}");
        }
    }
    // What our own decoder declines is exact.
    let progressive = jpeg(640, 480, Subsamp::Sub2x2, Coding::Progressive, 90);
    let [exact, fast] = both(&progressive, Rect::whole(640, 480), 64, &mut workplace);
    assert!(exact == fast);
}

#[test]
fn fast_decoding_of_photographs_differs_by_a_few_levels() {
    let Some(folder) = common::shared("data/food10") else {
        return;
    };
    let dataset = Dataset::open(&folder, "train[:120]", &Columns::default()).unwrap();
    let mut workplace = Workplace::new().unwrap();
    for size in [224, 112, 56] {
        let (mut sum, mut most, mut counted) = (0.0, 0f64, 0);
        for row in 0..dataset.len() {
            let bytes = dataset.encoded(row).unwrap();
            let picture = decode(&bytes).unwrap();
            let [exact, fast] = both(&bytes, Rect::whole(picture.width, picture.height), size, &mut workplace);
            if exact != fast {
                let difference = mean_difference(&exact, &fast);
                (sum, most, counted) = (sum + difference, most.max(difference), counted + 1);
            }
        }
        let mean = sum / counted as f64;
        println!("{counted} photographs to {size}: {mean:.2} levels on average, {most:.2} at most");
        assert!(counted > 30, "{counted}");
        assert!(mean < 2.5 && most < 8.0, "to {size}: {mean} on average, {most} at most");
    }
}
