//! Continuing from a checkpoint: which one, whether it belongs to this run, and its values on every rank.
//!
//! Rank 0 reads and hands out, so the checkpoint need not be visible from other nodes.

mod fits;

use std::path::{Path, PathBuf};

use super::Run;
use super::checkpoint::{self, Buffers, Position};
use super::kept;
use crate::collective::{Collective, share};
use crate::data::Order;
use crate::error::{Error, Result};
use crate::optim::Parameters;
use fits::fits;

/// A checkpoint that was read and fits.
pub struct Resumed {
    pub from: PathBuf,
    pub position: Position,
    pub buffers: Buffers,
    /// What differs from the run that wrote it, and what was skipped: lines for people.
    pub notes: Vec<String>,
}

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

/// Values of a parameter that is named `classifier.weight [10, 192]`.
fn count_of(name: &str) -> usize {
    let shape = name.rsplit('[').next().unwrap_or_default().trim_end_matches(']');
    shape
        .split(',')
        .filter_map(|size| size.trim().parse::<usize>().ok())
        .product()
}
