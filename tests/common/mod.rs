//! What several test programs share: where the reference material lies.

use std::io::Write;
use std::path::{Path, PathBuf};

/// A file or folder of the reference material (`DTRAIN_SHARED`, else `shared` beside the checkout).
///
/// None where there is none, after saying so: a fresh clone by itself has no reference material. When `DTRAIN_SHARED` is
/// set, something missing there is a failure.
#[allow(dead_code)]
pub fn shared(path: &str) -> Option<PathBuf> {
    let set = std::env::var_os("DTRAIN_SHARED").map(PathBuf::from);
    let must_exist = set.is_some();
    let root = set.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    let full = root.join(path);
    if full.exists() {
        return Some(full);
    }
    assert!(!must_exist, "{} is missing", full.display());
    // Not eprintln!, which the test harness swallows.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: no reference material at {}",
        full.display()
    );
    None
}

/// How a program ended: its exit code (None: by a signal) and what it wrote to both outputs.
#[allow(dead_code)] // not every test program starts ranks
pub struct Ended {
    pub code: Option<i32>,
    pub text: String,
}

/// Runs `program` on `world` ranks of this machine. More ranks than cores are allowed, root too: test machines and
/// containers have few cores and no other user.
#[allow(dead_code)]
pub fn mpirun(world: usize, program: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
    Ended::of(
        mpirun_command(world, program, arguments, environment)
            .output()
            .expect("mpirun is installed"),
    )
}

#[allow(dead_code)]
impl Ended {
    pub fn of(output: std::process::Output) -> Ended {
        let text = [output.stdout, output.stderr]
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .concat();
        Ended {
            code: output.status.code(),
            text,
        }
    }
}

/// The command of [`mpirun`], for tests that watch the job while it runs.
#[allow(dead_code)]
pub fn mpirun_command(
    world: usize,
    program: &Path,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> std::process::Command {
    let mut command = std::process::Command::new("mpirun");
    command
        .args([
            "--allow-run-as-root",
            "--oversubscribe",
            "--bind-to",
            "none",
            "-n",
            &world.to_string(),
        ])
        .arg(program)
        .args(arguments)
        .envs(environment.iter().copied());
    command
}
