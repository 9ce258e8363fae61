//! Unreadable images: told once each, with file, row and cause, whichever rank met them, and however often.

use std::collections::BTreeSet;

use crate::collective::{Collective, gather};
use crate::data::BadImage;
use crate::error::Result;

/// What all ranks know of.
#[derive(Default)]
pub struct BadImages {
    known: BTreeSet<String>,
    /// Known and not printed yet.
    new: Vec<String>,
}

impl BadImages {
    /// Takes up what this rank has met in `set` ("training" or "validation"). Every rank must call it.
    pub fn tell(&mut self, collective: &dyn Collective, set: &str, met: &[BadImage]) -> Result<()> {
        let lines: Vec<String> = met
            .iter()
            .map(|image| {
                format!(
                    "left out of {set}: image {}: {}",
                    image.origin,
                    image.cause.replace('\n', " ")
                )
            })
            .filter(|line| !self.known.contains(line))
            .collect();
        for of_rank in gather(collective, lines.join("\n").as_bytes())? {
            for line in String::from_utf8_lossy(&of_rank).lines() {
                if self.known.insert(line.to_owned()) {
                    self.new.push(line.to_owned());
                }
            }
        }
        Ok(())
    }

    /// Lines that have not been taken yet.
    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.new)
    }

    /// Images in all.
    pub fn count(&self) -> usize {
        self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::Single;

    #[test]
    fn an_image_is_told_once() {
        let image = |row| BadImage {
            row,
            origin: format!("train.parquet row {row}"),
            cause: "truncated\nfile".into(),
        };
        let mut bad = BadImages::default();
        bad.tell(&Single, "training", &[image(3)]).unwrap();
        assert_eq!(
            bad.take(),
            ["left out of training: image train.parquet row 3: truncated file"]
        );
        bad.tell(&Single, "training", &[image(3), image(9)]).unwrap();
        assert_eq!((bad.take().len(), bad.count()), (1, 2));
        bad.tell(&Single, "training", &[]).unwrap();
        assert!(bad.take().is_empty());
    }
}
