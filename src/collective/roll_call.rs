//! How ranks that have given up waiting find out who is missing: each says so to all others and listens for a while.

use std::time::{Duration, Instant};

use mpi::ffi;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{AsRaw, Communicator, Source};

/// Tag of the message that a rank has given up waiting.
const GIVEN_UP: i32 = 7;

/// Says to all others that this `rank` has given up, listens to them, and returns those that did not say so themselves.
/// MPI must be initialised, and no other thread inside of it unless it allows several.
pub fn call_out(rank: usize, world: usize, patience: Duration) -> Vec<usize> {
    let mut silent: Vec<usize> = (0..world).filter(|other| *other != rank).collect();
    for other in &silent {
        say_to(*other);
    }
    let begun = Instant::now();
    while !silent.is_empty() && begun.elapsed() < patience {
        match heard() {
            Some(other) => {
                let _: (u8, _) = everybody().process_at_rank(other as i32).receive_with_tag(GIVEN_UP);
                silent.retain(|rank| *rank != other);
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    silent
}

/// A rank whose message that it has given up is here.
pub fn heard() -> Option<usize> {
    let status = everybody().any_process().immediate_probe_with_tag(GIVEN_UP)?;
    Some(status.source_rank() as usize)
}

fn say_to(rank: usize) {
    static NOTHING: u8 = 0;
    // SAFETY: one byte that is never freed; MPI completes the request by itself after it is let go of.
    unsafe {
        let mut request = ffi::RSMPI_REQUEST_NULL;
        ffi::MPI_Isend(
            (&raw const NOTHING).cast(),
            1,
            ffi::RSMPI_UINT8_T,
            rank as i32,
            GIVEN_UP,
            everybody().as_raw(),
            &mut request,
        );
        ffi::MPI_Request_free(&mut request);
    }
}

fn everybody() -> SimpleCommunicator {
    SimpleCommunicator::world()
}
