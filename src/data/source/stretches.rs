//! Where the rows of a dataset are stored, and how much has to be read for them.

use super::Dataset;
use super::shard::Shard;
use super::table_shard::Stretch;
use super::threads;
use crate::data::order::{Access, Blocks};
use crate::error::Result;

/// Rows that make a block where each can be read alone.
const RUN: usize = 128;
/// Files of a folder whose sizes are looked at for an estimate.
const LOOKED_AT: usize = 64;

impl Dataset {
    /// The rows in the order of storage, in blocks: the row groups of Parquet files, runs of rows of everything else.
    pub fn blocks(&self) -> Blocks {
        let root = &self.opened.layout.root;
        self.blocks_of(self.opened.shards.iter().map(|shard| cuts(shard, root)))
    }

    /// The same with row groups of more than `most` bytes cut between their pages, so that no block is larger, unless it is a
    /// single page. What it depends on is in the files alone.
    pub fn blocks_of_at_most(&self, most: u64) -> Result<Blocks> {
        let opened = &*self.opened;
        let shards = &opened.shards;
        let cut = threads::each(shards.len(), |number| match &shards[number] {
            Shard::Table(shard) if shard.is_parquet() => Ok((of_stretches(&shard.cut(most)?), Access::ByBlock)),
            shard => Ok(cuts(shard, &opened.layout.root)),
        })?;
        Ok(self.blocks_of(cut.into_iter()))
    }

    /// `cuts`: rows and bytes of each block of each shard.
    fn blocks_of(&self, cuts: impl Iterator<Item = (Vec<(usize, u64)>, Access)>) -> Blocks {
        let opened = &*self.opened;
        // Which row of this dataset a stored row is; a row may be in it more than once, as in `train+train`.
        let mut stored: Vec<(u32, u32)> = self.rows.iter().copied().zip(0..).collect();
        stored.sort_unstable();
        let mut blocks = Blocks {
            rows: stored.iter().map(|(_, row)| *row).collect(),
            starts: vec![0],
            bytes: 0,
            access: Access::ByRow,
        };
        let mut used = 0;
        for ((cuts, access), start) in cuts.zip(&opened.starts) {
            let mut end = *start;
            for (rows, bytes) in cuts {
                end += rows;
                let count = stored[used..].partition_point(|(stored, _)| (*stored as usize) < end);
                if count > 0 {
                    used += count;
                    blocks.starts.push(used as u32);
                    blocks.bytes += bytes;
                    if access == Access::ByBlock {
                        blocks.access = access;
                    }
                }
            }
        }
        blocks
    }

    /// Limits the memory for encoded images that were read, of this dataset and all that share its shards.
    pub fn keep_in_memory(&self, bytes: usize) {
        self.opened.pages.limit(bytes);
    }

    /// The same rows in the order in which they are stored.
    pub fn as_stored(&self) -> Dataset {
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        order.sort_by_key(|&row| self.rows[row as usize]);
        self.select(&order)
    }
}

/// Rows and bytes of each block of a shard.
fn cuts(shard: &Shard, root: &std::path::Path) -> (Vec<(usize, u64)>, Access) {
    match shard {
        Shard::Table(shard) if shard.is_parquet() => (of_stretches(&shard.stretches), Access::ByBlock),
        Shard::Table(shard) => {
            let batches = shard.stretches.iter();
            let cuts = batches.flat_map(|batch| runs(batch.rows as usize, batch.bytes));
            (cuts.collect(), Access::ByRow)
        }
        Shard::Folder(folder) => {
            let step = folder.files.len().div_ceil(LOOKED_AT).max(1);
            let looked = folder.files.iter().step_by(step);
            let sizes: Vec<u64> = looked
                .filter_map(|file| Some(std::fs::metadata(root.join(file)).ok()?.len()))
                .collect();
            let mean = sizes.iter().sum::<u64>() / sizes.len().max(1) as u64;
            let files = folder.files.len();
            (runs(files, mean * files as u64).collect(), Access::ByRow)
        }
    }
}

fn of_stretches(stretches: &[Stretch]) -> Vec<(usize, u64)> {
    let each = stretches.iter().map(|stretch| (stretch.rows as usize, stretch.bytes));
    each.collect()
}

/// Cuts `rows` rows of `bytes` bytes together.
fn runs(rows: usize, bytes: u64) -> impl Iterator<Item = (usize, u64)> {
    let upto = move |row: usize| (bytes as u128 * row as u128 / rows.max(1) as u128) as u64;
    (0..rows).step_by(RUN).map(move |start| {
        let end = (start + RUN).min(rows);
        (end - start, upto(end) - upto(start))
    })
}
