//! In which order training samples come, and how much of their dataset stays in memory meanwhile (`--shuffle-mode`,
//! `--data-memory-gb`).
//!
//! The order depends on the recipe and the dataset alone, never on this machine's memory or the number of ranks. Where
//! images can be read one by one (Arrow files, folders), an exact shuffle costs no more reading than any other order.

use std::fmt;
use std::sync::Arc;

use super::inputs::Splits;
use crate::collective::Collective;
use crate::data::{Access, BlockShuffle, Blocks, Dataset, Lanes, Order, usable_memory};
use crate::error::Result;
use crate::recipe::{Recipe, ShuffleMode};

/// How the samples of a training set are shuffled. Its `Display` is a line or two for people.
#[derive(Clone, Debug)]
pub struct Shuffling {
    pub order: Order,
    /// Encoded images of the training set, in bytes.
    encoded: u64,
    access: Access,
    /// Of a rank, in bytes.
    granted: usize,
    asked: ShuffleMode,
}

/// Part of the granted memory that blocks in use take: the rest is for those that are read ahead, and for chance.
const IN_USE: u64 = 2;

/// Bytes of a block: larger row groups are cut, since the more blocks are in use the better is mixed; smaller ones are not put
/// together.
const MOST_OF_A_BLOCK: u64 = 16 << 20;

/// Encoded images that an evaluation may hold where it goes through its samples from the first to the last.
const EVALUATION_MEMORY: usize = 256 << 20;

impl Shuffling {
    /// Error: a file that cannot be read.
    pub fn plan(recipe: &Recipe, train: &Dataset, global_batch: usize) -> Result<Shuffling> {
        let seed = recipe.data_seed.unwrap_or(recipe.seed);
        let granted = (recipe.data_memory_gb * 1e9) as usize;
        let blocks = train.blocks();
        Ok(Shuffling {
            encoded: blocks.bytes,
            access: blocks.access,
            granted,
            asked: recipe.shuffle_mode,
            order: match (recipe.balanced_sampling, recipe.shuffle) {
                (true, _) => Order::balanced(seed, (0..train.len()).map(|row| train.label(row))),
                (false, false) => Order::AsStored,
                (false, true) if by_block(recipe.shuffle_mode, &blocks, granted as u64) => {
                    let blocks = train.blocks_of_at_most(MOST_OF_A_BLOCK)?;
                    let open = granted as u64 / IN_USE / blocks.mean_bytes();
                    Order::Blocks(BlockShuffle {
                        seed,
                        open: open.clamp(2, 2 * blocks.count() as u64) as usize,
                        blocks: Arc::new(blocks),
                        global_batch,
                    })
                }
                (false, true) => Order::Shuffled { seed },
            },
        })
    }

    /// Gives the datasets their memory. With a block shuffle validation goes through its samples as they are stored: those
    /// that were held out are in random order otherwise.
    pub fn prepare(&self, splits: &mut Splits, collective: &dyn Collective) {
        if let (Order::Blocks(_), Some(eval)) = (&self.order, &mut splits.eval) {
            *eval = eval.as_stored();
            eval.keep_in_memory(EVALUATION_MEMORY);
        }
        splits.train.keep_in_memory(self.memory(collective));
    }

    /// Memory for encoded images on a rank: as much as the order has a use for, and no more than this machine can spare.
    pub fn memory(&self, collective: &dyn Collective) -> usize {
        let spare = usable_memory().map_or(usize::MAX, |bytes| bytes / 3 / collective.local().world);
        self.wanted(collective.world()).min(spare)
    }

    /// With block shuffle a rank holds its share of the blocks in use, half as many more that are read ahead or not yet
    /// forgotten, and a few for ranks whose share is a few blocks.
    fn wanted(&self, world: usize) -> usize {
        match &self.order {
            Order::Blocks(shuffle) => {
                let Lanes { lanes, window } = shuffle.lanes();
                let share = (lanes * (window + 1)).div_ceil(world);
                (share + share / 2 + 8) * shuffle.blocks.mean_bytes() as usize
            }
            Order::Shuffled { .. } | Order::AsStored | Order::Balanced { .. } => self.granted,
        }
    }

    /// Memory for encoded images that a run will really fill.
    pub fn filled(&self, world: usize) -> usize {
        match self.access {
            Access::ByRow => 0,
            Access::ByBlock => self.wanted(world).min(self.encoded as usize),
        }
    }
}

/// Is the order one of blocks?
fn by_block(mode: ShuffleMode, blocks: &Blocks, granted: u64) -> bool {
    match mode {
        ShuffleMode::Exact => false,
        ShuffleMode::Block => true,
        ShuffleMode::Auto => blocks.access == Access::ByBlock && blocks.bytes > granted,
    }
}

impl fmt::Display for Shuffling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes: u64| match bytes {
            0..1_000_000_000 => format!("{} MB", bytes.div_ceil(1_000_000)),
            _ => format!("{:.1} GB", bytes as f64 / 1e9),
        };
        let images = size(self.encoded);
        match &self.order {
            Order::AsStored => write!(f, "not shuffled, {images} of images"),
            Order::Balanced { .. } => write!(f, "drawn with replacement, each class as often, {images} of images"),
            Order::Blocks(shuffle) => {
                let Lanes { lanes, window } = shuffle.lanes();
                let in_use = (lanes * (window + 1)).min(shuffle.blocks.count());
                write!(
                    f,
                    "shuffled by blocks: {images} of images in {} blocks, {in_use} of them mixed at a time ({}); a step takes \
                     from {lanes}",
                    shuffle.blocks.count(),
                    size(in_use as u64 * shuffle.blocks.mean_bytes()),
                )?;
                match self.asked {
                    ShuffleMode::Auto => write!(
                        f,
                        "\n(more than --data-memory-gb {}: --shuffle-mode exact would read a block for nearly every image)",
                        self.granted as f64 / 1e9
                    ),
                    _ => Ok(()),
                }
            }
            Order::Shuffled { .. } => {
                write!(f, "shuffled exactly, {images} of images")?;
                let is_read_again = self.access == Access::ByBlock && self.encoded > self.granted as u64;
                match is_read_again {
                    true => write!(
                        f,
                        "\n(more than --data-memory-gb {}: a block is read for nearly every image; --shuffle-mode block reads \
                         each once an epoch)",
                        self.granted as f64 / 1e9
                    ),
                    false => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::Single;
    use crate::data::{Columns, DemoDataset, DemoSubject, write_demo_dataset};
    use crate::recipe::built_in;

    fn dataset(dir: &std::path::Path) -> Dataset {
        let demo = DemoDataset {
            train_rows: 64,
            validation_rows: 8,
            ..DemoDataset::new(DemoSubject::FineTuning)
        };
        write_demo_dataset(dir, &demo).unwrap();
        Dataset::open(dir, "train", &Columns::default()).unwrap()
    }

    fn planned(dataset: &Dataset, mode: ShuffleMode, gigabytes: f64) -> Shuffling {
        let recipe = Recipe {
            shuffle_mode: mode,
            data_memory_gb: gigabytes,
            ..built_in("vit-lora").unwrap()
        };
        Shuffling::plan(&recipe, dataset, 16).unwrap()
    }

    #[test]
    fn what_does_not_fit_is_shuffled_by_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let dataset = dataset(dir.path());
        let blocks = dataset.blocks();
        assert_eq!((blocks.access, blocks.rows.len()), (Access::ByBlock, 64));
        let (enough, too_little) = (blocks.bytes as f64 / 1e9 + 1e-6, blocks.bytes as f64 / 1e9 - 1e-6);
        for (mode, gigabytes, by_block) in [
            (ShuffleMode::Auto, enough, false),
            (ShuffleMode::Auto, too_little, true),
            (ShuffleMode::Exact, too_little, false),
            (ShuffleMode::Block, enough, true),
        ] {
            let shuffling = planned(&dataset, mode, gigabytes);
            assert_eq!(
                matches!(shuffling.order, Order::Blocks(_)),
                by_block,
                "{mode:?} {gigabytes}"
            );
            let mut rows: Vec<u32> = shuffling.order.of_epoch(64, 0).iter().map(|draw| draw.row).collect();
            rows.sort_unstable();
            assert!(rows.iter().enumerate().all(|(at, &row)| at as u32 == row));
            assert_eq!(
                shuffling.to_string().contains("--data-memory-gb"),
                gigabytes == too_little
            );
        }
    }

    #[test]
    fn ranks_share_the_memory_of_a_block_shuffle() {
        let dir = tempfile::tempdir().unwrap();
        let mut shuffling = planned(&dataset(dir.path()), ShuffleMode::Block, 1.0);
        let Order::Blocks(shuffle) = &mut shuffling.order else {
            panic!("blocks are asked for");
        };
        // As many blocks as rows, of a megabyte each; 400 of them may be in use.
        let rows = 100_000u32;
        shuffle.blocks = Arc::new(Blocks {
            rows: (0..rows).collect(),
            starts: (0..=rows).collect(),
            bytes: 1_000_000 * rows as u64,
            access: Access::ByBlock,
        });
        (shuffle.open, shuffle.global_batch) = (400, 100);
        let wanted = [1, 2, 100].map(|world| shuffling.wanted(world) / 1_000_000);
        assert_eq!(wanted, [400 + 200 + 8, 200 + 100 + 8, 4 + 2 + 8]);
        assert!(shuffling.memory(&Single) <= shuffling.wanted(1));
    }
}
