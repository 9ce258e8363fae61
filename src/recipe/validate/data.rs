//! What training samples are, and how they are read.

use super::ranges::{Violation, above_0, from_0, violation};
use crate::recipe::{AUTO_SPLIT, Decode, ImageCache, Recipe};

/// Names of datasets that stand for "a folder of images", as it is given beside.
const FOLDER_BUILDERS: [&str; 2] = ["imagefolder", "nateraw/image-folder"];

pub(super) fn check(r: &Recipe) -> Result<(), Violation> {
    check_names(r)?;
    above_0("data_memory_gb", r.data_memory_gb)?;
    if r.decode == Decode::Fast && matches!(r.image_cache, ImageCache::Host | ImageCache::Device) {
        return Err(violation(
            "image_cache",
            format!("{:?}", r.image_cache).to_lowercase(),
            "pictures are kept whole and exact, which --decode fast does not make",
            "give one of --decode fast and --image-cache",
        ));
    }
    if let Some(gigabytes) = r.image_cache_gb {
        from_0("image_cache_gb", gigabytes)?;
    }
    Ok(())
}

fn check_names(r: &Recipe) -> Result<(), Violation> {
    if r.train_dir.is_some() && !r.dataset.is_empty() && !FOLDER_BUILDERS.contains(&r.dataset.as_str()) {
        return Err(violation(
            "train_dir",
            r.train_dir
                .iter()
                .map(|dir| dir.display().to_string())
                .collect::<String>(),
            "training samples are named twice, as a folder and as a dataset",
            "give one of --train-dir and --dataset",
        ));
    }
    if r.validation_dir.is_some() && r.train_dir.is_none() {
        return Err(violation(
            "validation_dir",
            r.validation_dir
                .iter()
                .map(|dir| dir.display().to_string())
                .collect::<String>(),
            "there is a folder of validation images, and none of training images, which the classes are read from",
            "add --train-dir DIR",
        ));
    }
    if r.dataset.is_empty() && r.train_dir.is_none() {
        return Err(violation(
            "dataset",
            "",
            "no dataset is named",
            "give `--dataset DIR` (parquet or Arrow shards), `--train-dir DIR` (images), or `--recipe vit-lora`",
        ));
    }
    if r.train_split.is_empty() {
        return Err(violation(
            "train_split",
            "",
            "no training split is named",
            "give `--train-split train`",
        ));
    }
    if let (Some(split), Some(_)) = (&r.validation_split, r.test_size)
        && split != AUTO_SPLIT
    {
        return Err(violation(
            "validation_split",
            split,
            "the validation set is asked for twice, as a split and as test_size",
            "give one of the two",
        ));
    }
    match r.test_size {
        Some(size) if !(size > 0.0 && (size < 1.0 || size.fract() == 0.0) && size.is_finite()) => Err(violation(
            "test_size",
            size,
            "this is neither a fraction nor a number of samples",
            "give a fraction above 0 and below 1, or a whole number from 1",
        )),
        Some(size) if size == 1.0 => Err(violation(
            "test_size",
            size,
            "one sample is no validation set, and a fraction of 1 leaves nothing to train on",
            "give a fraction above 0 and below 1, or a whole number from 2",
        )),
        _ => Ok(()),
    }
}
