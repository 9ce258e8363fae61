//! What was typed becomes what was decided: one file a command.

mod arguments;
mod bench;
mod cores;
mod demo;
mod drop_in;
mod eval;
mod fetch;
mod inspect;
mod merge;
mod predict;
mod preflight;
mod push;
mod recipes;
mod run;
mod spelling;
mod train;
mod trained;
mod typed;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::collective::Launcher;
use crate::error::Error;
use arguments::TrainArguments;

/// Exit code of a command that was typed wrongly, as clap's.
const WRONG_USAGE: u8 = 2;
const FAILED: u8 = 1;

/// Fine-tunes Hugging Face image classifiers on Hugging Face image datasets, one process per rank.
#[derive(Parser, Debug)]
#[command(
    name = "dtrain",
    version,
    args_conflicts_with_subcommands = true,
    args_override_self = true,
    max_term_width = 110
)]
#[command(
    after_help = "Flags can be spelled with hyphens or underscores. Without a command, dtrain trains:\n  \
    mpirun -n 2 dtrain --recipe vit-lora --model DIR --dataset DIR"
)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    train: TrainArguments,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Fine-tune a model (the default command)
    Train(Box<TrainArguments>),
    /// List the built-in recipes, or print one with all its values
    Recipes {
        /// Built-in recipe, or a TOML file
        name: Option<String>,
    },
    /// Make a small dataset and a small pretrained model to try things out with
    Demo(demo::DemoArguments),
    /// Figures of a trained model on a split of a dataset
    Eval(Box<eval::EvalArguments>),
    /// The likeliest classes of pictures
    Predict(Box<predict::PredictArguments>),
    /// Make one checkpoint of an adapter and its base
    Merge(merge::MergeArguments),
    /// What a dataset, a checkpoint or an adapter is made of
    Inspect(Box<inspect::InspectArguments>),
    /// Measure the parts of a run on this machine
    Bench(bench::BenchArguments),
}

/// The whole program: parses `std::env::args`, runs the command, prints an error on stderr.
pub fn main() -> ExitCode {
    let translated = match drop_in::translate(std::env::args_os()) {
        Ok(translated) => translated,
        Err(error) => return failed(&error),
    };
    if speaks() {
        translated.notes.iter().for_each(|note| eprintln!("{note}"));
    }
    let arguments = spelling::normalise(translated.arguments.into_iter());
    let matches = command().try_get_matches_from(arguments);
    let typed = match matches.and_then(|matches| CommandLine::from_arg_matches(&matches)) {
        Ok(typed) => typed,
        Err(e) => return refused(&e),
    };
    let done = match typed.command {
        None => return train::run(&typed.train),
        Some(Command::Train(arguments)) => return train::run(&arguments),
        Some(Command::Recipes { name }) => recipes::show(name.as_deref()).map(|text| say(&text)),
        Some(Command::Demo(arguments)) => return demo::run(&arguments),
        Some(Command::Bench(arguments)) => return bench::run(&arguments),
        Some(Command::Eval(arguments)) => return eval::run(&arguments),
        // What one process does alone; under a launcher the others have nothing to do.
        Some(Command::Predict(_) | Command::Merge(_) | Command::Inspect(_)) if !speaks() => return ExitCode::SUCCESS,
        Some(Command::Predict(arguments)) => return predict::run(&arguments),
        Some(Command::Merge(arguments)) => merge::run(&arguments),
        Some(Command::Inspect(arguments)) => inspect::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => failed(&e),
    }
}

/// The parser; `-1` is a value, which a message about its range answers better than one about an unknown flag.
fn command() -> clap::Command {
    let negative = |arg: clap::Arg| match arg.get_action().takes_values() {
        true => arg.allow_negative_numbers(true),
        false => arg,
    };
    CommandLine::command()
        .mut_args(negative)
        .mut_subcommand("train", |train| train.mut_args(negative))
}

/// Arguments that cannot be read. Every rank has the same ones, so only the first prints; `--help` comes here, too.
fn refused(error: &clap::Error) -> ExitCode {
    if speaks() {
        let _ = error.print();
    }
    match error.use_stderr() {
        true => ExitCode::from(WRONG_USAGE),
        false => ExitCode::SUCCESS,
    }
}

/// An error before the ranks have met: all of them have it, only the first prints it, in one piece, since mpirun may have
/// something to say at the same time.
fn failed(error: &Error) -> ExitCode {
    if speaks() {
        let _ = std::io::stderr().write_all(format!("error: {error}\n").as_bytes());
    }
    match error {
        Error::Usage { .. } => ExitCode::from(WRONG_USAGE),
        _ => ExitCode::from(FAILED),
    }
}

/// Prints to stdout; whoever reads it may have seen enough (`dtrain recipes | head -1`), which is no error.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Before the ranks have met, the launcher's environment tells which process is the first.
fn speaks() -> bool {
    !matches!(Launcher::of_this_process(), Ok(Some(launcher)) if launcher.rank > 0)
}
