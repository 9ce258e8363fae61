//! `train_results.json`, `eval_results.json` and `all_results.json`, under Hugging Face's names.

use serde_json::{Map, Value, json};

use super::{EvaluationEntry, TotalsEntry};

/// The figures of a finished run.
#[derive(Clone, Debug, PartialEq)]
pub struct Results {
    /// Absent where the model was only evaluated.
    pub train: Option<TotalsEntry>,
    /// Of the final model; absent without a validation set.
    pub evaluation: Option<EvaluationEntry>,
    pub train_samples: usize,
    pub eval_samples: usize,
}

impl Results {
    /// File names and their texts.
    pub fn files(&self) -> Vec<(&'static str, String)> {
        let mut all = Map::new();
        let mut files = Vec::new();
        if let Some(evaluation) = &self.evaluation {
            let mut eval = serde_json::to_value(evaluation).expect("plain data");
            eval["eval_samples"] = self.eval_samples.into();
            if let Value::Object(eval) = &mut eval {
                eval.remove("step");
                eval.sort_keys();
            }
            files.push(("eval_results.json", text(&eval)));
            merge(&mut all, eval);
        }
        if let Some(totals) = &self.train {
            let train = json!({
                "epoch": totals.epoch,
                "total_flos": totals.total_flos,
                "train_loss": totals.train_loss,
                "train_runtime": totals.train_runtime,
                "train_samples": self.train_samples,
                "train_samples_per_second": totals.train_samples_per_second,
                "train_steps_per_second": totals.train_steps_per_second,
            });
            files.push(("train_results.json", text(&train)));
            merge(&mut all, train);
        }
        all.sort_keys();
        files.push(("all_results.json", text(&Value::Object(all))));
        files
    }
}

fn merge(all: &mut Map<String, Value>, part: Value) {
    if let Value::Object(part) = part {
        all.extend(part);
    }
}

fn text(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("JSON out of JSON") + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::Figures;
    use super::*;

    #[test]
    fn all_results_holds_the_keys_of_both_parts() {
        let train = TotalsEntry {
            epoch: 5.0,
            step: 125,
            total_flos: 0.0,
            train_loss: 0.75,
            train_runtime: 60.0,
            train_samples_per_second: 66.7,
            train_steps_per_second: 2.1,
        };
        let evaluation = EvaluationEntry {
            epoch: 5.0,
            figures: Figures {
                accuracy: 0.875,
                loss: 0.5,
                ..Figures::default()
            },
            eval_runtime: 2.0,
            eval_samples_per_second: 175.0,
            eval_steps_per_second: 11.0,
            step: 125,
        };
        let results = Results {
            train: Some(train),
            evaluation: Some(evaluation),
            train_samples: 800,
            eval_samples: 350,
        };
        let parsed: Vec<(&str, Map<String, Value>)> = results
            .files()
            .into_iter()
            .map(|(name, text)| (name, serde_json::from_str(&text).unwrap()))
            .collect();
        let names: Vec<&str> = parsed.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["eval_results.json", "train_results.json", "all_results.json"]);
        let all = &parsed[2].1;
        assert!(
            parsed[0]
                .1
                .iter()
                .chain(&parsed[1].1)
                .all(|(key, value)| all[key] == *value)
        );
        assert_eq!((all.len(), all["eval_accuracy"].as_f64()), (23, Some(0.875)));
        assert!(all.keys().is_sorted());

        let without = Results {
            evaluation: None,
            ..results
        };
        assert_eq!(without.files().len(), 2);
    }
}
