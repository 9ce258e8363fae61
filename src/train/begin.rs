//! The beginning of a run: everything is checked, agreed on by all ranks, and, when resumed, taken over from a checkpoint.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::average::averaged;
use super::bad_images::BadImages;
use super::checkpoint::{LossSums, Position};
use super::evaluate::Evaluator;
use super::gradient_sum::GradientSum;
use super::health::{self, GradientAudit};
use super::inputs::Inputs;
use super::loading::Loading;
use super::micro_batch::Asking;
use super::objective::Objective;
use super::plan::plan;
use super::stop::StopRequests;
use super::trainer::Trainer;
use super::{Run, output, resume};
use crate::collective::{Collective, host, same_everywhere};
use crate::data::{Dataset, Loader, Mixing, Order};
use crate::error::Result;
use crate::model::Model;
use crate::ops::storage;
use crate::optim::{AdamW, AdamWConfig, GradScaler, LearningRate, MovingAverage, StepEnd};
use crate::recipe::{Precision, Recipe};
use crate::report::{EventFile, Progress, Stages, TrainerState};

/// Where a run begins: at nothing, or after a checkpoint's step.
struct Start {
    optimizer: AdamW,
    average: Option<MovingAverage>,
    scaler: Option<GradScaler>,
    state: TrainerState,
    losses: LossSums,
    seconds_before: f64,
    /// Lines for people.
    notes: Vec<String>,
}

impl<'a> Trainer<'a> {
    /// Everything up to the first step; continues from a checkpoint if the recipe says so. Every rank must call it.
    pub fn begin(run: &'a Run, inputs: Inputs, collective: &'a Arc<dyn Collective>) -> Result<Trainer<'a>> {
        let ranks = collective;
        let collective = &**collective;
        let recipe = &run.recipe;
        let stop = StopRequests::listen()?;
        let Inputs {
            mut splits,
            shuffling,
            mut model,
            preprocessor,
            class_weights,
            ..
        } = inputs;
        let claimed = if collective.rank() == 0 {
            output::claim(recipe)?
        } else {
            Vec::new()
        };
        agree(recipe, &splits.train, class_weights.as_deref(), &model, collective)?;
        let Start {
            optimizer,
            average,
            scaler,
            state,
            losses,
            seconds_before,
            notes,
        } = start(run, &mut model, splits.train.classes(), &shuffling.order, collective)?;

        model.refresh_when_told()?;
        if recipe.sync_batch_norm {
            model.normalize_over(ranks.clone());
        }
        let plan = plan(recipe, splits.train.len(), collective.world(), &shuffling);
        shuffling.prepare(&mut splits, collective);
        let steps_left = run.total_steps.saturating_sub(state.global_step);
        let epochs = match plan.order {
            // Pictures whose files are too many for memory are not looked at to find out whether they fit.
            Order::Blocks(_) => 0,
            _ => steps_left.div_ceil(run.steps_per_epoch.max(1)),
        };
        let loading = Loading::decide(run, &splits, &preprocessor, &model, epochs, collective)?;
        let objective = Objective::new(recipe.label_smoothing_factor, class_weights, &splits.train, &plan);
        let micro_batches = plan.of_rank(collective.rank(), state.global_step..run.total_steps);
        let loader = Loader::new(splits.train.clone(), micro_batches, loading.train)?;
        let evaluator = splits.eval.zip(loading.eval).map(|(dataset, loader)| Evaluator {
            dataset,
            loader,
            batch: recipe.per_device_eval_batch_size,
            label_smoothing: recipe.label_smoothing_factor,
            device: run.device.clone(),
        });
        let rate = LearningRate {
            peak: recipe.learning_rate,
            schedule: recipe.lr_scheduler_type,
            warmup_steps: run.warmup_steps,
            total_steps: run.total_steps,
        };
        let end = StepEnd::new(
            model.parameters(),
            optimizer,
            scaler,
            rate,
            recipe.max_grad_norm,
            recipe.gradient_accumulation_steps,
        )?;
        let progress = match collective.rank() {
            0 => Progress::new(run.total_steps, state.global_step),
            _ => Progress::silent(),
        };
        claimed
            .iter()
            .chain(&notes)
            .chain(&loading.notes)
            .for_each(|note| progress.say(note));
        let events = match collective.rank() == 0 && recipe.reports_to_tensorboard() {
            true => Some(event_file(recipe)?),
            false => None,
        };
        Ok(Trainer {
            run,
            collective,
            end,
            average,
            plan,
            objective,
            mixing: Mixing::of(recipe),
            loader,
            evaluator,
            audit: GradientAudit::new(model.parameters()),
            asking: match GradientSum::new(collective, &model.parameters().gradients).is_in_ranges() {
                // Such sums begin in the middle of a backward pass, and a graph beside op by op would need memory of its own.
                true => Asking::ByOp,
                false => Asking::new(recipe.cuda_graph, &model, recipe.per_device_train_batch_size),
            },
            stop,
            state,
            losses,
            outcomes: BTreeMap::new(),
            bad_images: BadImages::default(),
            progress,
            events,
            stages: Stages::begin(),
            pending: VecDeque::new(),
            begun: Instant::now(),
            norm: 0.0,
            seconds_before,
            classes: splits.train.classes().to_vec(),
            model,
            preprocessor,
        })
    }
}

/// A new file for TensorBoard, which begins with the recipe.
fn event_file(recipe: &Recipe) -> Result<EventFile> {
    let mut events = EventFile::create(&recipe.output_dir, &host())?;
    events.text("args", &recipe.to_toml())?;
    Ok(events)
}

/// Errors unless all ranks are about to do the same.
fn agree(
    recipe: &Recipe,
    train: &Dataset,
    class_weights: Option<&[f32]>,
    model: &Model,
    collective: &dyn Collective,
) -> Result<()> {
    if collective.world() == 1 {
        return Ok(());
    }
    same_everywhere(collective, "the recipe", recipe.to_toml().as_bytes())?;
    let labels: Vec<u8> = (0..train.len())
        .flat_map(|row| train.label(row).to_le_bytes())
        .collect();
    same_everywhere(collective, "the training set", &labels)?;
    let weights: Vec<u8> = class_weights
        .into_iter()
        .flatten()
        .flat_map(|weight| weight.to_le_bytes())
        .collect();
    same_everywhere(collective, "the weights of the classes", &weights)?;
    health::same_values(collective, model.parameters())
}

/// A new optimizer and state, or those of the checkpoint that the recipe asks for; then the model's values are its, too.
fn start(
    run: &Run,
    model: &mut Model,
    classes: &[String],
    order: &Order,
    collective: &dyn Collective,
) -> Result<Start> {
    let (recipe, parameters) = (&run.recipe, model.parameters());
    let config = AdamWConfig {
        beta1: recipe.adam_beta1,
        beta2: recipe.adam_beta2,
        epsilon: recipe.adam_epsilon,
        weight_decay: recipe.weight_decay,
    };
    let mut start = Start {
        optimizer: AdamW::new(parameters, config)?,
        average: match recipe.ema_decay {
            Some(decay) => Some(MovingAverage::new(decay, &averaged(model))?),
            None => None,
        },
        scaler: (run.precision == Precision::Fp16).then(GradScaler::new),
        state: new_state(run),
        losses: LossSums::default(),
        seconds_before: 0.0,
        notes: Vec::new(),
    };
    let Some(resumed) = resume::resume(run, parameters, classes, order, collective)? else {
        if recipe.resume_from_checkpoint.as_deref() == Some("true") {
            start.notes.push(format!(
                "no checkpoint in {} yet: beginning anew",
                recipe.output_dir.display()
            ));
        }
        return Ok(start);
    };
    storage::update(&parameters.values, |values| {
        values.copy_from_slice(&resumed.buffers.values)
    })?;
    let optimizer = &mut start.optimizer;
    storage::update(&optimizer.first_moments, |m| {
        m.copy_from_slice(&resumed.buffers.first_moments)
    })?;
    storage::update(&optimizer.second_moments, |v| {
        v.copy_from_slice(&resumed.buffers.second_moments)
    })?;
    let Position {
        batches_tracked,
        scaler,
        optimizer_steps,
        seconds,
        losses,
        state,
        ..
    } = resumed.position;
    optimizer.steps = optimizer_steps;
    if let Some(statistics) = model.statistics_mut() {
        statistics.restore(&resumed.buffers.statistics, &batches_tracked)?;
    }
    if let Some(average) = &start.average {
        average.restore(&[&resumed.buffers.average, &resumed.buffers.average_statistics])?;
    }
    if start.scaler.is_some() {
        start.scaler = scaler.or(start.scaler);
    }
    start.state = continued(start.state, state);
    start.losses = losses;
    start.seconds_before = seconds;
    let step = start.state.global_step;
    start
        .notes
        .push(format!("resumed from {} after step {step}", resumed.from.display()));
    start.notes.extend(resumed.notes);
    if collective.rank() == 0 {
        start.notes.extend(output::forget_after(&recipe.output_dir, step)?);
    }
    Ok(start)
}

/// The state before the first step.
fn new_state(run: &Run) -> TrainerState {
    let recipe = &run.recipe;
    TrainerState {
        eval_steps: recipe.eval_steps.unwrap_or(recipe.logging_steps),
        is_local_process_zero: true,
        is_world_process_zero: true,
        logging_steps: recipe.logging_steps,
        max_steps: run.total_steps,
        num_train_epochs: run.epochs(),
        save_steps: recipe.save_steps,
        train_batch_size: recipe.per_device_train_batch_size,
        ..TrainerState::default()
    }
}

/// The state of a checkpoint under the values of a new run.
fn continued(new: TrainerState, then: TrainerState) -> TrainerState {
    TrainerState {
        best_global_step: then.best_global_step,
        best_metric: then.best_metric,
        best_model_checkpoint: then.best_model_checkpoint,
        epoch: then.epoch,
        global_step: then.global_step,
        log_history: then.log_history,
        ..new
    }
}
