//! Parse, run, print an error, exit code. Nothing else.

fn main() -> std::process::ExitCode {
    dtrain::cli::main()
}
