//! A step by kind of layer: time, operations, bytes, and what the machine's ceilings leave to gain.

use std::collections::BTreeMap;

use super::spread::Spread;
use super::{Figure, Table};
use crate::ops::ceilings::Ceilings;
use crate::ops::meter::{Part, Work};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Forward,
    Backward,
    Optimizer,
}

/// What several equal steps consisted of.
#[derive(Default)]
pub struct Measured(BTreeMap<(Part, Phase), Vec<Work>>);

impl Measured {
    /// One more round of a phase.
    pub fn add(&mut self, phase: Phase, work: &BTreeMap<Part, Work>) {
        for (part, work) in work {
            self.0.entry((*part, phase)).or_default().push(*work);
        }
    }

    /// Of one round of a phase.
    pub fn operations(&self, phase: Phase) -> f64 {
        let of_phase = self.0.iter().filter(|((_, of), _)| *of == phase);
        of_phase.map(|(_, rounds)| rounds[0].operations).sum()
    }

    /// Of all parts and phases, medians of the rounds.
    pub fn seconds(&self) -> f64 {
        self.0.values().map(|rounds| median(rounds).seconds).sum()
    }

    /// `step` is the time of a whole step, measured without its parts.
    pub fn table(&self, step: f64, ceilings: Option<Ceilings>) -> Table {
        let mut table = Table::new(
            "parts",
            &[
                "part",
                "forward ms",
                "backward ms",
                "ms",
                "% of step",
                "GFLOP",
                "% of product",
                "MB",
                "% of copy",
                "ms at the ceiling",
            ],
        );
        let mut parts: Vec<Part> = self.0.keys().map(|(part, _)| *part).collect();
        parts.dedup();
        let mut sum = Work::default();
        let mut at_ceilings = 0.0;
        for part in parts {
            let phase = |phase| self.0.get(&(part, phase)).map(|rounds| median(rounds));
            let phases = [Phase::Forward, Phase::Backward, Phase::Optimizer].map(phase);
            let mut all = Work::default();
            phases.iter().flatten().for_each(|work| all += *work);
            sum += all;
            let least = ceilings.map(|c| c.least(&all));
            at_ceilings += least.unwrap_or(0.0);
            table.row(row(&part.name(), [phases[0], phases[1]], &all, step, ceilings, least));
        }
        let least = ceilings.map(|_| at_ceilings);
        table.row(row("sum", [None, None], &sum, step, ceilings, least));
        table
    }
}

fn row(
    name: &str,
    phases: [Option<Work>; 2],
    all: &Work,
    step: f64,
    ceilings: Option<Ceilings>,
    least: Option<f64>,
) -> Vec<Figure> {
    let number = |value: Option<f64>, decimals| value.map_or(Figure::Nothing, |value| Figure::Number(value, decimals));
    let counted = |count: f64, scale: f64| Some(scale * count).filter(|_| count > 0.0);
    let share = |count: f64, ceiling: fn(Ceilings) -> f64| {
        let ceiling = 1e9 * ceilings.map(ceiling)?;
        counted(count, 100.0 / (ceiling * all.seconds))
    };
    vec![
        Figure::Text(name.to_owned()),
        number(phases[0].map(|work| 1e3 * work.seconds), 2),
        number(phases[1].map(|work| 1e3 * work.seconds), 2),
        Figure::Number(1e3 * all.seconds, 2),
        Figure::Number(100.0 * all.seconds / step, 1),
        number(counted(all.operations, 1e-9), 2),
        number(share(all.operations, |c| c.gflops), 1),
        number(counted(all.bytes, 1e-6), 1),
        number(share(all.bytes, |c| c.gbytes), 1),
        number(least.map(|seconds| 1e3 * seconds), 2),
    ]
}

/// The median time; operations and bytes are the same in all rounds.
fn median(rounds: &[Work]) -> Work {
    Work {
        seconds: Spread::of(rounds.iter().map(|work| work.seconds).collect()).median,
        ..rounds[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(seconds: f64, operations: f64, bytes: f64) -> Work {
        Work {
            seconds,
            operations,
            bytes,
        }
    }

    #[test]
    fn parts_are_summed_over_phases_and_held_against_the_higher_ceiling() {
        let mut measured = Measured::default();
        for seconds in [1.0, 2.0, 30.0] {
            let forward = BTreeMap::from([(Part::Mlp, work(seconds, 8e9, 1e9)), (Part::Gelu, work(0.5, 0.0, 4e9))]);
            measured.add(Phase::Forward, &forward);
            measured.add(Phase::Backward, &BTreeMap::from([(Part::Mlp, work(4.0, 16e9, 2e9))]));
        }
        assert_eq!(measured.seconds(), 6.5);
        assert_eq!(measured.operations(Phase::Backward), 16e9);
        let ceilings = Ceilings {
            gflops: 10.0,
            gbytes: 8.0,
        };
        let table = measured.table(6.5, Some(ceilings));
        let numbers = |row: usize| -> Vec<f64> {
            let value = |figure: &Figure| match figure {
                Figure::Number(value, _) => *value,
                _ => -1.0,
            };
            table.rows[row][1..].iter().map(value).collect()
        };
        assert_eq!(
            numbers(0),
            [2e3, 4e3, 6e3, 100.0 * 6.0 / 6.5, 24.0, 40.0, 3e3, 6.25, 2.4e3]
        );
        assert_eq!(
            numbers(1),
            [500.0, -1.0, 500.0, 100.0 * 0.5 / 6.5, -1.0, -1.0, 4e3, 100.0, 500.0]
        );
        // Parts come one after the other, each at its own ceiling.
        assert_eq!(numbers(2)[8], 2.9e3);
    }
}
