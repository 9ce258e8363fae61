//! `README.md` of a result directory: a model card with the YAML front matter that the Hub reads.

use std::fmt::Write;

use super::{Results, TrainerState, epochs_table};
use crate::recipe::{ClassWeights, Method, Recipe};

/// What a card is made of.
pub struct ModelCard<'a> {
    pub recipe: &'a Recipe,
    pub state: &'a TrainerState,
    pub results: &'a Results,
    pub classes: &'a [String],
    pub global_batch: usize,
    pub world: usize,
    /// In peft's words: trainable and all parameters.
    pub parameters: (usize, usize),
}

/// Rows of hyperparameters: what it is, and its value.
type Row = (&'static str, String);

impl ModelCard<'_> {
    pub fn to_markdown(&self) -> String {
        let name = last_component(&self.recipe.output_dir.to_string_lossy());
        let base = last_component(&self.recipe.model);
        let dataset = last_component(&self.recipe.dataset);
        let (trainable, all) = self.parameters;
        let mut card = self.front_matter(&name);
        let _ = writeln!(card, "# {name}\n");
        let what = match self.recipe.method {
            Method::Lora => "LoRA adapters and a classifier",
            Method::Full => "All weights, fine-tuned",
            Method::Head => "A classifier on frozen features",
        };
        let _ = writeln!(
            card,
            "{what}: {base} on {dataset}, {} classes, {trainable} of {all} parameters trained.\n",
            self.classes.len()
        );
        if let Some(evaluation) = &self.results.evaluation {
            let _ = writeln!(
                card,
                "On the {} validation samples: accuracy {:.4}, loss {:.4}.\n",
                self.results.eval_samples, evaluation.figures.accuracy, evaluation.figures.loss
            );
        }
        let _ = writeln!(card, "## Training\n\n| value | |\n| --- | --- |");
        for (what, value) in self.hyperparameters() {
            let _ = writeln!(card, "| {what} | {value} |");
        }
        let _ = writeln!(card, "\n{}", epochs_table(self.state));
        let _ = writeln!(
            card,
            "Made with dtrain {}; `dtrain_run.toml` repeats the run, `trainer_state.json` holds its history.",
            env!("CARGO_PKG_VERSION")
        );
        card
    }

    fn front_matter(&self, name: &str) -> String {
        let lora = self.recipe.method == Method::Lora;
        let mut yaml = String::from("---\n");
        if let Some(hub_name) = hub_name(&self.recipe.model) {
            let _ = writeln!(yaml, "base_model: {hub_name}");
        }
        let library = if lora { "peft" } else { "transformers" };
        let _ = writeln!(
            yaml,
            "library_name: {library}\npipeline_tag: image-classification\ntags:"
        );
        for tag in ["image-classification", "vision", "dtrain"]
            .into_iter()
            .chain(lora.then_some("lora"))
        {
            let _ = writeln!(yaml, "- {tag}");
        }
        if let Some(hub_name) = hub_name(&self.recipe.dataset) {
            let _ = writeln!(yaml, "datasets:\n- {hub_name}");
        }
        if let Some(evaluation) = &self.results.evaluation {
            let split = self
                .recipe
                .validation_split
                .as_ref()
                .unwrap_or(&self.recipe.train_split);
            let _ = write!(
                yaml,
                "metrics:\n- accuracy\nmodel-index:\n- name: {}\n  results:\n  - task:\n      name: Image Classification\n      \
                 type: image-classification\n    dataset:\n      name: {}\n      type: {}\n      split: {}\n    metrics:\n    \
                 - name: Accuracy\n      type: accuracy\n      value: {}\n",
                quoted(name),
                quoted(&last_component(&self.recipe.dataset)),
                quoted(hub_name(&self.recipe.dataset).unwrap_or("imagefolder")),
                quoted(split),
                evaluation.figures.accuracy,
            );
        }
        yaml + "---\n\n"
    }

    fn hyperparameters(&self) -> Vec<Row> {
        let recipe = self.recipe;
        let mut rows: Vec<Row> = vec![
            ("learning rate", format!("{:e}", recipe.learning_rate)),
            ("schedule", format!("{:?}", recipe.lr_scheduler_type).to_lowercase()),
            (
                "batch",
                format!(
                    "{} = {} × {} ranks × {} accumulated",
                    self.global_batch,
                    recipe.per_device_train_batch_size,
                    self.world,
                    recipe.gradient_accumulation_steps
                ),
            ),
            ("optimizer steps", self.state.global_step.to_string()),
            ("epochs", super::table::short(self.state.epoch)),
            ("weight decay", recipe.weight_decay.to_string()),
            ("seed", recipe.seed.to_string()),
        ];
        let mixed = recipe.mixup_alpha > 0.0 || recipe.cutmix_alpha > 0.0;
        let aids = [
            ("frozen", (!recipe.freeze.is_empty()).then(|| recipe.freeze.join(", "))),
            (
                "label smoothing",
                (recipe.label_smoothing_factor > 0.0).then(|| recipe.label_smoothing_factor.to_string()),
            ),
            (
                "class weights",
                (recipe.class_weights != ClassWeights::None).then(|| recipe.class_weights.to_string()),
            ),
            (
                "sampling",
                recipe.balanced_sampling.then(|| "every class alike".to_owned()),
            ),
            (
                "Mixup and CutMix alpha, probability",
                mixed.then(|| format!("{}, {}, {}", recipe.mixup_alpha, recipe.cutmix_alpha, recipe.mixup_prob)),
            ),
            (
                "moving average of the weights, decay",
                recipe.ema_decay.map(|decay| decay.to_string()),
            ),
        ];
        rows.extend(aids.into_iter().filter_map(|(name, value)| Some((name, value?))));
        if recipe.method == Method::Lora {
            rows.push((
                "LoRA rank, alpha, dropout",
                format!("{}, {}, {}", recipe.lora_r, recipe.lora_alpha, recipe.lora_dropout),
            ));
            rows.push(("LoRA modules", recipe.lora_target_modules.join(", ")));
        }
        rows
    }
}

/// `org/name` as it is; None for a path.
fn hub_name(name: &str) -> Option<&str> {
    let (owner, rest) = name.split_once('/')?;
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    (plain(owner) && plain(rest) && !std::path::Path::new(name).exists()).then_some(name)
}

fn last_component(path: &str) -> String {
    let name = std::path::Path::new(path)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| path.to_owned())
}

/// As a YAML string; JSON's strings are YAML's.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_not_taken_for_names_of_the_hub() {
        assert_eq!(
            hub_name("google/vit-base-patch16-224-in21k"),
            Some("google/vit-base-patch16-224-in21k")
        );
        for path in [
            "/data/food10",
            "../data/food10",
            "./x",
            "src/lib.rs",
            "food101",
            "a/b/c",
            "a b/c",
        ] {
            assert_eq!(hub_name(path), None, "{path}");
        }
    }
}
