//! The Hub against a small server that speaks its protocol: downloads, faults, the cache, ranks, uploads.

#[path = "../common/mod.rs"]
mod common;
mod downloads;
mod faults;
#[path = "../common/playground.rs"]
mod playground;
mod runs;
mod server;

use std::path::Path;
use std::time::Duration;

use dtrain::hub::{Hub, Kind, Repository, Settings};
use server::Server;

/// A Hub that is asked with little patience, and its cache.
fn hub(server: &Server, cache: &Path) -> Hub {
    Hub::new(settings(server, cache)).unwrap()
}

fn settings(server: &Server, cache: &Path) -> Settings {
    Settings {
        endpoint: server.endpoint(),
        cache: cache.to_owned(),
        first_wait: Duration::from_millis(1),
        stall: Duration::from_millis(300),
        ..Settings::read(&|_| None)
    }
}

fn model(id: &str) -> Repository {
    Repository::new(Kind::Model, id, None)
}

/// Bytes of a large file.
fn large(seed: u8) -> Vec<u8> {
    (0..50_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed)
        .collect()
}
