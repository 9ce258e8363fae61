//! Every kernels/*.cu as one fat binary with machine code for several GPUs, and a Rust table of them.
//!
//! DTRAIN_CUDA_ARCHS names the compute capabilities, by default "80 90": machine code for each and its minor successors
//! (80 serves 8.6 and 8.9 too), and PTX of the last, which drivers compile for newer GPUs. What ptxas says of registers and
//! spills is kept in OUT_DIR/NAME.ptxas.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use crate::run;

/// Compiles what has changed and writes `images.rs`: `IMAGES: &[(&str, &[u8])]`, file names and fat binaries.
pub fn images(out: &Path) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let nvcc = compiler();
    println!("cargo::rustc-env=DTRAIN_CUDA_VERSION={}", version(&nvcc));
    let options = options();
    let headers: Vec<PathBuf> = files(&folder, &["cuh", "h"]);
    let sources = files(&folder, &["cu"]);
    let queue = Mutex::new(sources.iter());
    let jobs = std::env::var("NUM_JOBS")
        .ok()
        .and_then(|jobs| jobs.parse().ok())
        .unwrap_or(1);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let Some(source) = queue.lock().expect("no job panics with the lock").next() else {
                        return;
                    };
                    image(&nvcc, &options, source, &headers, out);
                }
            });
        }
    });
    let mut table = String::from("pub static IMAGES: &[(&str, &[u8])] = &[\n");
    for source in &sources {
        let image = out.join(name(source)).with_extension("fatbin");
        writeln!(table, "    ({:?}, include_bytes!({image:?})),", name(source)).expect("a string grows");
    }
    table.push_str("];\n");
    std::fs::write(out.join("images.rs"), table).expect("cannot write into OUT_DIR");
}

fn image(nvcc: &Path, options: &[String], source: &Path, headers: &[PathBuf], out: &Path) {
    let image = out.join(name(source)).with_extension("fatbin");
    let stamp = image.with_extension("stamp");
    let made_from = inputs(nvcc, options, source, headers);
    if image.exists() && std::fs::read_to_string(&stamp).is_ok_and(|stamp| stamp == made_from) {
        return;
    }
    let said = run(Command::new(nvcc).args(options).arg("-o").arg(&image).arg(source));
    std::fs::write(image.with_extension("ptxas"), said).expect("cannot write into OUT_DIR");
    std::fs::write(stamp, made_from).expect("cannot write into OUT_DIR");
}

/// All that an image depends on, in one text.
fn inputs(nvcc: &Path, options: &[String], source: &Path, headers: &[PathBuf]) -> String {
    let mut all = format!("{}\n{}\n", nvcc.display(), options.join(" "));
    for file in headers.iter().map(PathBuf::as_path).chain([source]) {
        let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        writeln!(all, "{}\n{text}", file.display()).expect("a string grows");
    }
    all
}

fn options() -> Vec<String> {
    let archs = std::env::var("DTRAIN_CUDA_ARCHS").unwrap_or_else(|_| "80 90".to_owned());
    // The language and the arithmetic are the same for kernels/ptxas.sh.
    let flags = include_str!("../nvcc.flags").split_whitespace();
    let mut options: Vec<String> = flags
        .chain(["-fatbin", "-lineinfo", "-Xptxas", "-v"])
        .map(str::to_owned)
        .collect();
    let archs: Vec<&str> = archs.split_whitespace().collect();
    for arch in &archs {
        options.push(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
    }
    let last = archs
        .last()
        .unwrap_or_else(|| panic!("DTRAIN_CUDA_ARCHS names no compute capability"));
    options.push(format!("-gencode=arch=compute_{last},code=compute_{last}"));
    options
}

/// NVCC, CUDA_HOME, CUDA_PATH, then PATH and /usr/local/cuda.
fn compiler() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let homes = [
        variable("CUDA_HOME"),
        variable("CUDA_PATH"),
        Some("/usr/local/cuda".into()),
    ];
    let in_homes = homes
        .into_iter()
        .flatten()
        .map(|home| home.join("bin/nvcc"))
        .filter(|nvcc| nvcc.exists());
    let candidates = variable("NVCC")
        .into_iter()
        .chain(in_homes)
        .chain([PathBuf::from("nvcc")]);
    for nvcc in candidates {
        if Command::new(&nvcc)
            .arg("--version")
            .output()
            .is_ok_and(|output| output.status.success())
        {
            return nvcc;
        }
    }
    panic!(
        "feature `cuda` needs nvcc, and neither NVCC, CUDA_HOME, CUDA_PATH nor PATH leads to one that runs\n  \
         to do: install the CUDA toolkit (12.4 or later) and set CUDA_HOME, or run `. launch/cuda-toolchain.sh`, which \
         fetches a compiler as pip wheels"
    );
}

/// `13.0`, the toolkit's version.
fn version(nvcc: &Path) -> String {
    let said = run(Command::new(nvcc).arg("--version"));
    let version = said.split("release ").nth(1).and_then(|rest| rest.split(',').next());
    version
        .unwrap_or_else(|| panic!("{} says no version:\n{said}", nvcc.display()))
        .trim()
        .to_owned()
}

fn name(source: &Path) -> &str {
    source
        .file_stem()
        .and_then(|name| name.to_str())
        .expect("kernel files have plain names")
}

/// The files of `folder` with one of the endings, in order of their names.
fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|ending| endings.iter().any(|wanted| ending == *wanted))
        })
        .collect();
    files.sort();
    files
}
