//! How the images of a run are loaded: transforms, threads, what is made ready ahead, and where pictures are kept.

use candle_core::DType;

use super::inputs::Splits;
use super::picture_memory::{Supplied, Terms, Wanted, supply};
use super::{Run, memory};
use crate::collective::Collective;
use crate::data::{Augmentations, LoaderConfig, Mixing, Preprocessor, Samples, Transform, prefetch_batches};
use crate::error::Result;
use crate::model::Model;
use crate::ops::device::Placement;
use crate::recipe::{ImageCache, OnBadImage};

pub struct Loading {
    pub train: LoaderConfig,
    /// None without a validation set.
    pub eval: Option<LoaderConfig>,
    /// Lines for people.
    pub notes: Vec<String>,
}

impl Loading {
    /// Of this rank. `epochs`: how many times training samples will still be drawn. Error: the GPU has no room for what was
    /// asked.
    pub fn decide(
        run: &Run,
        splits: &Splits,
        preprocessor: &Preprocessor,
        model: &Model,
        epochs: u64,
        collective: &dyn Collective,
    ) -> Result<Loading> {
        let (recipe, world) = (&run.recipe, collective.world());
        let train_transform = Transform::new(preprocessor, recipe.train_transform)
            .decoded(recipe.decode)
            .augmented(Augmentations::of(recipe));
        let eval_transform = Transform::of_evaluation(preprocessor, recipe.eval_transform).decoded(recipe.decode);
        // Where samples are mixed, a partner at either end may come with them.
        let mixing = Mixing::of(recipe);
        let partners = if mixing.is_some() { 2 } else { 0 };
        let batch = recipe.per_device_train_batch_size;
        let compute = Placement::new(&run.device, run.precision).compute;
        let train = Wanted {
            name: "training",
            samples: &splits.train,
            count: splits.train.len(),
            transform: &train_transform,
            batch: batch + partners,
            // Mixed is in f32.
            dtype: if mixing.is_some() { DType::F32 } else { compute },
            batches: prefetch_batches(run.loader_threads, batch),
            rows: splits.train.len(),
            // A rank draws others in each epoch, so among several ranks it takes more epochs until keeping pays off.
            again: epochs >= 2 * world as u64,
        };
        let batch = recipe.per_device_eval_batch_size;
        let eval = splits.eval.as_ref().map(|dataset| Wanted {
            name: "validation",
            samples: dataset,
            count: dataset.len(),
            transform: &eval_transform,
            batch,
            dtype: compute,
            batches: prefetch_batches(run.loader_threads, batch),
            rows: dataset.len().div_ceil(world),
            // They are the same in each evaluation.
            again: true,
        });
        let terms = Terms {
            device: &run.device,
            cache: recipe.image_cache,
            named: recipe.image_cache_gb.map(|gigabytes| (gigabytes * 1e9) as usize),
            needed: memory::estimate(run, model, preprocessor).gpu.unwrap_or(0),
            ranks_of_device: run.ranks_of_device,
        };
        // Validation pictures are read again in each evaluation, so they come first.
        let all: Vec<Wanted> = eval.into_iter().chain([train]).collect();
        let mut supplied = supply(&terms, &all, collective)?;
        let notes = all.iter().zip(&supplied);
        let notes =
            notes.filter_map(|(wanted, supplied)| Some(format!("{} pictures {}", wanted.name, supplied.told()?)));
        let notes = notes.collect();
        let mut config = |wanted: &Wanted| {
            let Supplied { pictures, feed, .. } = supplied.remove(0);
            LoaderConfig {
                transform: wanted.transform.clone(),
                seed: recipe.seed,
                threads: run.loader_threads,
                prefetch_batches: wanted.batches,
                on_bad_image: recipe.on_bad_image,
                pictures,
                feed,
            }
        };
        let mut configs: Vec<LoaderConfig> = all.iter().map(&mut config).collect();
        Ok(Loading {
            train: configs.pop().expect("the training set's"),
            eval: configs.pop(),
            notes,
        })
    }
}

/// Samples that a model answers once, outside of a run: nothing of them is kept.
pub struct Pass<'a> {
    pub samples: &'a dyn Samples,
    /// How many there are, and how many of them this rank answers.
    pub count: usize,
    pub rows: usize,
    pub transform: Transform,
    pub batch: usize,
    pub placement: &'a Placement,
    pub threads: usize,
    pub on_bad_image: OnBadImage,
}

impl Pass<'_> {
    /// As a run's evaluation loads them. Every rank must call it. Error: the GPU is full.
    pub fn loading(self, collective: &dyn Collective) -> Result<LoaderConfig> {
        let terms = Terms {
            device: &self.placement.device,
            cache: ImageCache::None,
            named: Some(0),
            needed: 0,
            ranks_of_device: 1,
        };
        let wanted = Wanted {
            name: "",
            samples: self.samples,
            count: self.count,
            transform: &self.transform,
            batch: self.batch,
            dtype: self.placement.compute,
            batches: prefetch_batches(self.threads, self.batch),
            rows: self.rows,
            again: false,
        };
        let batches = wanted.batches;
        let supplied = supply(&terms, &[wanted], collective)?.pop().unwrap_or_default();
        Ok(LoaderConfig {
            transform: self.transform,
            seed: 0,
            threads: self.threads,
            prefetch_batches: batches,
            on_bad_image: self.on_bad_image,
            pictures: supplied.pictures,
            feed: supplied.feed,
        })
    }
}
