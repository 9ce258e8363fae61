//! What a measurement was taken on.

use std::fs::read_to_string;

use crate::ops::gemm::{self, Products};

/// The machine and the program.
#[derive(Clone, Debug)]
pub struct Machine {
    /// As the kernel names it.
    pub processor: String,
    /// Cores that this process may run on.
    pub cores: usize,
    pub memory_gib: f64,
    pub system: String,
    pub dtrain: &'static str,
    /// Of the matrix product in f32: AVX-512, AVX2 or plain.
    pub instructions: &'static str,
    /// Processes that were running or ready besides this one's threads, over the last minute: a busy machine measures badly.
    pub load: f64,
}

impl Machine {
    pub fn here() -> Machine {
        let cpuinfo = read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = read_to_string("/proc/meminfo").unwrap_or_default();
        let kibibytes = field(&meminfo, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
        let load = read_to_string("/proc/loadavg").unwrap_or_default();
        Machine {
            processor: field(&cpuinfo, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: kibibytes.unwrap_or(0.0) / (1024.0 * 1024.0),
            system: read_to_string("/proc/sys/kernel/osrelease").map_or_else(
                |_| std::env::consts::OS.to_owned(),
                |release| format!("Linux {}", release.trim()),
            ),
            dtrain: env!("CARGO_PKG_VERSION"),
            instructions: gemm::instructions(Products::F32),
            load: load.split(' ').next().and_then(|one| one.parse().ok()).unwrap_or(0.0),
        }
    }

    /// Name and value, in the order of printing.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        vec![
            ("processor", self.processor.clone()),
            ("cores", self.cores.to_string()),
            ("memory", format!("{:.1} GiB", self.memory_gib)),
            ("system", self.system.clone()),
            ("dtrain", format!("{} ({})", self.dtrain, self.instructions)),
            ("load before", format!("{:.2}", self.load)),
        ]
    }
}

/// The value of a line `name : value` of a file of /proc.
fn field(text: &str, name: &str) -> Option<String> {
    let of = |line: &str| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    };
    text.lines().find_map(of)
}
