//! How many cores a rank may use: its fair share of those that it is allowed to run on.
//!
//! A launcher may bind every rank to cores of its own, to one socket, or not at all; containers limit cores or time. All of
//! this is answered by one rule: a core is shared evenly by the ranks of its node that may run on it.

use crate::collective::{Collective, gather, host};
use crate::error::Result;

/// What one process may use of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    host: String,
    /// Numbers of the cores that it may run on.
    cores: Vec<usize>,
    /// Cores' worth of time that all processes of the container may use together.
    time: usize,
}

/// Cores of this rank, at least 1. Every rank must call it.
pub fn of_this_rank(collective: &dyn Collective) -> Result<usize> {
    let places = gather(collective, Place::here().to_text().as_bytes())?;
    let places: Vec<Place> = places.iter().map(|text| Place::from_text(text)).collect();
    Ok(share(&places, collective.rank()))
}

/// Rank `rank`'s share when the ranks are at `places`.
fn share(places: &[Place], rank: usize) -> usize {
    let mine = &places[rank];
    let neighbours: Vec<&Place> = places.iter().filter(|place| place.host == mine.host).collect();
    let users = |core: usize| neighbours.iter().filter(|place| place.cores.contains(&core)).count();
    let share: f64 = mine.cores.iter().map(|&core| 1.0 / users(core) as f64).sum();
    // Sums of thirds may fall short of a whole by a rounding.
    let cores = (share + 1e-9) as usize;
    cores.min(mine.time / neighbours.len()).max(1)
}

impl Place {
    fn here() -> Self {
        let time = std::thread::available_parallelism().map_or(1, usize::from);
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let cores = allowed.and_then(|list| core_list(list.trim()));
        Place {
            host: host(),
            cores: cores.unwrap_or_else(|| (0..time).collect()),
            // Without a limit on time, this is the number of allowed cores, which `share` divides already.
            time: limit_of_time().unwrap_or(usize::MAX),
        }
    }

    fn to_text(&self) -> String {
        let cores: Vec<String> = self.cores.iter().map(usize::to_string).collect();
        format!("{}\n{}\n{}", self.host, self.time, cores.join(","))
    }

    fn from_text(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let mut lines = text.lines();
        Place {
            host: lines.next().unwrap_or_default().to_owned(),
            time: lines.next().and_then(|time| time.parse().ok()).unwrap_or(usize::MAX),
            cores: lines.next().and_then(core_list).unwrap_or_default(),
        }
    }
}

/// Reads `0-3,8`.
fn core_list(text: &str) -> Option<Vec<usize>> {
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cores.extend(first.trim().parse::<usize>().ok()?..=last.trim().parse().ok()?);
    }
    Some(cores)
}

/// The container's quota (cgroup v2's `cpu.max`), in cores.
fn limit_of_time() -> Option<usize> {
    let text = std::fs::read_to_string("/sys/fs/cgroup/cpu.max").ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (usize, usize) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0).then(|| (quota / period).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(host: &str, cores: &str, time: usize) -> Place {
        Place {
            host: host.to_owned(),
            cores: core_list(cores).unwrap(),
            time,
        }
    }

    fn shares(places: &[Place]) -> Vec<usize> {
        (0..places.len()).map(|rank| share(places, rank)).collect()
    }

    #[test]
    fn a_nodes_cores_are_divided_among_its_ranks() {
        let free = |host| place(host, "0-7", usize::MAX);
        assert_eq!(shares(&[free("a")]), [8]);
        assert_eq!(shares(&[free("a"), free("a")]), [4, 4]);
        assert_eq!(shares(&[free("a"), free("a"), free("a")]), [2, 2, 2]);
        assert_eq!(shares(&[free("a"), free("b")]), [8, 8]);
        assert_eq!(shares(&vec![free("a"); 20]), [1; 20]);
    }

    #[test]
    fn ranks_bound_to_cores_of_their_own_share_nothing() {
        assert_eq!(shares(&[place("a", "0-3", 100), place("a", "4-7", 100)]), [4, 4]);
        assert_eq!(shares(&[place("a", "0", 100), place("a", "1", 100)]), [1, 1]);
        assert_eq!(shares(&[place("a", "0-3", 100), place("a", "0-7", 100)]), [2, 6]);
    }

    #[test]
    fn a_limit_of_time_holds_for_all_ranks_of_the_container() {
        assert_eq!(shares(&[place("a", "0-63", 4), place("a", "0-63", 4)]), [2, 2]);
        assert_eq!(shares(&[place("a", "0-63", 1), place("a", "0-63", 1)]), [1, 1]);
    }

    #[test]
    fn places_survive_their_journey() {
        let place = place("node-7", "0-3,8,10-11", 6);
        assert_eq!(place.cores, [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(Place::from_text(place.to_text().as_bytes()), place);
        assert!(!Place::here().cores.is_empty());
    }
}
