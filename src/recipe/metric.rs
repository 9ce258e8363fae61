//! The validation figure that checkpoints are compared by.

/// What "best" means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BestMetric {
    /// Higher is better.
    Accuracy,
    /// Lower is better.
    Loss,
}

impl BestMetric {
    /// Reads `metric_for_best_model`, with or without Trainer's prefix `eval_`.
    pub fn named(name: &str) -> Option<Self> {
        match name.strip_prefix("eval_").unwrap_or(name) {
            "accuracy" => Some(BestMetric::Accuracy),
            "loss" => Some(BestMetric::Loss),
            _ => None,
        }
    }

    /// Is `new` better than `old`? Not so when `new` is not a number.
    pub fn better(self, new: f64, old: f64) -> bool {
        match self {
            BestMetric::Accuracy => new > old,
            BestMetric::Loss => new < old,
        }
    }

    /// This figure of an evaluation.
    pub fn of(self, accuracy: f64, loss: f64) -> f64 {
        match self {
            BestMetric::Accuracy => accuracy,
            BestMetric::Loss => loss,
        }
    }

    /// The figure's name in `trainer_state.json`.
    pub fn name(self) -> &'static str {
        match self {
            BestMetric::Accuracy => "eval_accuracy",
            BestMetric::Loss => "eval_loss",
        }
    }
}
