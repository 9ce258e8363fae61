//! How many bytes of encoded images a process may keep.
//!
//! A page that is read again for one image costs a few milliseconds, as much as decoding the image: a dataset should fit.
//! But a node has several ranks, each of them keeps its own, and the files are in the system's cache besides.

use std::path::Path;

const LEAST: u64 = 2 << 30;
/// Eight ranks then take half of what is free.
const PART: u64 = 16;

/// A sixteenth of the usable memory, at least 2 GiB.
pub(super) fn cache_bytes() -> usize {
    budget(usable())
}

/// The memory that is free or that the container may use, whichever is less.
pub fn usable_memory() -> Option<usize> {
    usable().map(|bytes| bytes as usize)
}

fn usable() -> Option<u64> {
    let limits = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let limits = limits
        .iter()
        .filter_map(|path| std::fs::read_to_string(Path::new(path)).ok()?.trim().parse().ok());
    let available = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| available_bytes(&text));
    limits.chain(available).min()
}

/// "MemAvailable:   24013204 kB"
fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

fn budget(usable: Option<u64>) -> usize {
    usable.map_or(LEAST, |bytes| (bytes / PART).max(LEAST)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_free_memory_is_used() {
        let meminfo = "MemTotal:       1056000000 kB\nMemFree:  5 kB\nMemAvailable:   1048576000 kB\n";
        assert_eq!(available_bytes(meminfo), Some(1000 << 30));
        assert_eq!(available_bytes("MemAvailable: lots"), None);
        assert_eq!(budget(Some(1600 << 30)), 100 << 30);
        assert_eq!([budget(Some(24 << 30)), budget(None)], [2 << 30; 2]);
        assert!(cache_bytes() >= 2 << 30);
    }
}
