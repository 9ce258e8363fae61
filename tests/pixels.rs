//! Decoding and transforms against what Pillow and torchvision made of the same files, bit for bit.

mod common;

use std::path::Path;

use dtrain::data::augment::SampleName;
use dtrain::data::decode::decode;
use dtrain::data::preprocessor::Preprocessor;
use dtrain::data::transform::{Normalization, Transform, Workplace};
use dtrain::ops::jpeg::Rect;
use dtrain::ops::resample::Filter;
use safetensors::SafeTensors;
use serde::Deserialize;

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
