//! Continuing from a checkpoint: which one, whether it belongs to this run, and its values on every rank.
//!
//! Rank 0 reads and hands out, so the checkpoint need not be visible from other nodes.

use std::path::{Path, PathBuf};

use super::Run;
use super::checkpoint::{self, Buffers, Position};
use super::kept;
use crate::collective::{Collective, share};
use crate::data::Order;
use crate::error::{Error, Result};
use crate::optim::Parameters;
use crate::recipe::Recipe;

/// A checkpoint that was read and fits.
pub struct Resumed {
    pub from: PathBuf,
    pub position: Position,
    pub buffers: Buffers,
    /// What differs from the run that wrote it, and what was skipped: lines for people.
    pub notes: Vec<String>,
}

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

/// The checkpoint that the recipe asks for, on every rank; None: a new run. Every rank must call it.
///
/// With `true` it is the newest whole one in the output directory; there may be none yet, so that one command line serves
/// a job's first start and every further one. Errors: it cannot be read; it belongs to another run.
pub fn resume(
    run: &Run,
    parameters: &Parameters,
    classes: &[String],
    order: &Order,
    collective: &dyn Collective,
) -> Result<Option<Resumed>> {
    let Some(asked) = run
        .recipe
        .resume_from_checkpoint
        .as_deref()
        .filter(|&asked| asked != "false")
    else {
        return Ok(None);
    };
    let mut found = None;
    if collective.rank() == 0 {
        found = match asked {
            "true" | "True" => newest(&run.recipe.output_dir, parameters.count())?,
            directory => Some(read(Path::new(directory), parameters.count())?),
        };
        if let Some(found) = &mut found {
            let changes = fits(&found.position, run, (parameters, classes, order), &found.from)?;
            found.notes.extend(changes);
            let moved = locate_best(found, run);
            found.notes.extend(moved);
        }
    }
    hand_out(found, parameters.count(), collective)
}

fn read(directory: &Path, count: usize) -> Result<Resumed> {
    let position = checkpoint::read_position(directory)?;
    // A model of another size is told by the names of its parameters, which say more.
    let count = match position.parameters.is_empty() {
        true => count,
        false => position.parameters.iter().map(|name| count_of(name)).sum(),
    };
    let buffers = checkpoint::read_buffers(directory, count)?;
    Ok(Resumed {
        from: directory.to_owned(),
        position,
        buffers,
        notes: Vec::new(),
    })
}

/// The newest checkpoint of `output_dir` that can be read; those that cannot are noted.
fn newest(output_dir: &Path, count: usize) -> Result<Option<Resumed>> {
    let mut notes = Vec::new();
    for (_, path) in kept::all(output_dir)?.into_iter().rev() {
        match read(&path, count) {
            Ok(found) => return Ok(Some(Resumed { notes, ..found })),
            Err(error) => notes.push(format!("skipped: {error}")),
        }
    }
    match notes.is_empty() {
        true => Ok(None),
        false => Err(Error::checkpoint(
            output_dir,
            format!("none of its checkpoints can be read\n  {}", notes.join("\n  ")),
            "give --resume-from-checkpoint another directory, or start anew with --overwrite-output-dir",
        )),
    }
}

/// Errors unless `run` may continue from `position`; returns what has changed.
fn fits(
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

/// The best checkpoint so far may have moved with its directory, or be gone.
fn locate_best(found: &mut Resumed, run: &Run) -> Option<String> {
    let state = &mut found.position.state;
    let (step, written) = (state.best_global_step?, state.best_model_checkpoint.take()?);
    let beside = found.from.parent().map(|parent| kept::path(parent, step));
    let places = [
        Some(PathBuf::from(&written)),
        Some(kept::path(&run.recipe.output_dir, step)),
        beside,
    ];
    match places.into_iter().flatten().find(|place| place.is_dir()) {
        Some(place) => {
            state.best_model_checkpoint = Some(place.display().to_string());
            None
        }
        None => {
            (state.best_global_step, state.best_metric) = (None, None);
            Some(format!(
                "the best checkpoint so far, {written}, is gone: the best of the remaining steps will be chosen"
            ))
        }
    }
}

/// What rank 0 found, on every rank.
fn hand_out(found: Option<Resumed>, count: usize, collective: &dyn Collective) -> Result<Option<Resumed>> {
    if collective.world() == 1 {
        return Ok(found);
    }
    let (mut text, mut values) = (Vec::new(), Vec::new());
    let (mut from, mut notes) = (PathBuf::new(), Vec::new());
    if let Some(found) = found {
        text = checkpoint::position_text(&found.position).into_bytes();
        let Buffers {
            values: trained,
            first_moments,
            second_moments,
            statistics,
            average,
            average_statistics,
        } = found.buffers;
        values = [
            trained,
            first_moments,
            second_moments,
            average,
            statistics,
            average_statistics,
        ]
        .concat()
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
        (from, notes) = (found.from, found.notes);
    }
    let text = share(collective, text)?;
    if text.is_empty() {
        return Ok(None);
    }
    let position = checkpoint::parse_position(&from, &String::from_utf8_lossy(&text))?;
    let values: Vec<f32> = share(collective, values)?
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    let part = |index: usize| values[index * count..(index + 1) * count].to_vec();
    let (average, statistics) = match position.recipe.ema_decay {
        Some(_) => (part(3), &values[4 * count..]),
        None => (Vec::new(), &values[3 * count..]),
    };
    let (statistics, average_statistics) = match position.recipe.ema_decay {
        Some(_) => statistics.split_at(statistics.len() / 2),
        None => (statistics, &[][..]),
    };
    let buffers = Buffers {
        values: part(0),
        first_moments: part(1),
        second_moments: part(2),
        statistics: statistics.to_vec(),
        average,
        average_statistics: average_statistics.to_vec(),
    };
    Ok(Some(Resumed {
        from,
        position,
        buffers,
        notes,
    }))
}

fn table(recipe: &Recipe) -> toml::Table {
    recipe.to_toml().parse().expect("a recipe's own text")
}

/// Values of a parameter that is named `classifier.weight [10, 192]`.
fn count_of(name: &str) -> usize {
    let shape = name.rsplit('[').next().unwrap_or_default().trim_end_matches(']');
    shape
        .split(',')
        .filter_map(|size| size.trim().parse::<usize>().ok())
        .product()
}
