//! Values of training aids that are out of range or contradict others.

use super::super::Recipe;
use super::ranges::{Violation, violation};

pub fn check(r: &Recipe) -> Result<(), Violation> {
    if r.balanced_sampling && !r.shuffle {
        return Err(violation(
            "balanced_sampling",
            "true",
            "samples are drawn at random, and shuffle = false asks for the order of the dataset",
            "leave one of the two out",
        ));
    }
    Ok(())
}
