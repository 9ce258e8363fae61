//! A job of ranks that a test watches from outside: its processes, and the files that it leaves on its way.
#![allow(dead_code)] // no test program uses all of it

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub fn spawn(mut command: Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts")
}

/// Waits until a job has written this file or folder.
pub fn wait_for(path: &Path) {
    let begun = Instant::now();
    while !path.exists() {
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "{} never came",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The ranks that mpirun has started, by process id.
pub fn ranks_of(mpirun: u32) -> Vec<String> {
    let output = Command::new("ps")
        .args(["-o", "pid=", "--ppid", &mpirun.to_string()])
        .output()
        .expect("ps is installed");
    String::from_utf8(output.stdout)
        .unwrap()
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}
