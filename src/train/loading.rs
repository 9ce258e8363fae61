//! How the images of a run are loaded: transforms, threads, what is made ready ahead, and where pictures are kept.

use candle_core::DType;

use super::inputs::Splits;
use super::picture_memory::{Supplied, Wanted, supply};
use super::{Run, memory};
use crate::collective::Collective;
use crate::data::{Augmentations, LoaderConfig, Mixing, Preprocessor, Transform, prefetch_batches};
use crate::error::Result;
use crate::model::Model;
use crate::ops::device::Placement;

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
            dataset: &splits.train,
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
            dataset,
            transform: &eval_transform,
            batch,
            dtype: compute,
            batches: prefetch_batches(run.loader_threads, batch),
            rows: dataset.len().div_ceil(world),
            // They are the same in each evaluation.
            again: true,
        });
        let needed = memory::estimate(run, model, preprocessor).gpu.unwrap_or(0);
        let (for_train, for_eval) = supply(run, needed, &train, eval.as_ref(), collective)?;
        let notes = [
            ("training", Some(&for_train)),
            ("validation", eval.as_ref().map(|_| &for_eval)),
        ]
        .into_iter()
        .filter_map(|(what, supplied)| Some(format!("{what} pictures {}", supplied?.told()?)))
        .collect();
        let config = |wanted: &Wanted, supplied: Supplied| LoaderConfig {
            transform: wanted.transform.clone(),
            seed: recipe.seed,
            threads: run.loader_threads,
            prefetch_batches: wanted.batches,
            on_bad_image: recipe.on_bad_image,
            pictures: supplied.pictures,
            feed: supplied.feed,
        };
        Ok(Loading {
            train: config(&train, for_train),
            eval: eval.map(|wanted| config(&wanted, for_eval)),
            notes,
        })
    }
}
