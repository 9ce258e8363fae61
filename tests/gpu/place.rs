//! Which GPU the tests run on: a real one if there is a driver, else the stand-in, which is built here.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use candle_core::Device;
use dtrain::ops::device::{self, NodeRank};
use dtrain::recipe::DeviceChoice;

use super::host::Host;

/// The GPU of all tests of this process.
pub fn gpu() -> &'static Device {
    static GPU: OnceLock<Device> = OnceLock::new();
    GPU.get_or_init(|| {
        for (name, value) in environment() {
            // SAFETY: under the lock of the first test that wants a GPU; the others wait for it, and nothing that runs
            // meanwhile changes the environment.
            unsafe { std::env::set_var(name, value) };
        }
        let place = NodeRank { rank: 0, ranks: 1 };
        device::open(DeviceChoice::Cuda, place).expect("a GPU").device
    })
}

pub fn is_real() -> bool {
    Path::new("/dev/nvidiactl").exists()
}

/// Whether each of so many ranks can have a GPU of its own; says so if not.
pub fn has_gpus(ranks: usize) -> bool {
    let real = || std::fs::read_dir("/proc/driver/nvidia/gpus").map_or(1, |gpus| gpus.count());
    let enough = !is_real() || ranks <= real();
    if !enough {
        let _ = writeln!(std::io::stderr(), "SKIPPED: fewer than {ranks} GPUs");
    }
    enough
}

/// What a program needs to find the stand-in; nothing on a machine with a GPU.
pub fn environment() -> &'static [(&'static str, String)] {
    static ENVIRONMENT: OnceLock<Vec<(&'static str, String)>> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| match is_real() {
        true => Vec::new(),
        false => {
            let text = |path: &Path| path.to_str().expect("a plain path").to_owned();
            vec![
                ("DTRAIN_CUDA_LIB_DIR", text(&libraries())),
                ("DTRAIN_STAND_IN_KERNELS", text(&Host::kernels().object)),
            ]
        }
    })
}

/// The folder with the stand-ins for CUDA's libraries.
fn libraries() -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand_in");
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .expect("a temporary folder")
        .keep();
    for (source, name) in [
        ("driver.cpp", "libcuda.so.1"),
        ("cublaslt.cpp", "libcublasLt.so.13"),
        ("nccl.cpp", "libnccl.so.2"),
    ] {
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
        let mut command = Command::new(compiler);
        command.args([
            "-std=c++17",
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-fPIC",
            "-shared",
            "-o",
        ]);
        command
            .arg(folder.join(name))
            .arg(sources.join(source))
            .args(["-ldl", "-lpthread"]);
        let output = command.output().expect("a C++17 compiler (set CXX)");
        assert!(
            output.status.success(),
            "{command:?}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    folder
}
