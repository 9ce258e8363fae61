//! `dtrain train`: from typed flags to a finished run, with a preflight in between.

use std::process::ExitCode;
use std::sync::Arc;

use super::arguments::TrainArguments;
use super::preflight::Preflight;
use super::run::{Decided, Facts, decide, have_bf16};
use super::{cores, failed, fetch, push, say};
use crate::collective::{Collective, job, ranks_of_device, with_devices};
use crate::error::{Error, Result};
use crate::ops::device::{NodeRank, Placement, open};
use crate::recipe::Recipe;
use crate::train::{self, Inputs, Shuffling, Splits};

/// Whether a run that was decided is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Print what would be run.
    Preflight,
    Train,
}

/// Joins the job and trains; what was typed is checked before, so that nonsense costs nobody a launch.
pub fn run(arguments: &TrainArguments) -> ExitCode {
    let depth = match arguments.dry_run {
        true => Depth::Preflight,
        false => Depth::Train,
    };
    match arguments.resolve() {
        Ok(recipe) => job(|collective| carry_out(recipe, depth, collective)),
        Err(error) => failed(&error),
    }
}

/// Every rank must call it.
pub fn carry_out(recipe: Recipe, depth: Depth, collective: &Arc<dyn Collective>) -> Result<()> {
    let local = collective.local();
    let place = NodeRank {
        rank: local.rank,
        ranks: local.world,
    };
    let opened = open(recipe.device, place)?;
    let collective = with_devices(collective.clone(), &opened.device, opened.identity.as_deref())?;
    let (places, found) = fetch::places(&recipe, &*collective)?;
    let splits = Splits::open(&recipe, &places.dataset)?;
    let facts = Facts {
        train_samples: splits.train.len(),
        eval_samples: splits.eval.as_ref().map_or(0, |eval| eval.len()),
        world: collective.world(),
        ranks_of_device: ranks_of_device(&*collective, opened.identity.as_deref())?,
        cores: cores::of_this_rank(&*collective)?,
        bf16: have_bf16(&*collective)?,
    };
    let Decided { run, mut notes } = decide(recipe, &facts, opened.device)?;
    start_threads(run.threads)?;
    let shuffling = Shuffling::plan(&run.recipe, &splits.train, run.global_batch)?;
    let placement = Placement::new(&run.device, run.precision);
    let inputs = Inputs::open(&run.recipe, &places, splits, shuffling, placement)?;
    notes.extend(found);
    if collective.rank() == 0 {
        say(&Preflight::new(&run, &inputs, &opened.note, &notes).to_string());
    }
    let push = match collective.rank() {
        0 => push::prepare(&run.recipe)?,
        _ => None,
    };
    if depth == Depth::Preflight {
        return Ok(());
    }
    train::train(&run, inputs, &collective)?;
    match push {
        Some(push) => push.carry_out(),
        None => Ok(()),
    }
}

/// Gives the pool that all operations share its size.
pub fn start_threads(threads: usize) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.thread_name(|number| format!("compute {number}"))
        .build_global()
        .map_err(|e| {
            Error::usage(
                format!("cannot start {threads} compute threads: {e}"),
                "lower --threads, or raise the limit of processes (ulimit -u)",
            )
        })
}
