//! What is about to be run, on one screen: what somebody would check before leaving the machine alone for hours.

use std::fmt;

use crate::model::Model;
use crate::recipe::{Decode, Interval, Method, Precision, Recipe};
use crate::train::{Inputs, Run, memory};

/// The report; its `Display` ends with a line feed.
pub struct Preflight<'a> {
    run: &'a Run,
    inputs: &'a Inputs,
    /// One line about the device of this rank.
    device: &'a str,
    notes: &'a [String],
}

/// Classes that are named; of more only the number is told.
const NAMED_CLASSES: usize = 12;

impl<'a> Preflight<'a> {
    pub fn new(run: &'a Run, inputs: &'a Inputs, device: &'a str, notes: &'a [String]) -> Self {
        Preflight {
            run,
            inputs,
            device,
            notes,
        }
    }

    fn model(&self) -> String {
        let recipe = &self.run.recipe;
        let mut text = recipe.model.clone();
        for report in &self.inputs.loaded {
            text += &format!("\n{report}");
        }
        let mut what = match recipe.method {
            Method::Lora => format!(
                "LoRA r {} alpha {} dropout {} on {}",
                recipe.lora_r,
                recipe.lora_alpha,
                recipe.lora_dropout,
                recipe.lora_target_modules.join(", ")
            ),
            Method::Full if recipe.freeze.is_empty() => "all weights".to_owned(),
            Method::Full => format!("all weights but {}", recipe.freeze.join(", ")),
            Method::Head => "the classifier alone".to_owned(),
        };
        if let Some(decay) = recipe.ema_decay {
            what += &format!("; evaluated and saved: their moving average, decay {decay}");
        }
        format!("{text}\ntrained: {what}\n{}", trainable(&self.inputs.model))
    }

    fn dataset(&self) -> String {
        let recipe = &self.run.recipe;
        let validation = match (&recipe.validation_split, recipe.test_size) {
            (Some(split), _) => format!("{} validation samples ({split})", self.run.eval_samples),
            (None, Some(size)) => format!("{} validation samples (test_size {size})", self.run.eval_samples),
            (None, None) => "no validation samples".to_owned(),
        };
        format!(
            "{}\n{} training samples ({}), {validation}\n{}{}{}",
            recipe.dataset,
            self.run.train_samples,
            recipe.train_split,
            self.inputs.shuffling,
            match recipe.decode {
                Decode::Exact => "",
                Decode::Fast =>
                    "\ndecoded fast: pictures that shrink much are decoded smaller, so that pixels are not Pillow's",
            },
            augmentations(recipe)
        )
    }

    fn classes(&self) -> String {
        let splits = &self.inputs.splits;
        let names = splits.train.classes();
        let training = splits.train.class_counts();
        let present: Vec<usize> = (0..names.len()).filter(|&class| training[class] > 0).collect();
        let mut text = format!("{} of {} have training samples", present.len(), names.len());
        let shown: Vec<String> = present
            .iter()
            .take(NAMED_CLASSES)
            .map(|&class| format!("{} {}", names[class], training[class]))
            .collect();
        text += &format!("\n{}", shown.join(", "));
        if present.len() > NAMED_CLASSES {
            text += &format!(" and {} more", present.len() - NAMED_CLASSES);
        }
        if let Some(weights) = &self.inputs.class_weights {
            let shown: Vec<String> = present
                .iter()
                .take(NAMED_CLASSES)
                .map(|&class| weights[class].to_string())
                .collect();
            text += &format!("\nweights in the training loss: {}", shown.join(", "));
        }
        if let Some(eval) = &splits.eval {
            let unseen: Vec<&str> = eval
                .class_counts()
                .iter()
                .zip(&training)
                .zip(names)
                .filter(|((eval, training), _)| **eval > 0 && **training == 0)
                .map(|(_, name)| name.as_str())
                .collect();
            if !unseen.is_empty() {
                text += &format!("\nvalidated, but never trained: {}", unseen.join(", "));
            }
        }
        text
    }

    fn steps(&self) -> String {
        let run = self.run;
        let recipe = &run.recipe;
        let recurring = |interval, steps| match interval {
            Interval::No => "never".to_owned(),
            Interval::Steps => format!("every {steps} steps"),
            Interval::Epoch => "every epoch".to_owned(),
        };
        let warmup = match run.warmup_steps {
            0 => String::new(),
            steps => format!(", {steps} of them warm-up"),
        };
        format!(
            "{} an epoch, {} in all ({:.3} epochs){warmup}\nlogged every {} steps, evaluated {}, saved {}",
            run.steps_per_epoch,
            run.total_steps,
            run.epoch_at(run.total_steps),
            recipe.logging_steps,
            recurring(recipe.eval_strategy, recipe.eval_steps.unwrap_or(recipe.logging_steps)),
            recurring(recipe.save_strategy, recipe.save_steps),
        )
    }

    fn compute(&self) -> String {
        let run = self.run;
        let dtype = match run.precision {
            Precision::Fp32 => "f32",
            Precision::Fp16 => "f16 with f32 master weights",
            Precision::Bf16 if run.device.is_cpu() => "f32, of which products round their operands to bf16",
            Precision::Bf16 => "bf16 with f32 master weights",
        };
        format!(
            "{dtype}, {}\nworld size {}; each rank has {} and {} that decode",
            self.device,
            run.world,
            plural(run.threads, "compute thread"),
            run.loader_threads
        )
    }
}

impl fmt::Display for Preflight<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let run = self.run;
        let recipe = &run.recipe;
        let batch = format!(
            "{} samples a step: {} x {} x {} of accumulation",
            run.global_batch,
            recipe.per_device_train_batch_size,
            plural(run.world, "rank"),
            recipe.gradient_accumulation_steps
        );
        let estimate = memory::estimate(run, &self.inputs.model, &self.inputs.preprocessor);
        let host = bytes(estimate.host + self.inputs.shuffling.filled(run.world));
        let memory = match estimate.gpu {
            None => format!("about {host} a rank"),
            Some(gpu) => format!("about {host} a rank, and {} on its GPU", bytes(gpu)),
        };
        section(f, "model", &self.model())?;
        section(f, "dataset", &self.dataset())?;
        section(f, "classes", &self.classes())?;
        section(f, "batch", &batch)?;
        section(f, "steps", &self.steps())?;
        section(f, "compute", &self.compute())?;
        section(f, "memory", &memory)?;
        section(f, "results", &recipe.output_dir.display().to_string())?;
        for note in self.notes {
            section(f, "note", note)?;
        }
        Ok(())
    }
}

/// peft's words.
fn trainable(model: &Model) -> String {
    let (trainable, all) = (model.trainable_count(), model.total_count());
    format!(
        "trainable params: {} || all params: {} || trainable%: {:.4}",
        grouped(trainable),
        grouped(all),
        100.0 * trainable as f64 / all as f64
    )
}

/// A line on what training samples go through besides the transform; empty if there is nothing.
fn augmentations(recipe: &Recipe) -> String {
    let (ops, jitter) = (&recipe.rand_augment, &recipe.color_jitter);
    let ops = ops.is_on().then(|| {
        let (magnitude, bins) = (ops.magnitude, ops.num_magnitude_bins);
        format!(
            "RandAugment with {} ops of magnitude {magnitude} of {bins}",
            ops.num_ops
        )
    });
    let jitter = jitter.is_on().then(|| {
        format!(
            "ColorJitter of brightness {} contrast {} saturation {} hue {}",
            jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue
        )
    });
    let erasing = (recipe.random_erasing > 0.0).then(|| {
        format!(
            "a rectangle erased of {:.0} % of the samples",
            100.0 * recipe.random_erasing
        )
    });
    let on: Vec<String> = [ops, jitter, erasing].into_iter().flatten().collect();
    match on.is_empty() {
        true => String::new(),
        false => format!("\naugmented: {}", on.join(", ")),
    }
}

/// `title     text`, further lines below the text.
fn section(f: &mut fmt::Formatter<'_>, title: &str, text: &str) -> fmt::Result {
    for (i, line) in text.lines().enumerate() {
        writeln!(f, "{:<9}{line}", if i == 0 { title } else { "" })?;
    }
    Ok(())
}

fn plural(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// 86,543,818
pub fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn bytes(n: usize) -> String {
    match n {
        0..1_000_000_000 => format!("{} MB", n.div_ceil(1_000_000)),
        _ => format!("{:.1} GB", n as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let texts = [0, 999, 1000, 667_493, 86_543_818].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "667,493", "86,543,818"]);
    }

    #[test]
    fn sizes_have_their_unit() {
        assert_eq!(
            [1, 999_999_999, 1_440_000_000].map(bytes),
            ["1 MB", "1000 MB", "1.4 GB"]
        );
    }
}
