//! Which samples a rank trains on, and when: a pure function of (seed, epoch, step, rank).
//!
//! The optimizer step is defined by the global batch; ranks and micro-batches only cut it up. So the number of ranks does
//! not change what is trained, and a resumed run needs only the step that it begins with. Reading is left to the loader.

mod blocks;

use std::ops::Range;
use std::sync::Arc;

use crate::rng::{Purpose, Stream};

pub use blocks::{Access, BlockShuffle, Blocks, Lanes};

/// The order of the samples within an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Another permutation in every epoch, named by the seed.
    Shuffled { seed: u64 },
    /// Another permutation in every epoch, of rows that are read block by block.
    Blocks(BlockShuffle),
    /// That of the dataset.
    AsStored,
    /// Drawn with replacement, each class as often as any other: torch's WeightedRandomSampler with weights 1 / samples of
    /// the class.
    Balanced {
        seed: u64,
        /// Rows of each class that has some.
        classes: Arc<[Vec<u32>]>,
    },
}

/// A sample as an epoch draws it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Of the dataset.
    pub row: u32,
    /// How often the row came before in this epoch. Its crop, flip and dropout are others each time.
    pub repeat: u32,
}

/// How an epoch is cut into optimizer steps, steps into micro-batches, and those over ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Size of the training set, > 0.
    pub samples: usize,
    /// Samples of a micro-batch on one rank, > 0.
    pub micro_batch: usize,
    /// Micro-batches of an optimizer step, > 0.
    pub accumulation: usize,
    pub world: usize,
    pub order: Order,
    pub pairing: Pairing,
}

/// Whether samples have partners, with whom they are mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    Alone,
    /// The first and the second place of an epoch belong together, the third and the fourth, and so on: partners are mostly
    /// in the same micro-batch, whatever ranks and micro-batches there are.
    Neighbours,
}

/// The draws of one epoch after another, each epoch's made once.
#[derive(Clone, Debug)]
pub struct EpochOrder {
    order: Order,
    samples: usize,
    made: Option<(u32, Vec<Draw>)>,
}

/// What one rank trains on at once: part of an optimizer step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MicroBatch {
    pub epoch: u32,
    /// None where a short step leaves nothing for this rank.
    pub draws: Vec<Draw>,
    /// With [`Pairing::Neighbours`] the draws that count; they are partners (first and second, third and fourth, …), and one
    /// at either end may be there only as a partner.
    pub own: Option<Range<usize>>,
}

impl Draw {
    /// What random numbers of this epoch know it by: the row, unless it is a repetition.
    pub fn name(self) -> u64 {
        u64::from(self.repeat) << 32 | u64::from(self.row)
    }
}

impl From<u32> for Draw {
    fn from(row: u32) -> Draw {
        Draw { row, repeat: 0 }
    }
}

impl MicroBatch {
    /// Rows of a dataset, each once.
    pub fn of_rows(epoch: u32, rows: impl IntoIterator<Item = u32>) -> MicroBatch {
        MicroBatch {
            epoch,
            draws: rows.into_iter().map(Draw::from).collect(),
            own: None,
        }
    }
}

impl Order {
    /// Of samples with these labels.
    pub fn balanced(seed: u64, labels: impl IntoIterator<Item = u32>) -> Order {
        let mut classes: Vec<Vec<u32>> = Vec::new();
        for (row, label) in (0..).zip(labels) {
            let label = label as usize;
            classes.resize(classes.len().max(label + 1), Vec::new());
            classes[label].push(row);
        }
        classes.retain(|rows| !rows.is_empty());
        Order::Balanced {
            seed,
            classes: classes.into(),
        }
    }

    /// Of an order that does not follow from a seed and the number of samples alone: tells it from others of its kind.
    pub fn fingerprint(&self) -> Option<String> {
        match self {
            Order::Blocks(shuffle) => Some(format!("{:016x}", shuffle.fingerprint())),
            Order::Shuffled { .. } | Order::AsStored | Order::Balanced { .. } => None,
        }
    }

    /// As many draws as there are samples, in the order of `epoch`: Fisher-Yates over named random numbers, or for each
    /// place a class and one of its rows.
    pub fn of_epoch(&self, samples: usize, epoch: u32) -> Vec<Draw> {
        let stream = |seed: &u64| Stream::new(*seed, epoch, 0, Purpose::Order);
        match self {
            Order::AsStored => (0..samples as u32).map(Draw::from).collect(),
            Order::Shuffled { seed } => {
                let mut draws: Vec<Draw> = (0..samples as u32).map(Draw::from).collect();
                blocks::shuffle(&mut draws, 0, &stream(seed));
                draws
            }
            Order::Blocks(shuffle) => shuffle.of_epoch(epoch).into_iter().map(Draw::from).collect(),
            Order::Balanced { seed, classes } => {
                let stream = stream(seed);
                let below = |number: u32, n: usize| stream.below(number, n as u64) as usize;
                let mut times = vec![0; samples];
                let draw = |place: u32| {
                    let rows = &classes[below(2 * place, classes.len())];
                    let row = rows[below(2 * place + 1, rows.len())];
                    let repeat = times[row as usize];
                    times[row as usize] += 1;
                    Draw { row, repeat }
                };
                (0..samples as u32).map(draw).collect()
            }
        }
    }
}

impl EpochOrder {
    /// In the order of `epoch`.
    pub fn draws(&mut self, epoch: u32) -> &[Draw] {
        let made = self.made.take().filter(|(of, _)| *of == epoch);
        &self
            .made
            .insert(made.unwrap_or_else(|| (epoch, self.order.of_epoch(self.samples, epoch))))
            .1
    }
}

impl Plan {
    /// Samples of a full optimizer step.
    pub fn global_batch(&self) -> usize {
        self.micro_batch * self.world * self.accumulation
    }

    pub fn steps_per_epoch(&self) -> u64 {
        self.samples.div_ceil(self.global_batch()) as u64
    }

    /// The epoch that `step` (counted from 0 over the run) belongs to.
    pub fn epoch(&self, step: u64) -> u32 {
        (step / self.steps_per_epoch()) as u32
    }

    pub fn epoch_order(&self) -> EpochOrder {
        EpochOrder {
            order: self.order.clone(),
            samples: self.samples,
            made: None,
        }
    }

    /// Places in the epoch's order that optimizer step `step` (counted from 0 over the run) takes; the last step of an
    /// epoch may be short.
    pub fn places(&self, step: u64) -> Range<usize> {
        let start = (step % self.steps_per_epoch()) as usize * self.global_batch();
        start..(start + self.global_batch()).min(self.samples)
    }

    /// Micro-batches of `step`, the same on every rank; fewer than `accumulation` in a short step.
    pub fn micro_batches(&self, step: u64) -> usize {
        self.places(step).len().div_ceil(self.micro_batch * self.world)
    }

    /// Epochs done after `steps` optimizer steps, in micro-batches: 1.25 in the second epoch after a quarter of its.
    pub fn epochs_after(&self, steps: u64) -> f64 {
        let (epochs, step) = (steps / self.steps_per_epoch(), steps % self.steps_per_epoch());
        let micro_batches = self.samples.div_ceil(self.micro_batch * self.world);
        epochs as f64 + (step as usize * self.accumulation) as f64 / micro_batches as f64
    }

    /// Places that micro-batch `index` of `step` takes on `rank`: an even share, perhaps empty, of the micro-batch's.
    pub fn share(&self, step: u64, index: usize, rank: usize) -> Range<usize> {
        let step = self.places(step);
        let start = step.start + index * self.micro_batch * self.world;
        let size = (step.end - start).min(self.micro_batch * self.world);
        start + size * rank / self.world..start + size * (rank + 1) / self.world
    }

    /// What `rank` trains on in `steps`, micro-batch by micro-batch.
    pub fn of_rank(&self, rank: usize, steps: Range<u64>) -> impl Iterator<Item = MicroBatch> + Send + use<> {
        let (plan, cut, mut order) = (self.clone(), self.clone(), self.epoch_order());
        steps
            .flat_map(move |step| (0..cut.micro_batches(step)).map(move |index| (step, index)))
            .map(move |(step, index)| {
                let epoch = plan.epoch(step);
                let share = plan.share(step, index, rank);
                let (places, own) = match plan.pairing {
                    Pairing::Neighbours if !share.is_empty() => {
                        let places = share.start & !1..share.end.next_multiple_of(2).min(plan.samples);
                        let own = share.start - places.start..share.end - places.start;
                        (places, Some(own))
                    }
                    Pairing::Neighbours => (share, Some(0..0)),
                    Pairing::Alone => (share, None),
                };
                MicroBatch {
                    epoch,
                    draws: order.draws(epoch)[places].to_vec(),
                    own,
                }
            })
    }
}

/// Rows of a validation set of `samples` samples that `rank` evaluates: every row on exactly one rank, shares even to one.
pub fn evaluation_share(samples: usize, rank: usize, world: usize) -> Range<u32> {
    (samples * rank / world) as u32..(samples * (rank + 1) / world) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(samples: usize, micro_batch: usize, accumulation: usize, world: usize) -> Plan {
        Plan {
            samples,
            micro_batch,
            accumulation,
            world,
            order: Order::Shuffled { seed: 42 },
            pairing: Pairing::Alone,
        }
    }

    fn rows(draws: &[Draw]) -> Vec<u32> {
        draws.iter().map(|draw| draw.row).collect()
    }

    /// Rows of each step of `epochs` epochs, over all ranks and micro-batches, in the order of the places.
    fn rows_by_step(plan: &Plan, epochs: u64) -> Vec<Vec<u32>> {
        (0..epochs * plan.steps_per_epoch())
            .map(|step| {
                let mut of_ranks: Vec<_> = (0..plan.world).map(|rank| plan.of_rank(rank, step..step + 1)).collect();
                let mut rows = Vec::new();
                for _ in 0..plan.micro_batches(step) {
                    for rank in &mut of_ranks {
                        let batch = rank.next().expect("every rank has every micro-batch");
                        rows.extend(batch.draws.iter().map(|draw| draw.row));
                    }
                }
                assert!(of_ranks.iter_mut().all(|rank| rank.next().is_none()));
                rows
            })
            .collect()
    }

    #[test]
    fn an_epoch_is_a_permutation_and_epochs_and_seeds_differ() {
        let order = Order::Shuffled { seed: 1 };
        for samples in [1, 2, 101, 5000] {
            let mut rows = rows(&order.of_epoch(samples, 3));
            rows.sort_unstable();
            assert!(rows.iter().enumerate().all(|(i, &row)| row == i as u32), "{samples}");
        }
        assert_eq!(order.of_epoch(100, 2), order.of_epoch(100, 2));
        assert_ne!(order.of_epoch(100, 2), order.of_epoch(100, 3));
        assert_ne!(order.of_epoch(100, 2), Order::Shuffled { seed: 2 }.of_epoch(100, 2));
        assert_eq!(rows(&Order::AsStored.of_epoch(4, 7)), [0, 1, 2, 3]);
    }

    /// Each of three rows comes first in about a third of the epochs: four standard errors of 3000 draws are 0.034.
    #[test]
    fn permutations_are_even() {
        let mut first = [0; 3];
        for epoch in 0..3000 {
            first[Order::Shuffled { seed: 5 }.of_epoch(3, epoch)[0].row as usize] += 1;
        }
        assert!(
            first
                .iter()
                .all(|&count| (count as f64 / 3000.0 - 1.0 / 3.0).abs() < 0.034),
            "{first:?}"
        );
    }

    /// 90, 9 and 1 samples of three classes, and a class without any. torch.multinomial draws a row of a class with 1/(3·count).
    #[test]
    fn balanced_draws_have_the_distribution_of_torchs_sampler() {
        let label = |row: u32| [0, 1, 3][usize::from(row >= 90) + usize::from(row >= 99)];
        let order = Order::balanced(3, (0..100).map(label));
        let (mut of_classes, mut of_rows) = ([0; 4], [0; 100]);
        for epoch in 0..90 {
            let draws = order.of_epoch(100, epoch);
            assert_eq!(draws, order.of_epoch(100, epoch));
            for (at, draw) in draws.iter().enumerate() {
                of_classes[label(draw.row) as usize] += 1;
                of_rows[draw.row as usize] += 1;
                let before = draws[..at].iter().filter(|other| other.row == draw.row).count();
                assert_eq!((draw.repeat as usize, draw.name() as u32), (before, draw.row));
            }
        }
        // 9000 draws: four deviations of a class's share are 4·√(9000·2/9) = 179, of a row of 1/27 72, of one of 1/270 23.
        assert!(
            of_classes[2] == 0 && [0, 1, 3].iter().all(|&c| i32::abs(of_classes[c] - 3000) < 179),
            "{of_classes:?}"
        );
        assert!(of_rows[90..99].iter().all(|n| i32::abs(n - 333) < 72), "{of_rows:?}");
        assert!(of_rows[..90].iter().all(|n| i32::abs(n - 33) < 23), "{of_rows:?}");
        assert_ne!(order.of_epoch(100, 0), order.of_epoch(100, 1));
    }

    #[test]
    fn every_sample_is_taken_once_an_epoch() {
        for (samples, micro_batch, accumulation, world) in [
            (1, 1, 1, 1),
            (1, 8, 4, 4),
            (33, 4, 2, 2),
            (100, 8, 1, 3),
            (64, 8, 2, 4),
            (65, 8, 2, 4),
            (101, 128, 4, 2),
        ] {
            let plan = plan(samples, micro_batch, accumulation, world);
            let mut rows: Vec<u32> = rows_by_step(&plan, 1).concat();
            rows.sort_unstable();
            assert!(
                rows.len() == samples && rows.iter().enumerate().all(|(i, &r)| r == i as u32),
                "{plan:?}"
            );
        }
    }

    #[test]
    fn a_step_holds_the_same_samples_at_any_world_size() {
        // 100 samples in global batches of 24: the last step has 4, fewer than 8 ranks take.
        let alone = rows_by_step(&plan(100, 24, 1, 1), 2);
        for (micro_batch, accumulation, world) in [(12, 1, 2), (6, 1, 4), (3, 1, 8), (3, 2, 4), (8, 3, 1)] {
            let cut = rows_by_step(&plan(100, micro_batch, accumulation, world), 2);
            assert_eq!(alone, cut, "{micro_batch} × {accumulation} × {world}");
        }
    }

    #[test]
    fn ranks_of_a_short_micro_batch_have_even_shares_and_all_take_part() {
        let plan = plan(10, 4, 2, 4);
        assert_eq!((plan.steps_per_epoch(), plan.micro_batches(0)), (1, 1));
        let sizes: Vec<usize> = (0..4).map(|rank| plan.share(0, 0, rank).len()).collect();
        assert_eq!(sizes, [2, 3, 2, 3]);
        let tiny = Plan { samples: 1, ..plan };
        let batches: Vec<Vec<MicroBatch>> = (0..4).map(|rank| tiny.of_rank(rank, 0..3).collect()).collect();
        assert!(batches.iter().all(|of_rank| of_rank.len() == 3));
        assert_eq!(
            batches.iter().flatten().map(|batch| batch.draws.len()).sum::<usize>(),
            3
        );
    }

    /// Whatever ranks and micro-batches: every sample counts once, beside the one that follows or precedes it in the epoch.
    #[test]
    fn neighbours_are_partners_at_any_world_size() {
        let pairs_of = |micro_batch, accumulation, world| {
            let plan = Plan {
                pairing: Pairing::Neighbours,
                ..plan(33, micro_batch, accumulation, world)
            };
            let mut pairs: Vec<(u32, u32, Option<u32>)> = Vec::new();
            for rank in 0..world {
                for batch in plan.of_rank(rank, 0..2 * plan.steps_per_epoch()) {
                    assert!(batch.draws.len() <= batch.own.clone().unwrap().len() + 2);
                    for at in batch.own.unwrap() {
                        let partner = batch.draws.get(at ^ 1).map(|draw| draw.row);
                        pairs.push((batch.epoch, batch.draws[at].row, partner));
                    }
                }
            }
            pairs.sort_unstable();
            pairs
        };
        let alone = pairs_of(33, 1, 1);
        assert_eq!(alone.len(), 66);
        assert_eq!(alone.iter().filter(|(.., partner)| partner.is_none()).count(), 2);
        for (micro_batch, accumulation, world) in [(3, 1, 1), (1, 4, 2), (5, 2, 3), (8, 1, 4)] {
            assert_eq!(
                pairs_of(micro_batch, accumulation, world),
                alone,
                "{micro_batch} {accumulation} {world}"
            );
        }
    }

    #[test]
    fn a_resumed_run_continues_where_it_was() {
        let plan = plan(33, 4, 2, 2);
        let whole: Vec<_> = plan.of_rank(1, 0..9).collect();
        let begun: usize = (0..4).map(|step| plan.micro_batches(step)).sum();
        let resumed: Vec<_> = plan.of_rank(1, 4..9).collect();
        assert_eq!(whole[begun..], resumed);
    }

    /// transformers logs epoch + (micro-batch + 1) / micro-batches of an epoch.
    #[test]
    fn epochs_are_counted_in_micro_batches() {
        let plan = plan(250, 4, 4, 1);
        assert_eq!((plan.steps_per_epoch(), plan.epochs_after(1)), (16, 4.0 / 63.0));
        assert_eq!(plan.epochs_after(15), 60.0 / 63.0);
        assert_eq!((plan.epochs_after(16), plan.epochs_after(17)), (1.0, 1.0 + 4.0 / 63.0));
    }

    #[test]
    fn evaluation_takes_every_row_once() {
        for (samples, world) in [(0, 1), (1, 4), (350, 1), (350, 3), (7, 8)] {
            let rows: Vec<u32> = (0..world)
                .flat_map(|rank| evaluation_share(samples, rank, world))
                .collect();
            assert!(rows.len() == samples && rows.iter().enumerate().all(|(i, &r)| r == i as u32));
        }
    }
}
