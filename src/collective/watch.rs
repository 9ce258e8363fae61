//! A thread that watches over the calls that block: a rank that freezes in the middle of one would hold the others in it
//! for ever.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::waiting::Waiting;

/// Between looks at the call that is under way.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Calls `give_up` with a call's name and duration when it takes longer than ranks wait for each other.
pub struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    call: Mutex<Option<Call>>,
    ends: AtomicBool,
}

#[derive(Clone, Copy)]
struct Call {
    name: &'static str,
    begun: Instant,
}

impl Watch {
    pub fn begin(give_up: impl Fn(&str, Duration) + Send + 'static) -> Watch {
        let shared = Arc::new(Shared {
            call: Mutex::new(None),
            ends: AtomicBool::new(false),
        });
        let seen = shared.clone();
        let thread = std::thread::spawn(move || {
            while !seen.ends.load(Ordering::Acquire) {
                std::thread::park_timeout(LOOK_EVERY);
                let call = *seen.call();
                if let Some(call) = call
                    && Waiting::begin(call.begun).is_over(Instant::now())
                {
                    give_up(call.name, call.begun.elapsed());
                }
            }
        });
        Watch {
            shared,
            thread: Some(thread),
        }
    }

    /// Runs `body`, which may block, under watch. One call at a time.
    pub fn over<R>(&self, name: &'static str, body: impl FnOnce() -> R) -> R {
        *self.shared.call() = Some(Call {
            name,
            begun: Instant::now(),
        });
        let result = body();
        *self.shared.call() = None;
        result
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn call(&self) -> MutexGuard<'_, Option<Call>> {
        self.call.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_short_call_passes_and_the_thread_ends() {
        let (said, heard) = channel();
        let watch = Watch::begin(move |name, _| said.send(name.to_owned()).unwrap());
        assert_eq!(watch.over("a sum", || 3), 3);
        std::thread::sleep(2 * LOOK_EVERY);
        drop(watch);
        assert_eq!(heard.iter().count(), 0);
    }
}
