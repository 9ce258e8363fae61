//! Whether a run may continue from a checkpoint, and what it does otherwise than the run that wrote it.

use std::path::Path;

use crate::data::Order;
use crate::error::{Error, Result};
use crate::optim::Parameters;
use crate::recipe::Recipe;
use crate::train::Run;
use crate::train::checkpoint::{self, Position};

/// What a run must have in common with the one that wrote its checkpoint; anything else may be changed on the way.
const FIXED: &[&str] = &[
    "method",
    "freeze",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "seed",
    "data_seed",
    "shuffle",
    "balanced_sampling",
    "shuffle_mode",
    "data_memory_gb",
    "sync_batch_norm",
    "ema_decay",
];
/// What says nothing about the numbers that come out.
const IRRELEVANT: &[&str] = &[
    "resume_from_checkpoint",
    "overwrite_output_dir",
    "output_dir",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "dataloader_num_workers",
    "threads",
    "cuda_graph",
    "image_cache",
    "image_cache_gb",
    "save_total_limit",
];

/// Errors unless `run` may continue from `position`; returns what has changed.
pub(super) fn fits(
    position: &Position,
    run: &Run,
    (parameters, classes, order): (&Parameters, &[String], &Order),
    from: &Path,
) -> Result<Vec<String>> {
    let differs = |what: &str, then: &dyn std::fmt::Display, now: &dyn std::fmt::Display| {
        Err(Error::checkpoint(
            from,
            format!("it was written with {what} {then}, and this run has {now}"),
            "repeat the first command line, or start anew in another --output-dir",
        ))
    };
    let (then, now) = (table(&position.recipe), table(&run.recipe));
    let text = |table: &toml::Table, key: &str| table.get(key).map_or("nothing".to_owned(), ToString::to_string);
    for key in FIXED {
        if then.get(*key) != now.get(*key) {
            return differs(key, &text(&then, key), &text(&now, key));
        }
    }
    if position.global_batch != run.global_batch {
        return differs("a global batch of", &position.global_batch, &run.global_batch);
    }
    if position.train_samples != run.train_samples {
        return differs("training samples:", &position.train_samples, &run.train_samples);
    }
    let block_order = order.fingerprint();
    if position.block_order != block_order {
        let told = |order: &Option<String>| order.clone().unwrap_or("unknown".to_owned());
        return Err(Error::checkpoint(
            from,
            format!(
                "its samples came in another order (block shuffle {} then, {} now): blocks of the dataset are other ones, or \
                 another version of dtrain makes the order",
                told(&position.block_order),
                told(&block_order)
            ),
            "finish this run with the version and the files that it began with, or start anew in another --output-dir",
        ));
    }
    if position.classes != classes {
        return differs("classes", &position.classes.join(", "), &classes.join(", "));
    }
    let ours = checkpoint::parameter_names(parameters);
    if position.parameters.len() != ours.len() {
        return differs("trained tensors:", &position.parameters.len(), &ours.len());
    }
    if let Some((then, now)) = position.parameters.iter().zip(&ours).find(|(then, now)| then != now) {
        return differs("trained tensor", then, now);
    }
    let mut notes = Vec::new();
    if position.world != run.world {
        notes.push(format!(
            "ranks: {} then, {} now; the global batch is the same",
            position.world, run.world
        ));
    }
    if let Some(before) = position.computed_in.filter(|before| *before != run.precision)
        && then.get("precision") == now.get("precision")
    {
        notes.push(format!(
            "computed in {} then, in {} now, for that is what this device can: the numbers are not those of a run that was \
             never interrupted",
            before.name(),
            run.precision.name()
        ));
    }
    let keys = then.keys().chain(now.keys().filter(|key| !then.contains_key(*key)));
    for key in keys.filter(|key| !IRRELEVANT.contains(&key.as_str()) && then.get(*key) != now.get(*key)) {
        notes.push(format!("{key}: {} then, {} now", text(&then, key), text(&now, key)));
    }
    Ok(notes)
}

fn table(recipe: &Recipe) -> toml::Table {
    recipe.to_toml().parse().expect("a recipe's own text")
}
