//! The checkpoints of an output directory: their names, which there are, which are kept.

use std::path::{Path, PathBuf};

use super::whole;
use crate::error::Result;

/// The directory of the checkpoint after `step`.
pub fn path(output_dir: &Path, step: u64) -> PathBuf {
    output_dir.join(format!("checkpoint-{step}"))
}

/// The checkpoints in `output_dir` by step, lowest first.
pub fn all(output_dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    if output_dir.is_dir() {
        for path in whole::entries(output_dir)? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Some(step) = name.strip_prefix("checkpoint-").and_then(|step| step.parse().ok())
                && path.is_dir()
            {
                found.push((step, path));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Deletes the oldest checkpoints until `limit` are left; never the newest, nor the one of step `best`.
pub fn keep(output_dir: &Path, limit: usize, best: Option<u64>) -> Result<()> {
    let checkpoints = all(output_dir)?;
    let newest = checkpoints.last().map(|(step, _)| *step);
    let mut surplus = checkpoints.len().saturating_sub(limit.max(1));
    for (step, path) in &checkpoints {
        if surplus > 0 && Some(*step) != newest && Some(*step) != best {
            whole::delete(path)?;
            surplus -= 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(directory: &Path) -> Vec<u64> {
        all(directory).unwrap().into_iter().map(|(step, _)| step).collect()
    }

    #[test]
    fn the_best_and_the_newest_are_kept() {
        for (limit, best, left) in [
            (2, None, vec![30, 40]),
            (2, Some(10), vec![10, 40]),
            (1, Some(20), vec![20, 40]),
            (1, Some(40), vec![40]),
            (9, None, vec![5, 10, 20, 30, 40]),
        ] {
            let place = tempfile::tempdir().unwrap();
            for step in [40, 5, 30, 20, 10] {
                std::fs::create_dir(path(place.path(), step)).unwrap();
            }
            std::fs::create_dir(place.path().join("checkpoint-none")).unwrap();
            keep(place.path(), limit, best).unwrap();
            assert_eq!(steps(place.path()), left, "limit {limit}, best {best:?}");
        }
    }
}
