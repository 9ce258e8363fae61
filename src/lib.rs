//! dtrain fine-tunes Hugging Face image classifiers on Hugging Face image datasets, one process per rank.
//!
//! The modules follow the way of the data; a module imports only from those below it in this list
//! (`tests/structure.rs` holds it to that). ARCHITECTURE.md has the reasons.

pub mod cli;
pub mod bench;
pub mod train;
pub mod report;
pub mod data;
pub mod model;
pub mod nn;
pub mod optim;
pub mod hub;
pub mod collective;
pub mod ops;
pub mod recipe;
pub mod rng;
pub mod error;

/// Keeps freed blocks: fresh pages for every activation cost a training step up to a third of its time.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[cfg(test)]
#[global_allocator]
static ALLOCATOR: ops::counted::Counted = ops::counted::Counted;

/// Freed memory is never given back (a step frees what the next one needs, and its pages would all have to be faulted in
/// and zeroed again), and large blocks lie on huge pages.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static ALLOCATOR_SETTINGS: &[u8; 47] = b"dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always\0";
