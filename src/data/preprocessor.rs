//! `preprocessor_config.json`: what a model wants its pictures to be like, read in the old style and the new, and written in the new.
//!
//! Source: the image processors of transformers (ViT, DeiT, ConvNext) and the files that their versions wrote since 2021.
//! Old files name a `feature_extractor_type` and give `size` as one number, whose meaning depends on the type.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Error, IoContext, Result};
use crate::ops::resample::Filter;

pub const FILE_NAME: &str = "preprocessor_config.json";

/// What to resize to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Both sides, whatever the aspect.
    Exact { height: usize, width: usize },
    /// The shorter side; the aspect stays.
    ShortestEdge(usize),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Preprocessor {
    /// `ViTImageProcessor`, `ConvNextImageProcessor`, …
    pub processor_type: String,
    pub do_resize: bool,
    pub size: Size,
    pub resample: Filter,
    /// ConvNext: the model sees this share of the resized picture's side (when it sees less than 384 pixels).
    pub crop_pct: Option<f64>,
    pub do_center_crop: bool,
    /// Height and width.
    pub crop_size: Option<(usize, usize)>,
    pub do_rescale: bool,
    pub rescale_factor: f64,
    pub do_normalize: bool,
    pub image_mean: [f64; 3],
    pub image_std: [f64; 3],
    /// Keys that mean nothing here; they are written back.
    pub other: Map<String, Value>,
}

const KNOWN: &[&str] = &[
    "crop_pct",
    "crop_size",
    "do_center_crop",
    "do_normalize",
    "do_rescale",
    "do_resize",
    "feature_extractor_type",
    "image_mean",
    "image_processor_type",
    "image_std",
    "resample",
    "rescale_factor",
    "size",
];

impl Preprocessor {
    /// Of the model in `folder`.
    pub fn read(folder: &Path) -> Result<Preprocessor> {
        let path = folder.join(FILE_NAME);
        let text = std::fs::read_to_string(&path).at("read", &path)?;
        Preprocessor::parse(&text).map_err(|what| {
            Error::model(
                &path,
                what,
                "compare the file with the one of the model on the Hugging Face Hub",
            )
        })
    }

    /// Error: which key, and what is wrong with it.
    pub fn parse(json: &str) -> Result<Preprocessor, String> {
        let value: Value = serde_json::from_str(json).map_err(|e| format!("is no JSON: {e}"))?;
        let Value::Object(object) = value else {
            return Err("is no JSON object".into());
        };
        let text = |key: &str| object.get(key).and_then(Value::as_str);
        let processor_type = match (text("image_processor_type"), text("feature_extractor_type")) {
            // `ViTImageProcessorFast` was the name of a variant for a while.
            (Some(new), _) => new.strip_suffix("Fast").unwrap_or(new).to_owned(),
            (None, Some(old)) => old.replace("FeatureExtractor", "ImageProcessor"),
            (None, None) => "ViTImageProcessor".to_owned(),
        };
        let convnext = processor_type.starts_with("ConvNext");
        let flag = |key: &str, default: bool| match object.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(other) => Err(format!("{key} must be true or false, and is {other}")),
        };
        let number = |key: &str, default: f64| match object.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_f64()
                .ok_or_else(|| format!("{key} must be a number, and is {value}")),
        };
        let crop_size = match object.get("crop_size") {
            None | Some(Value::Null) => None,
            Some(value) => match read_size(value, false, "crop_size")? {
                Size::Exact { height, width } => Some((height, width)),
                Size::ShortestEdge(_) => return Err("crop_size must be a number or have a height and a width".into()),
            },
        };
        let size = match object.get("size") {
            None | Some(Value::Null) if convnext => Size::ShortestEdge(384),
            None | Some(Value::Null) => Size::Exact {
                height: 224,
                width: 224,
            },
            Some(value) => read_size(value, convnext || processor_type.starts_with("Bit"), "size")?,
        };
        let crop_pct = match object.contains_key("crop_pct") || convnext {
            true => Some(number("crop_pct", 224.0 / 256.0)?),
            false => None,
        };
        if crop_pct.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
            return Err(format!(
                "crop_pct must lie between 0 and 1, and is {}",
                crop_pct.unwrap_or_default()
            ));
        }
        let default_filter = if convnext { Filter::Bicubic } else { Filter::Bilinear };
        let code = number("resample", default_filter as u32 as f64)?;
        let resample = Filter::ALL
            .into_iter()
            .find(|filter| *filter as u32 as f64 == code)
            .ok_or_else(|| format!("resample must be one of Pillow's filters 0 to 5, and is {code}"))?;
        let preprocessor = Preprocessor {
            processor_type,
            do_resize: flag("do_resize", true)?,
            size,
            resample,
            crop_pct,
            do_center_crop: flag("do_center_crop", false)?,
            crop_size,
            do_rescale: flag("do_rescale", true)?,
            rescale_factor: number("rescale_factor", 1.0 / 255.0)?,
            do_normalize: flag("do_normalize", true)?,
            image_mean: read_rgb(object.get("image_mean"), "image_mean")?,
            image_std: read_rgb(object.get("image_std"), "image_std")?,
            other: object
                .iter()
                .filter(|(key, _)| !KNOWN.contains(&key.as_str()))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
        };
        if preprocessor.do_normalize && preprocessor.image_std.iter().any(|std| std.is_nan() || *std <= 0.0) {
            return Err(format!(
                "image_std must be positive, and is {:?}",
                preprocessor.image_std
            ));
        }
        Ok(preprocessor)
    }

    /// Height and width of what the model sees.
    pub fn input_size(&self) -> (usize, usize) {
        match (self.do_center_crop, self.crop_size, self.size) {
            (true, Some(size), _) => size,
            (_, _, Size::Exact { height, width }) => (height, width),
            (_, _, Size::ShortestEdge(edge)) => (edge, edge),
        }
    }

    /// As transformers writes it: keys in alphabetical order, indented by two.
    pub fn to_json(&self) -> String {
        let mut keys = self.other.clone();
        let mut put = |key: &str, value: Value| keys.insert(key.to_owned(), value);
        put("image_processor_type", json!(self.processor_type));
        put("do_resize", json!(self.do_resize));
        put("do_rescale", json!(self.do_rescale));
        put("do_normalize", json!(self.do_normalize));
        put("resample", json!(self.resample as u32));
        put("rescale_factor", json!(self.rescale_factor));
        put("image_mean", json!(self.image_mean));
        put("image_std", json!(self.image_std));
        put(
            "size",
            match self.size {
                Size::Exact { height, width } => json!({"height": height, "width": width}),
                Size::ShortestEdge(edge) => json!({"shortest_edge": edge}),
            },
        );
        if let Some(share) = self.crop_pct {
            put("crop_pct", json!(share));
        }
        if self.do_center_crop {
            put("do_center_crop", json!(true));
        }
        if let Some((height, width)) = self.crop_size {
            put("crop_size", json!({"height": height, "width": width}));
        }
        keys.sort_keys();
        let mut text = serde_json::to_string_pretty(&keys).expect("maps of strings and numbers are JSON");
        text.push('\n');
        text
    }
}

/// A number (one side of a square, or the shortest edge), a pair, or an object.
fn read_size(value: &Value, number_is_shortest_edge: bool, key: &str) -> Result<Size, String> {
    let side = |value: Option<&Value>| value.and_then(Value::as_u64).map(|side| side as usize);
    let size = match value {
        Value::Number(_) => side(Some(value)).map(|side| match number_is_shortest_edge {
            true => Size::ShortestEdge(side),
            false => Size::Exact {
                height: side,
                width: side,
            },
        }),
        Value::Array(pair) if pair.len() == 2 => side(pair.first())
            .zip(side(pair.get(1)))
            .map(|(height, width)| Size::Exact { height, width }),
        Value::Object(object) if object.contains_key("longest_edge") => None,
        Value::Object(object) => match side(object.get("shortest_edge")) {
            Some(edge) => Some(Size::ShortestEdge(edge)),
            None => side(object.get("height"))
                .zip(side(object.get("width")))
                .map(|(height, width)| Size::Exact { height, width }),
        },
        _ => None,
    };
    let plausible = |side: usize| (1..=16_384).contains(&side);
    size.filter(|size| match *size {
        Size::Exact { height, width } => plausible(height) && plausible(width),
        Size::ShortestEdge(edge) => plausible(edge),
    })
    .ok_or_else(|| format!("{key} must be a number, {{height, width}} or {{shortest_edge}}, and is {value}"))
}

/// Three numbers, or one for all channels; 0.5 where there is nothing.
fn read_rgb(value: Option<&Value>, key: &str) -> Result<[f64; 3], String> {
    let wrong = || format!("{key} must be three numbers, and is {}", value.unwrap_or(&Value::Null));
    match value {
        None | Some(Value::Null) => Ok([0.5; 3]),
        Some(Value::Number(one)) => Ok([one.as_f64().ok_or_else(wrong)?; 3]),
        Some(Value::Array(three)) => {
            let three: Option<Vec<f64>> = three.iter().map(Value::as_f64).collect();
            three.and_then(|three| three.try_into().ok()).ok_or_else(wrong)
        }
        Some(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What transformers 5.23 writes after reading the old file below.
    const RESNET: &str = r#"{
  "crop_pct": 0.875,
  "do_normalize": true,
  "do_rescale": true,
  "do_resize": true,
  "image_mean": [
    0.485,
    0.456,
    0.406
  ],
  "image_processor_type": "ConvNextImageProcessor",
  "image_std": [
    0.229,
    0.224,
    0.225
  ],
  "resample": 3,
  "rescale_factor": 0.00392156862745098,
  "size": {
    "shortest_edge": 224
  }
}
"#;

    #[test]
    fn old_files_become_the_new_ones_that_transformers_writes() {
        let resnet = r#"{"crop_pct": 0.875, "do_normalize": true, "do_resize": true,
            "feature_extractor_type": "ConvNextFeatureExtractor", "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225], "resample": 3, "size": 224}"#;
        assert_eq!(Preprocessor::parse(resnet).unwrap().to_json(), RESNET);
        let vit = r#"{"do_normalize": true, "do_resize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
            "resample": 2, "size": 224, "feature_extractor_type": "ViTFeatureExtractor"}"#;
        let vit = Preprocessor::parse(vit).unwrap();
        assert_eq!(
            (vit.processor_type.as_str(), vit.resample),
            ("ViTImageProcessor", Filter::Bilinear)
        );
        assert_eq!(
            vit.size,
            Size::Exact {
                height: 224,
                width: 224
            }
        );
        let deit = r#"{"crop_size": 224, "do_center_crop": true, "feature_extractor_type": "DeiTFeatureExtractor",
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 3, "size": 256}"#;
        let deit = Preprocessor::parse(deit).unwrap();
        assert_eq!(
            (deit.input_size(), deit.size),
            (
                (224, 224),
                Size::Exact {
                    height: 256,
                    width: 256
                }
            )
        );
    }

    #[test]
    fn new_files_come_back_as_they_were() {
        let resnet = Preprocessor::parse(RESNET).unwrap();
        assert_eq!(resnet.size, Size::ShortestEdge(224));
        assert_eq!(resnet.to_json(), RESNET);
        let strange = RESNET.replacen('{', "{\n  \"a_key_of_tomorrow\": [\n    1\n  ],", 1);
        assert_eq!(Preprocessor::parse(&strange).unwrap().to_json(), strange);
    }

    #[test]
    fn nonsense_is_named() {
        for (json, word) in [
            ("[]", "object"),
            ("{", "JSON"),
            (r#"{"size": "big"}"#, "size"),
            (r#"{"size": 0}"#, "size"),
            (r#"{"size": {"longest_edge": 5}}"#, "size"),
            (r#"{"resample": 9}"#, "resample"),
            (r#"{"image_std": [0, 1, 1]}"#, "image_std"),
            (r#"{"image_mean": [1, 2]}"#, "image_mean"),
            (r#"{"do_resize": "yes"}"#, "do_resize"),
            (r#"{"crop_pct": 0}"#, "crop_pct"),
        ] {
            let error = Preprocessor::parse(json).unwrap_err();
            assert!(error.contains(word), "{json}: {error}");
        }
    }
}
