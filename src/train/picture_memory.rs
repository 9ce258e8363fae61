//! Which decoded pictures a run keeps in memory from epoch to epoch (`--image-cache`).

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::Run;
use crate::collective::Collective;
use crate::data::{Dataset, PictureCache, estimated_bytes, usable_memory};
use crate::recipe::ImageCache;

/// Where decoded pictures are kept; None: nowhere.
#[derive(Default)]
pub struct PictureMemory {
    pub train: Option<Arc<PictureCache>>,
    pub eval: Option<Arc<PictureCache>>,
}

/// The part of the usable memory that the ranks of a node take together, if the recipe names no figure.
const PART: usize = 4;

impl PictureMemory {
    /// Decides for this rank alone: samples are the same with and without.
    ///
    /// `epochs`: how many times training samples will still be drawn. A rank draws others in each epoch, so among several
    /// ranks it takes more epochs until keeping pays off; validation pictures are the same in each evaluation.
    pub fn plan(
        run: &Run,
        train: &Dataset,
        eval: Option<&Dataset>,
        epochs: u64,
        collective: &dyn Collective,
    ) -> PictureMemory {
        let recipe = &run.recipe;
        if recipe.image_cache == ImageCache::None {
            return PictureMemory::default();
        }
        let budget = match recipe.image_cache_gb {
            Some(gigabytes) => (gigabytes * 1e9) as usize,
            None => usable_memory().unwrap_or(0) / PART / collective.local().world,
        };
        let cache =
            |dataset: &Dataset, left: &Arc<AtomicUsize>| Some(Arc::new(PictureCache::new(dataset.len(), left.clone())));
        let left = Arc::new(AtomicUsize::new(budget));
        if recipe.image_cache == ImageCache::Host {
            return PictureMemory {
                train: cache(train, &left),
                eval: eval.and_then(|dataset| cache(dataset, &left)),
            };
        }
        let world = collective.world();
        let bytes = |dataset: &Dataset, rows: usize| estimated_bytes(dataset, rows).unwrap_or(usize::MAX);
        let mut needed = 0usize;
        let mut memory = PictureMemory::default();
        if let Some(dataset) = eval {
            let share = bytes(dataset, dataset.len().div_ceil(world));
            if share <= budget {
                needed = share;
                memory.eval = cache(dataset, &left);
            }
        }
        let pays_off = epochs >= 2 * world as u64;
        if pays_off && needed.saturating_add(bytes(train, train.len())) <= budget {
            memory.train = cache(train, &left);
        }
        memory
    }
}
