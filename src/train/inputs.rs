//! What a run reads before it begins: samples, the model, and how the model wants its pictures.

use std::path::PathBuf;

use super::class_weights::class_weights;
use super::shuffling::Shuffling;
use crate::data::{Columns, Dataset, Preprocessor, Source, TestSize};
use crate::error::{Error, Result};
use crate::model::{Activations, LoadReport, LoraConfig, Model, Training};
use crate::ops::device::Placement;
use crate::recipe::{AUTO_SPLIT, FrozenPart, Interval, Method, Recipe};

/// Where a recipe's inputs lie on this machine, whatever their names in it are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    pub model: PathBuf,
    pub adapter: Option<PathBuf>,
    pub dataset: Source,
}

/// The training and validation samples of a recipe.
pub struct Splits {
    pub train: Dataset,
    pub eval: Option<Dataset>,
}

/// A model, loaded, with what goes into it.
pub struct Inputs {
    pub splits: Splits,
    pub shuffling: Shuffling,
    pub model: Model,
    /// How the files of the model, and of the adapter that it starts from, fitted.
    pub loaded: Vec<LoadReport>,
    pub preprocessor: Preprocessor,
    /// Of each class in the training loss; None: all count alike.
    pub class_weights: Option<Vec<f32>>,
}

/// The columns that a recipe names.
pub fn columns(recipe: &Recipe) -> Columns {
    Columns {
        image: recipe.image_column_name.clone(),
        label: recipe.label_column_name.clone(),
    }
}

impl Splits {
    /// Errors: whatever `Dataset::open` refuses, and a split without samples.
    pub fn open(recipe: &Recipe, source: &Source) -> Result<Splits> {
        let columns = columns(recipe);
        let open = |split: &str| {
            let dataset = Dataset::open_source(source, split, &columns)?;
            match dataset.len() {
                0 => Err(Error::dataset(
                    &source.path,
                    format!("split {split} has no samples"),
                    "choose a larger slice",
                )),
                _ => Ok(dataset),
            }
        };
        let splits = match &recipe.train_dir {
            Some(train) => {
                let (train, eval) = Dataset::open_folders(train, recipe.validation_dir.as_deref(), &columns)?;
                Splits { train, eval }
            }
            None => {
                let train = open(&recipe.train_split)?;
                let wanted = recipe.validation_split.as_deref();
                let eval = match wanted.filter(|&split| split != AUTO_SPLIT || train.has_split("validation")) {
                    Some(AUTO_SPLIT) => Some(open("validation")?),
                    Some(split) => Some(open(split)?),
                    None => None,
                };
                Splits { train, eval }
            }
        };
        Ok(splits.held_out(recipe)?.limited(recipe))
    }

    /// With a part of the training samples for validation, if the recipe wants that and has nothing else for it.
    fn held_out(self, recipe: &Recipe) -> Result<Splits> {
        let Splits { train, eval } = self;
        if eval.is_some() {
            return Ok(Splits { train, eval });
        }
        match recipe.test_size {
            None => Ok(Splits { train, eval: None }),
            Some(size) => {
                let size = if size < 1.0 {
                    TestSize::Fraction(size)
                } else {
                    TestSize::Rows(size as usize)
                };
                let (train, eval) = train.train_test_split(size, recipe.seed)?;
                Ok(Splits {
                    train,
                    eval: Some(eval),
                })
            }
        }
    }

    /// No more samples than the recipe wants, and none for an evaluation that it does not want.
    fn limited(self, recipe: &Recipe) -> Splits {
        let limit = |dataset: Dataset, most: Option<usize>| match most {
            Some(most) => dataset.sample(most, recipe.seed),
            None => dataset,
        };
        let evaluated = recipe.do_eval || recipe.eval_strategy != Interval::No;
        Splits {
            train: limit(self.train, recipe.max_train_samples),
            eval: self
                .eval
                .filter(|_| evaluated)
                .map(|eval| limit(eval, recipe.max_eval_samples)),
        }
    }
}

impl Inputs {
    /// Errors: the model or adapter is missing or does not fit.
    pub fn open(
        recipe: &Recipe,
        places: &Places,
        splits: Splits,
        shuffling: Shuffling,
        placement: impl Into<Placement>,
    ) -> Result<Inputs> {
        let class_weights = class_weights(&recipe.class_weights, &splits.train)?;
        let path = places.model.as_path();
        let preprocessor = Preprocessor::read(path)?;
        let training = match (recipe.method, &places.adapter) {
            (Method::Full, _) if recipe.freeze.is_empty() => Training::Full,
            (Method::Full, _) => {
                let parts = recipe.freeze.iter().map(|part| FrozenPart::read(part));
                Training::AllBut(parts.map(|part| part.expect("validated")).collect())
            }
            (Method::Head, _) => Training::Head,
            (Method::Lora, Some(adapter)) => Training::Lora(LoraConfig {
                dropout: recipe.lora_dropout,
                ..LoraConfig::read(adapter)?
            }),
            (Method::Lora, None) => Training::Lora(LoraConfig::new(
                recipe.lora_r,
                recipe.lora_alpha,
                recipe.lora_dropout,
                &recipe.lora_target_modules,
            )?),
        };
        let (mut model, report) = Model::load(path, splits.train.classes(), &training, recipe.seed, placement)?;
        let mut loaded = vec![report];
        if let (Method::Lora, Some(adapter)) = (recipe.method, &places.adapter) {
            loaded.push(model.load_adapter(adapter)?);
        }
        if recipe.gradient_checkpointing {
            model.set_activations(Activations::Recomputed)?;
        }
        Ok(Inputs {
            splits,
            shuffling,
            model,
            loaded,
            preprocessor,
            class_weights,
        })
    }
}
