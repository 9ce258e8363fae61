//! Values of training aids that are out of range or contradict others.

use super::super::{FrozenPart, Method, Recipe};
use super::ranges::{Below, Violation, from_0, violation, within};

pub fn check(r: &Recipe) -> Result<(), Violation> {
    if r.balanced_sampling && !r.shuffle {
        return Err(violation(
            "balanced_sampling",
            "true",
            "samples are drawn at random, and shuffle = false asks for the order of the dataset",
            "leave one of the two out",
        ));
    }
    if let Some(part) = r.freeze.iter().find(|part| FrozenPart::read(part).is_none()) {
        return Err(violation(
            "freeze",
            part,
            "this is no part of a model",
            "give parts as `embeddings,layers.0-5`, or how many of the lowest layers: `6`",
        ));
    }
    if !r.freeze.is_empty() && r.method != Method::Full {
        return Err(violation(
            "freeze",
            r.freeze.join(","),
            "only method full trains a model's own weights, of which some may be frozen",
            "add `--method full`, or leave `freeze` out",
        ));
    }
    from_0("mixup_alpha", r.mixup_alpha)?;
    from_0("cutmix_alpha", r.cutmix_alpha)?;
    within("mixup_prob", r.mixup_prob, 0.0, Below::OneOrEqual)?;
    if r.mixup_prob != 1.0 && r.mixup_alpha == 0.0 && r.cutmix_alpha == 0.0 {
        return Err(violation(
            "mixup_prob",
            r.mixup_prob,
            "nothing is mixed, since both alphas are 0",
            "add `--mixup-alpha 0.2`, `--cutmix-alpha 1` or both, or leave `mixup_prob` out",
        ));
    }
    if let Some(decay) = r.ema_decay {
        within("ema_decay", decay, 0.0, Below::One)?;
    }
    Ok(())
}
