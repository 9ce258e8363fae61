//! Builds what feature `cuda` needs: the kernels as images for the GPUs, and stand-ins for CUDA's shared libraries.
//!
//! Without the feature it does nothing. Variables: CUDA_HOME and NVCC (where nvcc is), DTRAIN_CUDA_ARCHS (see nvcc.rs),
//! DTRAIN_CUDA_LINK=lazy|installed (see lazy.rs).

mod lazy;
mod nvcc;

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=kernels");
    for name in [
        "CUDA_HOME",
        "CUDA_PATH",
        "NVCC",
        "DTRAIN_CUDA_ARCHS",
        "DTRAIN_CUDA_LINK",
    ] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    nvcc::images(&out);
    let target = ["CARGO_CFG_TARGET_ARCH", "CARGO_CFG_TARGET_OS"].map(|name| std::env::var(name).unwrap_or_default());
    let link = match std::env::var("DTRAIN_CUDA_LINK").as_deref() {
        Ok("installed") => "installed",
        Ok("lazy") | Err(_) if target == ["x86_64", "linux"] => "lazy",
        Err(_) => "installed",
        Ok(other) => {
            panic!("DTRAIN_CUDA_LINK={other} is not possible here; choose \"installed\" (or \"lazy\", on x86-64 Linux)")
        }
    };
    if link == "lazy" {
        lazy::archives(&out);
        println!("cargo::rustc-link-search=native={}", out.display());
    }
}

/// Runs a command to its end; its output, or a panic that shows the command and what it said.
fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let said = [output.stdout, output.stderr]
        .map(|said| String::from_utf8_lossy(&said).into_owned())
        .concat();
    assert!(output.status.success(), "{command:?} failed:\n{said}");
    said
}
