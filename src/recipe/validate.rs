//! Ranges of a recipe's values, and combinations that contradict themselves. What depends on a dataset or a machine is
//! checked where the run is decided.

mod aids;
mod augmentation;
mod data;
mod ranges;

pub use ranges::Violation;
use ranges::{Below, above_0, at_least_1, from_0, violation, within};

use super::{Figure, Interval, Method, Recipe, Schedule};

/// Names of the projections that can be adapted, under v4's and v5's names.
const TARGETS: [(&str, &str); 3] = [("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")];

/// The first value of `recipe` that is out of range.
pub fn check(recipe: &Recipe) -> Result<(), Violation> {
    let r = recipe;
    if !r.do_train && !r.do_eval && r.eval_strategy == Interval::No {
        return Err(violation(
            "do_train",
            "false",
            "neither training nor evaluation is asked for",
            "add --do_train, --do_eval or both",
        ));
    }
    check_model(r)?;
    data::check(r)?;
    augmentation::check(r)?;

    at_least_1("per_device_train_batch_size", r.per_device_train_batch_size as u64)?;
    at_least_1("gradient_accumulation_steps", r.gradient_accumulation_steps as u64)?;
    at_least_1("per_device_eval_batch_size", r.per_device_eval_batch_size as u64)?;
    above_0("num_train_epochs", r.num_train_epochs)?;
    if let Some(steps) = r.max_steps {
        at_least_1("max_steps", steps)?;
    }

    above_0("learning_rate", r.learning_rate)?;
    within("warmup_ratio", r.warmup_ratio, 0.0, Below::OneOrEqual)?;
    from_0("weight_decay", r.weight_decay)?;
    within("adam_beta1", r.adam_beta1, 0.0, Below::One)?;
    within("adam_beta2", r.adam_beta2, 0.0, Below::One)?;
    above_0("adam_epsilon", r.adam_epsilon)?;
    from_0("max_grad_norm", r.max_grad_norm)?;
    within("label_smoothing_factor", r.label_smoothing_factor, 0.0, Below::One)?;
    if r.warmup_steps > 0 && r.warmup_ratio > 0.0 {
        return Err(violation(
            "warmup_steps",
            r.warmup_steps,
            "the warm-up is given twice, in steps and as a ratio",
            "give one of the two",
        ));
    }
    if r.lr_scheduler_type == Schedule::Constant && (r.warmup_steps > 0 || r.warmup_ratio > 0.0) {
        return Err(violation(
            "lr_scheduler_type",
            "constant",
            "a constant schedule has no warm-up, but one is asked for",
            "choose `constant_with_warmup`, or set no warm-up",
        ));
    }
    aids::check(r)?;
    check_intervals(r)?;

    if let Some(threads) = r.threads {
        at_least_1("threads", threads as u64)?;
    }
    Ok(())
}

fn check_model(r: &Recipe) -> Result<(), Violation> {
    if r.model.is_empty() {
        return Err(violation(
            "model",
            "",
            "no model is named",
            "give `--model DIR` (a checkpoint in Hugging Face's layout), or `--recipe vit-lora`",
        ));
    }
    if r.method != Method::Lora {
        return match &r.adapter {
            Some(adapter) => Err(violation(
                "adapter",
                adapter.display(),
                "an adapter can only be trained on with method lora",
                "add `--method lora`, or leave the adapter out",
            )),
            None => Ok(()),
        };
    }
    at_least_1("lora_r", r.lora_r as u64)?;
    above_0("lora_alpha", r.lora_alpha)?;
    within("lora_dropout", r.lora_dropout, 0.0, Below::One)?;
    let names = &r.lora_target_modules;
    let place = |name: &String| TARGETS.iter().position(|(v4, v5)| v4 == name || v5 == name);
    let places: Vec<_> = names.iter().map(place).collect();
    if names.is_empty() || places.contains(&None) {
        return Err(violation(
            "lora_target_modules",
            names.join(","),
            "these are not all projections of an attention layer",
            "choose among query, key and value (or q_proj, k_proj and v_proj)",
        ));
    }
    if (1..places.len()).any(|i| places[..i].contains(&places[i])) {
        return Err(violation(
            "lora_target_modules",
            names.join(","),
            "a projection is named twice",
            "name each one once; query and q_proj are the same one",
        ));
    }
    Ok(())
}

fn check_intervals(r: &Recipe) -> Result<(), Violation> {
    at_least_1("logging_steps", r.logging_steps)?;
    at_least_1("save_steps", r.save_steps)?;
    if let Some(steps) = r.eval_steps {
        at_least_1("eval_steps", steps)?;
    }
    if let Some(limit) = r.save_total_limit {
        at_least_1("save_total_limit", limit as u64)?;
    }
    if Figure::named(&r.metric_for_best_model).is_none() {
        let names = Figure::ALL.map(Figure::name).join(", ");
        return Err(violation(
            "metric_for_best_model",
            &r.metric_for_best_model,
            "there is no such metric",
            &format!("choose one of {names}"),
        ));
    }
    from_0("early_stopping_threshold", r.early_stopping_threshold)?;
    if let Some(patience) = r.early_stopping_patience {
        at_least_1("early_stopping_patience", patience)?;
        if r.eval_strategy == Interval::No {
            return Err(violation(
                "early_stopping_patience",
                patience,
                "nothing is evaluated on the way, so that there is nothing to stop for",
                "add --eval-strategy epoch (or steps)",
            ));
        }
    }
    if r.output_dir.as_os_str().is_empty() {
        return Err(violation(
            "output_dir",
            "\"\"",
            "no folder is named",
            "give `--output-dir DIR`",
        ));
    }
    if !r.load_best_model_at_end {
        return Ok(());
    }
    let eval_steps = r.eval_steps.unwrap_or(r.logging_steps);
    let problem = if r.eval_strategy == Interval::No {
        "the best model is wanted, but nothing is evaluated"
    } else if r.eval_strategy != r.save_strategy {
        "the best model is wanted, but evaluation and saving have different strategies, so that it may not be saved"
    } else if r.eval_strategy == Interval::Steps && !r.save_steps.is_multiple_of(eval_steps) {
        "the best model is wanted, but not every checkpoint is evaluated: save_steps is no multiple of eval_steps"
    } else {
        return Ok(());
    };
    Err(violation(
        "load_best_model_at_end",
        "true",
        problem,
        "give --eval-strategy and --save-strategy the same value (epoch or steps), or --load-best-model-at-end false",
    ))
}
