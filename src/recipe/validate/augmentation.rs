//! Ranges of the augmentations: torchvision's, and what no sample could be made with.

use super::ranges::{Below, Violation, violation, within};
use crate::recipe::{ColorJitter, RandAugment, Recipe};

/// More ops than torchvision has would only be the same ones again.
const MOST_OPS: u32 = 14;

pub fn check(recipe: &Recipe) -> Result<(), Violation> {
    let RandAugment {
        num_ops,
        magnitude,
        num_magnitude_bins: bins,
    } = recipe.rand_augment;
    let refuse = |problem: &str, fix: &str| {
        Err(violation(
            "rand_augment",
            format!("{num_ops},{magnitude},{bins}"),
            problem,
            fix,
        ))
    };
    if num_ops > MOST_OPS {
        return refuse(
            "out of range",
            &format!("give 0 to {MOST_OPS} for num_ops, which comes first"),
        );
    }
    if bins < 2 {
        return refuse(
            "out of range",
            "give a whole number from 2 for num_magnitude_bins, which comes last",
        );
    }
    if magnitude >= bins {
        return refuse(
            &format!("there are only {bins} magnitudes, counted from 0"),
            &format!("give 0 to {} for magnitude, which comes second", bins - 1),
        );
    }

    let ColorJitter {
        brightness,
        contrast,
        saturation,
        hue,
    } = recipe.color_jitter;
    let amounts = [brightness, contrast, saturation, hue];
    if amounts.iter().any(|amount| !(*amount >= 0.0 && amount.is_finite())) || hue > 0.5 {
        return Err(violation(
            "color_jitter",
            amounts.map(|amount| amount.to_string()).join(","),
            "out of range",
            "give numbers from 0 for brightness, contrast and saturation, and one from 0 to 0.5 for hue",
        ));
    }
    within("random_erasing", recipe.random_erasing, 0.0, Below::OneOrEqual)
}
