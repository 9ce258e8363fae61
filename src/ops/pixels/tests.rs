//! Every change against what torchvision and Pillow made of small pictures, byte for byte
//! (`tests/fixtures/augmentations.py`).

use std::collections::BTreeMap;

use safetensors::SafeTensors;

use super::*;

const STORED: &[u8] = include_bytes!("../../../tests/fixtures/augmentations.safetensors");

struct Picture {
    width: usize,
    height: usize,
    values_hwc: Vec<u8>,
}

impl Picture {
    fn canvas(&self) -> Canvas {
        let mut canvas = Canvas::default();
        canvas.reshape(self.width, self.height);
        for (at, &value) in self.values_hwc.iter().enumerate() {
            let (y, x) = (at / 3 / self.width, at / 3 % self.width);
            canvas.row_mut(at % 3, y)[x] = value;
        }
        canvas
    }

    /// The largest difference, and of how many values.
    fn differs(&self, canvas: &Canvas) -> Option<(u8, usize)> {
        let plane = self.width * self.height;
        let got = (0..3 * plane).map(|at| canvas.values_chw()[at % 3 * plane + at / 3]);
        let differences = got
            .zip(&self.values_hwc)
            .map(|(got, value)| got.abs_diff(*value))
            .filter(|difference| *difference > 0);
        let number = differences.clone().count();
        differences.max().map(|largest| (largest, number))
    }
}

fn stored() -> BTreeMap<String, Picture> {
    let file = SafeTensors::deserialize(STORED).unwrap();
    let pictures = file
        .tensors()
        .into_iter()
        .filter(|(name, _)| !name.starts_with("magnitudes"));
    pictures
        .map(|(name, tensor)| {
            let [height, width, 3] = *tensor.shape() else {
                panic!("{name}")
            };
            let picture = Picture {
                width,
                height,
                values_hwc: tensor.data().to_vec(),
            };
            (name, picture)
        })
        .collect()
}

/// As `torchvision.transforms.autoaugment._apply_op` reads an op and its magnitude.
fn change(op: &str, magnitude: f64) -> Change {
    let factor = (1.0 + magnitude) as f32;
    match op {
        "ShearX" => Change::ShearX(magnitude),
        "ShearY" => Change::ShearY(magnitude),
        "TranslateX" => Change::TranslateX(magnitude as i64),
        "TranslateY" => Change::TranslateY(magnitude as i64),
        "Rotate" => Change::Rotate(magnitude),
        "Brightness" => Change::Brightness(factor),
        "Color" => Change::Saturation(factor),
        "Contrast" => Change::Contrast(factor),
        "Sharpness" => Change::Sharpness(factor),
        "Posterize" => Change::Posterize(magnitude as u32),
        "Solarize" => Change::Solarize(magnitude),
        "AutoContrast" => Change::AutoContrast,
        "Equalize" => Change::Equalize,
        "Hue" => Change::Hue(magnitude),
        _ => panic!("{op}"),
    }
}

#[test]
fn every_change_is_torchvisions() {
    let stored = stored();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for (name, expected) in &stored {
        let parts: Vec<&str> = name.split('|').collect();
        let &[picture, op, magnitude] = &parts[..] else {
            continue; // a picture, or a sequence of changes: see `data`
        };
        if op == "RandAugment" {
            continue;
        }
        let mut canvas = stored[&format!("picture.{picture}")].canvas();
        canvas.apply(change(op, magnitude.parse().unwrap()));
        seen += 1;
        if let Some(differs) = expected.differs(&canvas) {
            wrong.push(format!("{name}: {differs:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen > 100, "{seen}");
}

/// ColorJitter's `get_params`: the order of the four, then their factors; None: left out.
#[test]
fn changes_one_after_the_other_are_color_jitters() {
    let stored = stored();
    let mut seen = 0;
    for (name, expected) in stored.iter().filter(|(name, _)| name.contains("|ColorJitter|")) {
        let numbers: Vec<&str> = name.split('|').skip(2).collect();
        let (order, factors) = numbers.split_at(4);
        let mut canvas = stored["picture.photo"].canvas();
        for number in order {
            let number: usize = number.parse().unwrap();
            let Ok(factor) = factors[number].parse::<f64>() else {
                continue;
            };
            canvas.apply(match number {
                0 => Change::Brightness(factor as f32),
                1 => Change::Contrast(factor as f32),
                2 => Change::Saturation(factor as f32),
                _ => Change::Hue(factor),
            });
        }
        assert_eq!(expected.differs(&canvas), None, "{name}");
        seen += 1;
    }
    assert_eq!(seen, 3);
}

#[test]
fn a_canvas_that_held_another_picture_gives_the_same() {
    let stored = stored();
    let changes = [
        Change::Sharpness(1.7),
        Change::Rotate(-12.0),
        Change::Equalize,
        Change::Hue(0.2),
    ];
    let mut used = stored["picture.colours"].canvas();
    changes.iter().for_each(|change| used.apply(*change));
    for name in ["picture.photo", "picture.tiny", "picture.dot"] {
        let picture = &stored[name];
        let mut fresh = picture.canvas();
        used.reshape(picture.width, picture.height);
        used.values_chw_mut().copy_from_slice(fresh.values_chw());
        for change in changes {
            used.apply(change);
            fresh.apply(change);
        }
        assert_eq!(used.values_chw(), fresh.values_chw(), "{name}");
    }
}
