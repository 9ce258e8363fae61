//! A job's beginning and end: a rank that fails, by an error or by a panic, ends all of them, with one message.
//!
//! Leaving `main` instead would call `MPI_Finalize`, which waits for ranks that wait in a collective call.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::{Collective, join};
use crate::error::{Error, Result, panic_becomes_an_error};

/// Joins the job of this process, runs `body` and leaves in order; the process's exit code.
/// A failure of `body` prints one message with rank and host and ends every rank of the job.
pub fn job(body: impl FnOnce(&Arc<dyn Collective>) -> Result<()>) -> ExitCode {
    let collective = match join() {
        Ok(collective) => collective,
        Err(error) => {
            tell(&format!("error: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match collective.world() {
        1 => keep_quiet_about_foreign_panics(),
        _ => end_all_on_panic(collective.clone()),
    }
    match body(&collective) {
        Ok(()) => {
            // The hook holds a share of the collective, and the last one to let go of it finalizes MPI.
            drop(std::panic::take_hook());
            ExitCode::SUCCESS
        }
        Err(error) if collective.world() == 1 => {
            tell(&format!("error: {error}"));
            ExitCode::from(code_of(&error))
        }
        Err(error) => {
            let code = last_words(collective.rank(), collective.world(), &error);
            collective.abort(code)
        }
    }
}

/// Says what ends the job, unless a lower rank says it first; the exit code.
pub(super) fn last_words(rank: usize, world: usize, error: &Error) -> i32 {
    wait_for_lower_ranks(rank);
    tell(&format!("error on {}: {error}", place(rank, world)));
    code_of(error).into()
}

/// Writes a message at once, so that the launcher and other ranks cannot write into the middle of it.
fn tell(message: &str) {
    let _ = std::io::stderr().write_all(format!("{message}\n").as_bytes());
}

/// 75 says to batch systems that the same command, started again, goes on (EX_TEMPFAIL of sysexits.h).
fn code_of(error: &Error) -> u8 {
    match error {
        Error::Stopped { .. } => 75,
        _ => 1,
    }
}

/// This machine's name, for messages.
pub fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME"));
    match name.as_deref().map(str::trim) {
        Ok(name) if !name.is_empty() => name.to_string(),
        _ => "unknown host".to_string(),
    }
}

fn end_all_on_panic(collective: Arc<dyn Collective>) {
    let place = place(collective.rank(), collective.world());
    std::panic::set_hook(Box::new(move |panic| {
        if panic_becomes_an_error() {
            return;
        }
        tell(&format!(
            "error on {place}: {panic}\n  to do: this is a bug of dtrain, please report it"
        ));
        collective.abort(101)
    }));
}

fn keep_quiet_about_foreign_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic_becomes_an_error() {
            usual(panic)
        }
    }));
}

/// What fails on one rank often fails on all, such as a missing file: the lowest of them speaks, and ends the others
/// while they still wait here. Any rank's wait is short against the seconds that the job may take to end.
fn wait_for_lower_ranks(rank: usize) {
    if rank > 0 {
        std::thread::sleep(Duration::from_millis((300 + 100 * rank as u64).min(3000)));
    }
}

fn place(rank: usize, world: usize) -> String {
    format!("rank {rank} of {world} ({})", host())
}
