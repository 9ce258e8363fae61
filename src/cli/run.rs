//! A recipe, held against a dataset, a number of ranks and a machine, becomes a decided [`Run`].

use candle_core::Device;

use crate::collective::{Collective, gather};
use crate::error::{Error, Result};
use crate::ops::gemm;
use crate::recipe::{BestMetric, Interval, Precision, Recipe};
use crate::train::{Run, When};

/// What a recipe is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub train_samples: usize,
    /// 0: there is no validation set.
    pub eval_samples: usize,
    /// Number of ranks.
    pub world: usize,
    /// Ranks that compute on this rank's device.
    pub ranks_of_device: usize,
    /// Cores that this rank may use.
    pub cores: usize,
    /// Do the processors of all ranks multiply in bf16?
    pub bf16: bool,
}

/// A run, and what it does otherwise than the recipe says: a line each.
pub struct Decided {
    pub run: Run,
    pub notes: Vec<String>,
}

/// Epochs are numbered in 32 bits, in the names of random numbers too.
const MOST_EPOCHS: u64 = u32::MAX as u64;

/// Resolves epochs, ratios and defaults to steps and counts.
/// Errors: what is asked for cannot be done with these samples, or not at all.
pub fn decide(recipe: Recipe, facts: &Facts, device: Device) -> Result<Decided> {
    let mut notes = Vec::new();
    if facts.eval_samples == 0 && recipe.eval_strategy != Interval::No {
        return Err(Error::usage(
            "evaluation is asked for, but there is no validation set",
            "give --validation-split NAME or --test-size X, or --eval-strategy no",
        ));
    }
    if recipe.max_train_samples.is_some_and(|most| most > facts.train_samples) {
        notes.push(format!("--max-train-samples: there are only {}", facts.train_samples));
    }
    let precision = precision(recipe.precision, &device, facts.bf16, &mut notes);

    let micro = recipe.per_device_train_batch_size;
    let batch = [micro, facts.world, recipe.gradient_accumulation_steps];
    let global_batch = batch.iter().try_fold(1usize, |product, n| product.checked_mul(*n));
    let Some(global_batch) = global_batch.filter(|n| u32::try_from(*n).is_ok()) else {
        return Err(Error::usage(
            format!(
                "a step of {} x {} ranks x {} samples is too large",
                batch[0], batch[1], batch[2]
            ),
            "lower --per-device-train-batch-size or --gradient-accumulation-steps",
        ));
    };
    let steps_per_epoch = facts.train_samples.div_ceil(global_batch) as u64;
    if steps_per_epoch == 0 {
        return Err(Error::usage(
            "the training set is empty",
            "choose a larger --train-split",
        ));
    }
    if global_batch > facts.train_samples {
        notes.push(format!(
            "a step takes {global_batch} samples, but there are only {}: every epoch is one short step",
            facts.train_samples
        ));
    }
    let total_steps = match recipe.do_train {
        true => total_steps(&recipe, steps_per_epoch)?,
        false => 0,
    };
    let warmup_steps = match recipe.warmup_steps {
        0 => (recipe.warmup_ratio * total_steps as f64).ceil() as u64,
        steps => steps,
    };
    if warmup_steps > total_steps && recipe.do_train {
        return Err(Error::usage(
            format!("--warmup-steps {warmup_steps}: the whole run has {total_steps} steps"),
            format!("give a number from 0 to {total_steps}, or train longer"),
        ));
    }
    let threads = recipe.threads.unwrap_or(facts.cores);
    Ok(Decided {
        run: Run {
            world: facts.world,
            train_samples: facts.train_samples,
            eval_samples: facts.eval_samples,
            global_batch,
            steps_per_epoch,
            total_steps,
            warmup_steps,
            log: when(recipe.logging_strategy, recipe.logging_steps),
            evaluate: when(recipe.eval_strategy, recipe.eval_steps.unwrap_or(recipe.logging_steps)),
            save: when(recipe.save_strategy, recipe.save_steps),
            best_metric: BestMetric::named(&recipe.metric_for_best_model, recipe.greater_is_better)
                .expect("recipes are checked"),
            precision,
            device,
            ranks_of_device: facts.ranks_of_device,
            threads,
            // 0 is Trainer's "no other process": here always at least one thread decodes ahead.
            loader_threads: recipe.dataloader_num_workers.unwrap_or(threads).max(1),
            recipe,
        },
        notes,
    })
}

/// What is computed in on this device, with a line if that is not what was asked for. On a CPU that is bf16 where it is an
/// instruction (`bf16`), and f32 otherwise.
pub fn precision(asked: Precision, device: &Device, bf16: bool, notes: &mut Vec<String>) -> Precision {
    let note = match (asked, bf16) {
        (Precision::Fp32, _) => return asked,
        _ if !device.is_cpu() => return asked,
        (Precision::Bf16, true) => return asked,
        (Precision::Bf16, false) => {
            "precision bf16 is for GPUs, and for processors with AVX512_BF16 on all ranks: here the CPU computes in f32"
        }
        (Precision::Fp16, false) => "precision fp16 is for GPUs: the CPU computes in f32",
        (Precision::Fp16, true) => {
            "precision fp16 is for GPUs: the CPU computes in f32; --precision bf16 is faster here"
        }
    };
    notes.push(note.to_owned());
    Precision::Fp32
}

/// Do the processors of all ranks multiply in bf16? Every rank must call it.
pub fn have_bf16(collective: &dyn Collective) -> Result<bool> {
    let answers = gather(collective, &[u8::from(gemm::has_bf16())])?;
    Ok(answers.iter().all(|answer| answer == &[1]))
}

fn total_steps(recipe: &Recipe, steps_per_epoch: u64) -> Result<u64> {
    let most = MOST_EPOCHS * steps_per_epoch;
    let (flag, steps) = match recipe.max_steps {
        Some(steps) => ("--max-steps", steps),
        // A float becomes the nearest integer that there is: too large ones are caught below.
        None => (
            "--num-train-epochs",
            (recipe.num_train_epochs * steps_per_epoch as f64).ceil() as u64,
        ),
    };
    if steps > most {
        return Err(Error::usage(
            format!("{flag} is too large: {steps} steps are more than {MOST_EPOCHS} epochs"),
            format!("lower {flag}"),
        ));
    }
    Ok(steps)
}

fn when(interval: Interval, steps: u64) -> When {
    match interval {
        Interval::No => When::Never,
        Interval::Steps => When::Steps(steps),
        Interval::Epoch => When::Epochs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{Figure, built_in};

    fn decided(change: impl FnOnce(&mut Recipe), facts: &Facts) -> Result<Decided> {
        let mut recipe = built_in("vit-lora").unwrap();
        change(&mut recipe);
        decide(recipe, facts, Device::Cpu)
    }

    const SEED: Facts = Facts {
        train_samples: 4500,
        eval_samples: 500,
        world: 1,
        ranks_of_device: 1,
        cores: 4,
        bf16: false,
    };

    fn refused(change: impl FnOnce(&mut Recipe), facts: &Facts) -> String {
        decided(change, facts).err().expect("an error").to_string()
    }

    #[test]
    fn the_seed_run_has_trainers_steps() {
        // 4500 / 128 = 36 batches, of which 4 make a step.
        let run = decided(|_| (), &SEED).unwrap().run;
        assert_eq!((run.global_batch, run.steps_per_epoch, run.total_steps), (512, 9, 45));
        assert_eq!(
            (run.evaluate, run.save, run.log),
            (When::Epochs, When::Epochs, When::Steps(10))
        );
        assert_eq!(run.best_metric.figure, Figure::Accuracy);
        let run = decided(|_| (), &Facts { world: 4, ..SEED }).unwrap().run;
        assert_eq!((run.global_batch, run.steps_per_epoch, run.total_steps), (2048, 3, 15));
    }

    #[test]
    fn fractions_of_epochs_are_rounded_up_and_max_steps_overrides_them() {
        assert_eq!(decided(|r| r.num_train_epochs = 0.5, &SEED).unwrap().run.total_steps, 5);
        assert_eq!(
            decided(|r| r.num_train_epochs = 1e-9, &SEED).unwrap().run.total_steps,
            1
        );
        let run = decided(|r| r.max_steps = Some(20), &SEED).unwrap().run;
        assert_eq!((run.total_steps, run.epochs()), (20, 3));
        assert_eq!(run.epoch_at(20), 20.0 / 9.0);
    }

    #[test]
    fn what_recurs_recurs_at_the_end_as_well() {
        let run = decided(|r| r.max_steps = Some(20), &SEED).unwrap().run;
        let at = |due: &dyn Fn(u64) -> bool| (1..=20).filter(|&step| due(step)).collect::<Vec<_>>();
        assert_eq!(at(&|step| run.evaluates_at(step)), [9, 18, 20]);
        assert_eq!(at(&|step| run.saves_at(step)), [9, 18, 20]);
        assert_eq!(at(&|step| run.logs_at(step)), [10, 20]);
        let never = decided(|r| r.eval_strategy = Interval::No, &SEED).unwrap().run;
        assert!(!(1..=45).any(|step| never.evaluates_at(step)));
    }

    #[test]
    fn half_precision_on_a_cpu_becomes_f32_with_a_note_where_it_has_none() {
        let decided = decided(|_| (), &SEED).unwrap();
        assert_eq!(decided.run.precision, Precision::Fp32);
        assert_eq!(decided.notes.len(), 1, "{:?}", decided.notes);
        assert!(decided.notes[0].contains("fp16"), "{:?}", decided.notes);
        for bf16 in [false, true] {
            let decided = decided_with(Precision::Bf16, &Facts { bf16, ..SEED });
            let (precision, notes) = match bf16 {
                true => (Precision::Bf16, 0),
                false => (Precision::Fp32, 1),
            };
            assert_eq!((decided.run.precision, decided.notes.len()), (precision, notes));
        }
    }

    fn decided_with(precision: Precision, facts: &Facts) -> Decided {
        decided(|recipe| recipe.precision = precision, facts).unwrap()
    }

    #[test]
    fn warm_up_is_steps_or_a_ratio_and_ends_within_the_run() {
        assert_eq!(decided(|r| r.warmup_ratio = 0.1, &SEED).unwrap().run.warmup_steps, 5);
        assert_eq!(decided(|r| r.warmup_steps = 45, &SEED).unwrap().run.warmup_steps, 45);
        let message = refused(|r| r.warmup_steps = 46, &SEED);
        assert!(
            message.contains("--warmup-steps 46") && message.contains("45"),
            "{message}"
        );
    }

    #[test]
    fn threads_are_the_ranks_cores_unless_said_otherwise() {
        let run = decided(|_| (), &SEED).unwrap().run;
        assert_eq!((run.threads, run.loader_threads), (4, 4));
        let set = |r: &mut Recipe| (r.threads, r.dataloader_num_workers) = (Some(3), Some(0));
        let run = decided(set, &SEED).unwrap().run;
        assert_eq!((run.threads, run.loader_threads), (3, 1));
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let without_eval = Facts {
            eval_samples: 0,
            ..SEED
        };
        assert!(refused(|_| (), &without_eval).contains("--test-size"));
        assert!(refused(|r| r.num_train_epochs = 1e300, &SEED).contains("--num-train-epochs"));
        assert!(refused(|r| r.per_device_train_batch_size = usize::MAX, &SEED).contains("batch-size"));
    }

    #[test]
    fn a_step_larger_than_the_training_set_is_noted() {
        let small = Facts {
            train_samples: 100,
            ..SEED
        };
        let decided = decided(|_| (), &small).unwrap();
        assert_eq!(decided.run.steps_per_epoch, 1);
        assert!(
            decided
                .notes
                .iter()
                .any(|note| note.contains("512") && note.contains("100"))
        );
    }
}
