//! How a recipe draws its samples: in which order, and with partners or alone.

use super::Shuffling;
use crate::data::{Mixing, Pairing, Plan};
use crate::recipe::Recipe;

pub fn plan(recipe: &Recipe, samples: usize, world: usize, shuffling: &Shuffling) -> Plan {
    Plan {
        samples,
        micro_batch: recipe.per_device_train_batch_size,
        accumulation: recipe.gradient_accumulation_steps,
        world,
        order: shuffling.order.clone(),
        pairing: match Mixing::of(recipe) {
            Some(_) => Pairing::Neighbours,
            None => Pairing::Alone,
        },
    }
}
