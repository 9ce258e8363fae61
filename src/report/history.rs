//! The history of a run under the names of Hugging Face's `trainer_state.json`.
//!
//! Numbers are f64 and are written in their shortest form that reads back as the same number.

use serde::{Deserialize, Serialize};

use super::Figures;

/// `trainer_state.json`; the fields stand in the order of the file, which is alphabetical.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Optimizer step after which the best figure was measured.
    pub best_global_step: Option<u64>,
    pub best_metric: Option<f64>,
    /// Directory of the best checkpoint.
    pub best_model_checkpoint: Option<String>,
    /// Epochs done, with a fraction.
    pub epoch: f64,
    pub eval_steps: u64,
    /// Optimizer steps done.
    pub global_step: u64,
    pub is_hyper_param_search: bool,
    pub is_local_process_zero: bool,
    pub is_world_process_zero: bool,
    pub log_history: Vec<LogEntry>,
    pub logging_steps: u64,
    pub max_steps: u64,
    pub num_input_tokens_seen: u64,
    pub num_train_epochs: u64,
    pub save_steps: u64,
    pub stateful_callbacks: std::collections::BTreeMap<String, String>,
    pub total_flos: f64,
    /// Samples of a micro-batch on one rank.
    pub train_batch_size: usize,
    pub trial_name: Option<String>,
    pub trial_params: Option<String>,
}

/// One entry of the history. They are told apart by their fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LogEntry {
    Loss(LossEntry),
    Evaluation(EvaluationEntry),
    Totals(TotalsEntry),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossEntry {
    pub epoch: f64,
    /// Global L2 norm at `step`, before clipping.
    pub grad_norm: f64,
    /// The rate that `step` was done with.
    pub learning_rate: f64,
    /// Mean of the steps' losses since the last such entry.
    pub loss: f64,
    pub step: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationEntry {
    pub epoch: f64,
    #[serde(flatten)]
    pub figures: Figures,
    /// Seconds.
    pub eval_runtime: f64,
    pub eval_samples_per_second: f64,
    pub eval_steps_per_second: f64,
    pub step: u64,
}

/// The last entry of a finished run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TotalsEntry {
    pub epoch: f64,
    pub step: u64,
    pub total_flos: f64,
    /// Mean of the losses of all steps.
    pub train_loss: f64,
    /// Seconds.
    pub train_runtime: f64,
    pub train_samples_per_second: f64,
    pub train_steps_per_second: f64,
}

impl TrainerState {
    /// The text of `trainer_state.json`.
    pub fn to_json(&self) -> String {
        let mut sorted = serde_json::to_value(self).expect("plain data");
        sorted.sort_all_objects();
        serde_json::to_string_pretty(&sorted).expect("plain data") + "\n"
    }

    pub fn losses(&self) -> impl Iterator<Item = &LossEntry> {
        self.log_history.iter().filter_map(|entry| match entry {
            LogEntry::Loss(loss) => Some(loss),
            _ => None,
        })
    }

    pub fn evaluations(&self) -> impl Iterator<Item = &EvaluationEntry> {
        self.log_history.iter().filter_map(|entry| match entry {
            LogEntry::Evaluation(evaluation) => Some(evaluation),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> TrainerState {
        let loss = LossEntry {
            epoch: 0.1 + 0.2,
            grad_norm: 1.0 / 3.0,
            learning_rate: 5e-3,
            loss: std::f64::consts::LN_10,
            step: 7,
        };
        let evaluation = EvaluationEntry {
            epoch: 1.0,
            figures: Figures {
                accuracy: 0.8685714285714285,
                loss: 1e-17,
                f1_macro: 1.0 / 3.0,
                ..Figures::default()
            },
            eval_runtime: 3.25,
            eval_samples_per_second: 107.0,
            eval_steps_per_second: 1.5,
            step: 25,
        };
        let totals = TotalsEntry {
            epoch: 1.0,
            step: 25,
            total_flos: 0.0,
            train_loss: 2.0,
            train_runtime: 60.5,
            train_samples_per_second: 13.0,
            train_steps_per_second: 0.4,
        };
        TrainerState {
            best_metric: Some(0.1 + 0.7),
            log_history: vec![
                LogEntry::Loss(loss),
                LogEntry::Evaluation(evaluation),
                LogEntry::Totals(totals),
            ],
            global_step: 25,
            ..TrainerState::default()
        }
    }

    #[test]
    fn keys_are_those_of_hugging_face_in_alphabetical_order() {
        let json: serde_json::Value = serde_json::from_str(&state().to_json()).unwrap();
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert!(keys.is_sorted(), "{keys:?}");
        assert_eq!(keys.len(), 20);
        let entry = json["log_history"][0].as_object().unwrap();
        assert_eq!(
            entry.keys().collect::<Vec<_>>(),
            ["epoch", "grad_norm", "learning_rate", "loss", "step"]
        );
        let evaluation = json["log_history"][1].as_object().unwrap();
        assert!(evaluation.keys().is_sorted(), "{evaluation:?}");
        assert_eq!((evaluation.len(), &evaluation["eval_loss"]), (17, &1e-17.into()));
    }

    #[test]
    fn numbers_have_full_precision() {
        assert!(state().to_json().contains("\"epoch\": 0.30000000000000004"));
        assert!(state().to_json().contains("\"grad_norm\": 0.3333333333333333"));
    }

    /// TOML reads numbers exactly; it is what a checkpoint is resumed from.
    #[test]
    fn toml_gives_back_the_same_state() {
        let text = toml::to_string(&state()).unwrap();
        assert_eq!(toml::from_str::<TrainerState>(&text).unwrap(), state());
    }
}
