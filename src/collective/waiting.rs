//! How a rank waits for the others, in MPI as in NCCL, and what it says when they do not come.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// How long ranks listen for each other once one has given up.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Between looks at what the other ranks say.
const LOOK_EVERY: Duration = Duration::from_millis(200);

const DEFAULT_LIMIT: Duration = Duration::from_secs(1800);

/// How long ranks wait for each other: `DTRAIN_TIMEOUT`. Error: it is no number of seconds.
pub fn limit() -> Result<Duration> {
    let Some(seconds) = std::env::var_os("DTRAIN_TIMEOUT") else {
        return Ok(DEFAULT_LIMIT);
    };
    let number = seconds.to_str().and_then(|seconds| seconds.trim().parse().ok());
    match number.filter(|number| *number > 0) {
        Some(number) => Ok(Duration::from_secs(number)),
        None => Err(Error::usage(
            format!("DTRAIN_TIMEOUT is {seconds:?}, which is no number of seconds"),
            "set it to a whole number above 0, or unset it: then ranks wait for each other for 30 minutes",
        )),
    }
}

/// Waiting for a moment only, then in naps.
pub struct Waiting {
    begun: Instant,
    looked: Instant,
    limit: Duration,
}

impl Waiting {
    pub fn begin(now: Instant) -> Self {
        Waiting {
            begun: now,
            looked: now,
            limit: limit().unwrap_or(DEFAULT_LIMIT),
        }
    }

    /// Is it time to look at what the other ranks say?
    pub fn looks_around(&mut self, now: Instant) -> bool {
        let is_time = now - self.looked >= LOOK_EVERY;
        if is_time {
            self.looked = now;
        }
        is_time
    }

    pub fn is_over(&self, now: Instant) -> bool {
        now - self.begun >= self.limit
    }

    pub fn since(&self, now: Instant) -> Duration {
        now - self.begun
    }

    /// Leaves the core to others for a moment.
    pub fn pause(&self) {
        match nap(self.begun.elapsed()) {
            Some(nap) => std::thread::sleep(nap),
            None => std::thread::yield_now(),
        }
    }
}

/// How long to sleep after so long a wait. A nap delays the ranks that come meanwhile, for the whole job: it is a small part of
/// what was waited in any case, and there is none while a sum of small gradients may be under way, which takes less than
/// waking up does.
fn nap(waited: Duration) -> Option<Duration> {
    const WAKEFUL: Duration = Duration::from_millis(5);
    const LONGEST: Duration = Duration::from_micros(500);
    (waited >= WAKEFUL).then(|| (waited / 64).min(LONGEST))
}

/// The others did not come.
pub fn absent(what: &str, waited: Duration, silent: &[usize], hosts: &[String]) -> Error {
    let seconds = waited.as_secs_f64();
    Error::Ranks {
        what: match silent.is_empty() {
            true => format!("{what} did not end within {seconds:.0} s although all ranks take part"),
            false => format!(
                "{} did not take part in {what} for {seconds:.0} s",
                names(silent, hosts)
            ),
        },
        fix: "look at what that rank printed last; if it is only slow, raise DTRAIN_TIMEOUT (seconds)".into(),
    }
}

/// NCCL itself gave up.
pub fn broken(what: &str, kind: &str, details: &str, silent: &[usize], hosts: &[String]) -> Error {
    let suspects = match silent.is_empty() {
        true => String::new(),
        false => format!("; lost: {}", names(silent, hosts)),
    };
    let details = match details.trim() {
        "" => String::new(),
        details => format!(" ({details})"),
    };
    Error::Ranks {
        what: format!("{what} failed: {kind}{details}{suspects}"),
        fix: "look at the first failing rank; NCCL_DEBUG=INFO makes NCCL say more".into(),
    }
}

fn names(ranks: &[usize], hosts: &[String]) -> String {
    let name = |rank: &usize| match hosts.get(*rank) {
        Some(host) => format!("rank {rank} ({host})"),
        None => format!("rank {rank}"),
    };
    ranks.iter().map(name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_ranks_that_are_missing() {
        let hosts = ["a", "b", "c"].map(str::to_owned);
        let message = absent("the sum", Duration::from_secs(600), &[0, 2], &hosts).to_string();
        assert!(
            message.contains("rank 0 (a), rank 2 (c) did not take part"),
            "{message}"
        );
        let message = broken("the sum", "remote error", " ", &[1], &hosts).to_string();
        assert!(message.contains("failed: remote error; lost: rank 1 (b)"), "{message}");
    }

    #[test]
    fn naps_are_a_small_part_of_the_wait() {
        assert_eq!(nap(Duration::from_millis(4)), None);
        assert_eq!(nap(Duration::from_micros(6400)), Some(Duration::from_micros(100)));
        assert_eq!(nap(Duration::from_secs(60)), Some(Duration::from_micros(500)));
    }

    #[test]
    fn a_wait_looks_around_and_ends() {
        let now = Instant::now();
        let mut waiting = Waiting::begin(now);
        assert!(!waiting.looks_around(now + Duration::from_millis(100)));
        assert!(waiting.looks_around(now + Duration::from_millis(300)));
        assert!(!waiting.looks_around(now + Duration::from_millis(400)));
        assert!(!waiting.is_over(now + Duration::from_secs(1799)) && waiting.is_over(now + Duration::from_secs(1800)));
    }
}
