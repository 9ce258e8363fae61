//! The training run: trainer, evaluation, checkpoints, health.
