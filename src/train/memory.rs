//! How much memory a rank will need, estimated from shapes before anything large is allocated.
//!
//! It is an estimate of the peak, meant to be right within a fifth: what the layers keep is counted as `nn::Block` lists it.

use super::Run;
use crate::data::Preprocessor;
use crate::model::{Model, ResNetConfig, VitConfig};
use crate::ops::launch::UNFOLDED_BYTES;
use crate::recipe::{Method, Precision, Recipe};

const F32: usize = 4;
/// Program, libraries, allocator, thread stacks.
const PROGRAM: usize = 40 << 20;

/// What cuBLASLt works in.
const WORKSPACE: usize = 32 << 20;

/// Bytes of a rank in the machine's memory, and on its GPU if it has one (CUDA itself takes another half a GB there).
pub struct Estimate {
    pub host: usize,
    pub gpu: Option<usize>,
}

pub fn estimate(run: &Run, model: &Model, preprocessor: &Preprocessor) -> Estimate {
    match run.device.is_cpu() {
        true => Estimate {
            host: on_cpu(run, model, preprocessor),
            gpu: None,
        },
        false => Estimate {
            host: PROGRAM + F32 * (model.total_count() + batches(run, preprocessor)),
            gpu: Some(on_gpu(run, model, preprocessor)),
        },
    }
}

/// Pixels that a loader holds, ready or in the making, and those in use.
fn batches(run: &Run, preprocessor: &Preprocessor) -> usize {
    let batch = run.recipe.per_device_train_batch_size;
    (4 + 2 * run.loader_threads / batch.max(1)) * batch * pixels(preprocessor)
}

fn on_gpu(run: &Run, model: &Model, preprocessor: &Preprocessor) -> usize {
    let recipe = &run.recipe;
    let (trained, all) = (model.trainable_count(), model.total_count());
    let (own, compute) = match run.precision {
        Precision::Fp32 => (4 * F32, F32),
        // Values, gradients and moments in f32, and the rounded values.
        Precision::Fp16 | Precision::Bf16 => (4 * F32 + 2, 2),
    };
    let average = if recipe.ema_decay.is_some() { F32 } else { 0 };
    let weights = trained * (own + average) + (all - trained.min(all)) * compute;
    let (of_step, of_pass) = of_image(model, preprocessor, recipe);
    let training = recipe.per_device_train_batch_size * of_step;
    let evaluating = recipe.per_device_eval_batch_size.min(run.eval_samples) * of_pass;
    // Samples in use, ready and in the making, and pictures that were just copied.
    let inputs = recipe.per_device_train_batch_size * pixels(preprocessor) * (3 * compute + 4);
    let unfolded = match model {
        Model::Vit(_) => 0,
        Model::ResNet(_) => UNFOLDED_BYTES,
    };
    WORKSPACE + unfolded + weights + inputs + compute * training.max(evaluating)
}

/// Of one image.
fn pixels(preprocessor: &Preprocessor) -> usize {
    let (height, width) = preprocessor.input_size();
    3 * height * width
}

/// Floats of one image in a training step, and of one that passes through the model.
fn of_image(model: &Model, preprocessor: &Preprocessor, recipe: &Recipe) -> (usize, usize) {
    let (height, width) = preprocessor.input_size();
    match model {
        Model::Vit(vit) => (
            step(vit.config(), vit.config().layers - vit.lowest(), recipe),
            passing(vit.config()),
        ),
        Model::ResNet(resnet) => residual(resnet.config(), recipe.method, height, width),
    }
}

fn on_cpu(run: &Run, model: &Model, preprocessor: &Preprocessor) -> usize {
    let recipe = &run.recipe;
    let (trained, all) = (model.trainable_count(), model.total_count());
    let (train, eval) = (
        recipe.per_device_train_batch_size,
        recipe.per_device_eval_batch_size.min(run.eval_samples),
    );
    let image = pixels(preprocessor);
    // Batches that a loader holds, ready or in the making, and the one in use; that of training stays while another one
    // evaluates.
    let ahead = |batch: usize| (4 + 2 * run.loader_threads / batch.max(1)) * batch * image;
    let (of_step, of_pass) = of_image(model, preprocessor, recipe);
    let training = train * of_step;
    let evaluating = eval * of_pass + ahead(eval);
    let average = if recipe.ema_decay.is_some() { trained } else { 0 };
    let floats = weights(recipe.method, trained, all) + average + ahead(train) + training.max(evaluating);
    PROGRAM + F32 * floats
}

/// Weights, gradients, both moments; frozen matrices are also held in the order that products read them in.
fn weights(method: Method, trained: usize, all: usize) -> usize {
    let packed = match method {
        Method::Lora => 2,
        Method::Head => 1,
        Method::Full => 0,
    };
    4 * trained + (all - trained.min(all)) * (1 + packed)
}

/// Floats of one image in a training step: what is kept of so many blocks, and what passes through one.
fn step(config: &VitConfig, kept: usize, recipe: &Recipe) -> usize {
    let (s, d, m) = (config.tokens(), config.hidden_size, config.intermediate_size);
    // x, q, k, v, the heads' output, x_mid and the MLP's inner values.
    let block = s * (6 * d + m);
    match recipe.method {
        Method::Head => passing(config),
        _ if recipe.gradient_checkpointing => kept * s * d + block + passing(config),
        Method::Lora | Method::Full => kept * block + passing(config),
    }
}

/// The same of a ResNet, and floats of one image that passes through it. The first maps are the largest: two or three of
/// their size pass.
fn residual(config: &ResNetConfig, method: Method, height: usize, width: usize) -> (usize, usize) {
    let passing = 3 * config.embedding_size.max(config.stages[0].0 / 4) * height.div_ceil(2) * width.div_ceil(2);
    let step = match method {
        Method::Head => passing,
        Method::Lora | Method::Full => config.kept_floats(height, width) + passing,
    };
    (step, passing)
}

/// Floats of one image that passes through a block, up or down.
fn passing(config: &VitConfig) -> usize {
    config.tokens() * (8 * config.hidden_size + 2 * config.intermediate_size)
}
