//! How a recipe draws its samples: in which order, and with partners or alone.

use crate::data::{Dataset, Mixing, Order, Pairing, Plan};
use crate::recipe::Recipe;

pub fn plan(recipe: &Recipe, train: &Dataset, world: usize) -> Plan {
    let seed = recipe.data_seed.unwrap_or(recipe.seed);
    Plan {
        samples: train.len(),
        micro_batch: recipe.per_device_train_batch_size,
        accumulation: recipe.gradient_accumulation_steps,
        world,
        order: match (recipe.balanced_sampling, recipe.shuffle) {
            (true, _) => Order::balanced(seed, (0..train.len()).map(|row| train.label(row))),
            (false, true) => Order::Shuffled { seed },
            (false, false) => Order::AsStored,
        },
        pairing: match Mixing::of(recipe) {
            Some(_) => Pairing::Neighbours,
            None => Pairing::Alone,
        },
    }
}
