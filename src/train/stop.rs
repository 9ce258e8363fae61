//! Requests to stop: SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 end the run after the step under way, with a checkpoint.
//!
//! The request is noted by a flag; the ranks agree on it in the sum that every step makes anyway. A second signal of the
//! same kind ends the process at once, and once training is over so does the first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::{flag, low_level};

use crate::error::{Error, Result};

/// Listens from its creation on; once it is dropped, a signal ends the process.
pub struct StopRequests {
    /// Number of the latest signal, 0: none.
    latest: Arc<AtomicUsize>,
    /// For each signal: does the next one end the process?
    at_once: Vec<Arc<AtomicBool>>,
}

impl StopRequests {
    pub fn listen() -> Result<StopRequests> {
        let latest = Arc::new(AtomicUsize::new(0));
        let mut requests = StopRequests {
            latest: latest.clone(),
            at_once: Vec::new(),
        };
        for signal in [SIGTERM, SIGINT, SIGUSR1] {
            // Armed by the first signal, so it acts on the second; it must be registered before what arms it.
            let at_once = Arc::new(AtomicBool::new(false));
            let registered = [
                flag::register_conditional_shutdown(signal, 128 + signal, at_once.clone()),
                flag::register(signal, at_once.clone()),
                flag::register_usize(signal, latest.clone(), signal as usize),
            ];
            for listener in registered {
                listener.map_err(|error| {
                    Error::usage(format!("cannot listen to signal {signal}: {error}"), "report this")
                })?;
            }
            requests.at_once.push(at_once);
        }
        Ok(requests)
    }

    /// The signal that asked this process to stop.
    pub fn latest(&self) -> Option<i32> {
        match self.latest.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal as i32),
        }
    }
}

impl Drop for StopRequests {
    /// An upload may follow, which must not outlive Ctrl-C. Taking the listeners back would leave the signals without effect.
    fn drop(&mut self) {
        for at_once in &self.at_once {
            at_once.store(true, Ordering::Relaxed);
        }
    }
}

/// `SIGTERM`.
pub fn name(signal: i32) -> &'static str {
    low_level::signal_name(signal).unwrap_or("a signal")
}
