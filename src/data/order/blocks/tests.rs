//! A block shuffle is a permutation, mixes, keeps few blocks in use, and gives every rank blocks of its own.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::data::{MicroBatch, Order, Pairing, Plan};

/// Blocks of about `size` rows, some of them smaller, in the order of storage.
fn shuffled(samples: usize, size: usize, open: usize, global_batch: usize) -> BlockShuffle {
    let mut starts = vec![0];
    while (starts[starts.len() - 1] as usize) < samples {
        let number = starts.len();
        let rows = if number.is_multiple_of(5) {
            size.div_ceil(2)
        } else {
            size
        };
        starts.push((starts[number - 1] as usize + rows).min(samples) as u32);
    }
    let blocks = Blocks {
        rows: (0..samples as u32).collect(),
        starts,
        bytes: 1000 * samples as u64,
        access: Access::ByBlock,
    };
    BlockShuffle {
        seed: 7,
        blocks: Arc::new(blocks),
        open,
        global_batch,
    }
}

fn block_of(order: &BlockShuffle, row: u32) -> usize {
    order.blocks.starts.partition_point(|&start| start <= row) - 1
}

fn plan(order: &BlockShuffle, micro_batch: usize, accumulation: usize, world: usize) -> Plan {
    Plan {
        samples: order.blocks.rows.len(),
        micro_batch,
        accumulation,
        world,
        order: Order::Blocks(order.clone()),
        pairing: Pairing::Alone,
    }
}

fn batches(plan: &Plan, rank: usize) -> Vec<MicroBatch> {
    plan.of_rank(rank, 0..plan.steps_per_epoch()).collect()
}

#[test]
fn an_epoch_is_a_permutation_and_epochs_and_seeds_differ() {
    for (samples, size, open, global_batch) in [
        (1, 1, 1, 1),
        (5, 100, 8, 4),
        (1000, 10, 1, 32),
        (1000, 10, 2, 32),
        (1003, 10, 40, 32),
        (1003, 10, 1000, 7),
        (1003, 100, 6, 2000),
        (999, 1, 64, 64),
    ] {
        let shuffled = shuffled(samples, size, open, global_batch);
        let mut rows = shuffled.of_epoch(3);
        let again = shuffled.of_epoch(3);
        assert_eq!(rows, again);
        if samples > 100 {
            assert_ne!(rows, shuffled.of_epoch(4));
            let other = BlockShuffle {
                seed: 8,
                ..shuffled.clone()
            };
            assert_ne!(rows, other.of_epoch(3));
        }
        rows.sort_unstable();
        assert!(
            rows.iter().enumerate().all(|(at, &row)| at as u32 == row),
            "{samples} samples in blocks of {size}, {open} open, batches of {global_batch}"
        );
    }
}

#[test]
fn a_step_holds_the_same_samples_at_any_world_size() {
    let shuffled = shuffled(2000, 20, 48, 24);
    let steps = |micro_batch, accumulation, world| -> Vec<BTreeSet<u32>> {
        let plan = plan(&shuffled, micro_batch, accumulation, world);
        (0..plan.steps_per_epoch())
            .map(|step| {
                (0..world)
                    .flat_map(|rank| plan.of_rank(rank, step..step + 1))
                    .flat_map(|batch| batch.draws)
                    .map(|draw| draw.row)
                    .collect()
            })
            .collect()
    };
    let alone = steps(24, 1, 1);
    for (micro_batch, accumulation, world) in [(12, 1, 2), (6, 1, 4), (3, 2, 4), (8, 3, 1), (3, 1, 8)] {
        assert_eq!(
            alone,
            steps(micro_batch, accumulation, world),
            "{micro_batch} x {accumulation} x {world}"
        );
    }
}

#[test]
fn a_resumed_run_continues_where_it_was() {
    let plan = plan(&shuffled(1000, 20, 24, 32), 8, 2, 2);
    let per_epoch = plan.steps_per_epoch();
    let whole: Vec<_> = plan.of_rank(1, 0..2 * per_epoch).collect();
    for begin in [1, per_epoch - 1, per_epoch, per_epoch + 5] {
        let behind: usize = (0..begin).map(|step| plan.micro_batches(step)).sum();
        let resumed: Vec<_> = plan.of_rank(1, begin..2 * per_epoch).collect();
        assert_eq!(whole[behind..], resumed);
    }
}

/// Of rows that lie in `lanes` lanes, a step takes neighbours from storage only by chance: each of its slots comes from
/// another part of a random sequence of blocks.
#[test]
fn a_step_mixes_as_many_blocks_as_there_are_lanes() {
    let shuffled = shuffled(20_000, 20, 512, 64);
    assert_eq!(shuffled.lanes(), Lanes { lanes: 64, window: 7 });
    let order = shuffled.of_epoch(0);
    for step in order.chunks_exact(64) {
        let blocks: BTreeSet<usize> = step.iter().map(|&row| block_of(&shuffled, row)).collect();
        // Two lanes share a block where the sequence was cut, at one time of 64 each.
        assert!(blocks.len() >= 56, "{} blocks", blocks.len());
    }
    // Few blocks may be in use: as many lanes as half of them, so several slots of a step come from one block.
    let few = BlockShuffle { open: 16, ..shuffled };
    assert_eq!(few.lanes(), Lanes { lanes: 8, window: 1 });
}

/// The first and the last step that each block of a lane is used in, over the lanes' slots.
#[test]
fn no_more_blocks_are_in_use_than_were_granted() {
    for (open, global_batch) in [(16, 64), (64, 64), (300, 32), (2, 8)] {
        let shuffled = shuffled(20_000, 20, open, global_batch);
        let Lanes { lanes, .. } = shuffled.lanes();
        let order = shuffled.of_epoch(1);
        let mut spans: BTreeMap<(usize, usize), (usize, usize)> = BTreeMap::new();
        for (place, &row) in order.iter().enumerate() {
            let (step, slot) = (place / global_batch, place % global_batch);
            let lane = (0..lanes).rfind(|lane| global_batch * lane / lanes <= slot).unwrap();
            let span = spans.entry((lane, block_of(&shuffled, row))).or_insert((step, step));
            span.1 = step;
        }
        let steps = order.len().div_ceil(global_batch);
        let in_use = |step: usize| {
            spans
                .values()
                .filter(|(first, last)| (*first..=*last).contains(&step))
                .count()
        };
        let most = (0..steps).map(in_use).max().unwrap();
        // Every fifth block has half of the rows, so a window may touch a block or two more than it would on average.
        assert!(most <= open + open / 2 + lanes, "{most} of {open} with {lanes} lanes");
    }
}

#[test]
fn ranks_read_blocks_of_their_own() {
    let shuffled = shuffled(20_000, 20, 256, 64);
    let blocks = shuffled.blocks.count();
    for (micro_batch, accumulation, world) in [(64, 1, 1), (32, 1, 2), (16, 1, 4), (4, 4, 4), (8, 1, 8)] {
        let plan = plan(&shuffled, micro_batch, accumulation, world);
        let of_rank = |rank: usize| -> BTreeSet<usize> {
            let rows = batches(&plan, rank)
                .into_iter()
                .flat_map(|batch| batch.draws)
                .map(|draw| draw.row);
            rows.map(|row| block_of(&shuffled, row)).collect()
        };
        let read: usize = (0..world).map(|rank| of_rank(rank).len()).sum();
        // Blocks are shared where lanes meet, and by the last step, which is short and cut otherwise.
        assert!(read <= blocks + 2 * 64, "{world} ranks read {read} of {blocks} blocks");
    }
}

#[test]
fn windows_grow_until_they_are_whole() {
    let starts =
        |first_whole, window, least| -> Vec<usize> { window_starts(first_whole, window, least).take(6).collect() };
    assert_eq!(starts(80, 40, 10), [10, 20, 40, 80, 120, 160]);
    assert_eq!(starts(45, 40, 10), [6, 12, 23, 45, 85, 125]);
    assert_eq!(starts(7, 4, 1), [1, 2, 4, 7, 11, 15]);
    assert_eq!(starts(20, 10, 10), [10, 20, 30, 40, 50, 60]);
}

/// Nobody waits at the beginning until windows are read: after n steps no lane is further than twice what it has used.
#[test]
fn an_epoch_begins_with_few_blocks() {
    // Of 18 rows on average; windows of 40.
    let shuffled = shuffled(64 * 8000, 20, 41 * 64, 64);
    assert_eq!(shuffled.lanes(), Lanes { lanes: 64, window: 40 });
    let mut seen = BTreeSet::new();
    for (step, rows) in shuffled.of_epoch(0).chunks(64).enumerate() {
        seen.extend(rows.iter().map(|&row| block_of(&shuffled, row)));
        let used = (step + 1).div_ceil(18);
        // And three for where windows begin and end within blocks.
        assert!(
            seen.len() <= 64 * (2 * used + 3),
            "{} blocks in step {step}",
            seen.len()
        );
        // A whole window is open everywhere from the second on.
        if step == 2 * 40 * 18 {
            assert!(
                seen.len() >= 64 * (used + 40 / 4),
                "{} blocks in step {step}",
                seen.len()
            );
        }
    }
}

#[test]
fn a_fingerprint_tells_orders_apart() {
    let one = shuffled(1000, 10, 40, 32);
    let fingerprint = |order: BlockShuffle| order.fingerprint();
    assert_eq!(one.fingerprint(), fingerprint(shuffled(1000, 10, 40, 32)));
    let others = [
        shuffled(1000, 11, 40, 32),
        shuffled(1000, 10, 41, 32),
        shuffled(1000, 10, 40, 31),
        shuffled(1001, 10, 40, 32),
        BlockShuffle { seed: 8, ..one.clone() },
    ];
    let all: BTreeSet<u64> = others.into_iter().chain([one]).map(fingerprint).collect();
    assert_eq!(all.len(), 6);
}

#[test]
fn reading_is_spread_over_the_steps() {
    // Lanes of 64, windows of four blocks of 20 rows: all turning at once would ask for 64 blocks in every 80th step.
    let shuffled = shuffled(64 * 800, 20, 5 * 64, 64);
    let order = shuffled.of_epoch(0);
    let mut seen = BTreeSet::new();
    let new: Vec<usize> = order
        .chunks(64)
        .map(|step| {
            step.iter()
                .filter(|&&row| seen.insert(block_of(&shuffled, row)))
                .count()
        })
        .collect();
    let mean = new[100..700].iter().sum::<usize>() as f64 / 600.0;
    let most = *new[100..700].iter().max().unwrap();
    assert!(
        (most as f64) < 4.0 * mean + 4.0,
        "{most} new blocks in a step, {mean} on average"
    );
}
