//! How much memory a rank will need, estimated from shapes before anything large is allocated.
//!
//! It is an estimate of the peak, meant to be right within a fifth: what the layers keep is counted as `nn::Block` lists it.

use crate::model::VitConfig;
use crate::recipe::Method;
use crate::train::{Inputs, Run};

const F32: usize = 4;
/// Program, libraries, allocator, thread stacks.
const PROGRAM: usize = 40 << 20;

/// Bytes of a rank on the CPU.
pub fn estimate(run: &Run, inputs: &Inputs) -> usize {
    let config = inputs.model.config();
    let recipe = &run.recipe;
    let (trained, all) = (inputs.model.trainable_count(), inputs.model.total_count());
    let (train, eval) = (
        recipe.per_device_train_batch_size,
        recipe.per_device_eval_batch_size.min(run.eval_samples),
    );
    let image = 3 * config.image_height * config.image_width;
    // Batches that a loader holds, ready or in the making, and the one in use; that of training stays while another one
    // evaluates.
    let ahead = |batch: usize| (4 + 2 * run.loader_threads / batch.max(1)) * batch * image;
    let training = train * step(config, recipe.method);
    let evaluating = eval * passing(config) + ahead(eval);
    let floats = weights(recipe.method, trained, all) + ahead(train) + training.max(evaluating);
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

/// Floats of one image in a training step: what is kept of all blocks, and what passes through one.
fn step(config: &VitConfig, method: Method) -> usize {
    let (s, d, m) = (config.tokens(), config.hidden_size, config.intermediate_size);
    // x, q, k, v, the heads' output, x_mid and the MLP's inner values.
    let block = s * (6 * d + m);
    match method {
        Method::Head => passing(config),
        Method::Lora | Method::Full => config.layers * block + passing(config),
    }
}

/// Floats of one image that passes through a block, up or down.
fn passing(config: &VitConfig) -> usize {
    config.tokens() * (8 * config.hidden_size + 2 * config.intermediate_size)
}
