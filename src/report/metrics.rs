//! Figures of an evaluation, from what was predicted for each sample.
//!
//! Definitions are scikit-learn's: a ratio with denominator 0 is 0; macro and weighted averages are taken over the classes
//! that occur among labels or predictions. Counts are integers, and losses are added up in f64 in the order of the samples,
//! so that the figures do not depend on how samples were shared out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::recipe::{Average, Figure};

/// What a model said of one sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// The sample's row in its set.
    pub row: u32,
    pub label: u32,
    /// The class with the largest logit, the first of several.
    pub prediction: u32,
    /// Classes that the model finds likelier than the label; 0: it is right.
    pub place: u32,
    /// Cross-entropy.
    pub loss: f64,
    /// Probability of the predicted class.
    pub score: f32,
}

/// The figures of an evaluation, under the names of Trainer's logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    #[serde(rename = "eval_accuracy")]
    pub accuracy: f64,
    #[serde(rename = "eval_f1_macro")]
    pub f1_macro: f64,
    #[serde(rename = "eval_f1_micro")]
    pub f1_micro: f64,
    #[serde(rename = "eval_f1_weighted")]
    pub f1_weighted: f64,
    /// Mean cross-entropy.
    #[serde(rename = "eval_loss")]
    pub loss: f64,
    #[serde(rename = "eval_precision_macro")]
    pub precision_macro: f64,
    #[serde(rename = "eval_precision_micro")]
    pub precision_micro: f64,
    #[serde(rename = "eval_precision_weighted")]
    pub precision_weighted: f64,
    #[serde(rename = "eval_recall_macro")]
    pub recall_macro: f64,
    #[serde(rename = "eval_recall_micro")]
    pub recall_micro: f64,
    #[serde(rename = "eval_recall_weighted")]
    pub recall_weighted: f64,
    #[serde(rename = "eval_top_5_accuracy")]
    pub top_5_accuracy: f64,
}

/// How often which class was taken for which.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confusion {
    /// (label, prediction) to samples; pairs that do not occur are absent.
    pub counts: BTreeMap<(u32, u32), u64>,
}

/// The figures of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClassFigures {
    /// Samples with this label, samples that were taken for it, and samples that are both.
    pub support: u64,
    pub predicted: u64,
    pub right: u64,
}

/// Bytes of an outcome on its way between ranks.
const BYTES: usize = 28;

impl Outcome {
    /// What the model said with `logits` of a sample whose label they hold.
    pub fn new(row: u32, label: u32, logits: &[f32], loss: f64) -> Outcome {
        let mut prediction = 0;
        for (class, &logit) in logits.iter().enumerate() {
            if logit > logits[prediction] {
                prediction = class;
            }
        }
        let of_label = logits[label as usize];
        let likelier =
            |(class, &logit): (usize, &f32)| logit > of_label || (logit == of_label && class < label as usize);
        let largest = f64::from(logits[prediction]);
        let total: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
        Outcome {
            row,
            label,
            prediction: prediction as u32,
            place: logits.iter().enumerate().filter(|&at| likelier(at)).count() as u32,
            loss,
            score: total.recip() as f32,
        }
    }

    /// All bits, to be read by [`Outcome::read_all`].
    pub fn write_all(outcomes: &[Outcome]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BYTES * outcomes.len());
        for outcome in outcomes {
            for number in [outcome.row, outcome.label, outcome.prediction, outcome.place] {
                bytes.extend(number.to_le_bytes());
            }
            bytes.extend(outcome.loss.to_le_bytes());
            bytes.extend(outcome.score.to_le_bytes());
        }
        bytes
    }

    pub fn read_all(bytes: &[u8]) -> Vec<Outcome> {
        let read = |bytes: &[u8; BYTES]| {
            let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            let number = |at| u32::from_le_bytes(word(at));
            Outcome {
                row: number(0),
                label: number(4),
                prediction: number(8),
                place: number(12),
                loss: f64::from_bits(u64::from(number(16)) | u64::from(number(20)) << 32),
                score: f32::from_le_bytes(word(24)),
            }
        };
        bytes.as_chunks::<BYTES>().0.iter().map(read).collect()
    }
}

impl Confusion {
    pub fn of(outcomes: &[Outcome]) -> Confusion {
        let mut counts = BTreeMap::new();
        for outcome in outcomes {
            *counts.entry((outcome.label, outcome.prediction)).or_default() += 1;
        }
        Confusion { counts }
    }

    /// The classes that occur as a label or a prediction.
    pub fn classes(&self) -> BTreeMap<u32, ClassFigures> {
        let mut classes: BTreeMap<u32, ClassFigures> = BTreeMap::new();
        for (&(label, prediction), &count) in &self.counts {
            classes.entry(label).or_default().support += count;
            let predicted = classes.entry(prediction).or_default();
            predicted.predicted += count;
            predicted.right += if label == prediction { count } else { 0 };
        }
        classes
    }
}

impl ClassFigures {
    pub fn precision(&self) -> f64 {
        ratio(self.right, self.predicted)
    }

    pub fn recall(&self) -> f64 {
        ratio(self.right, self.support)
    }

    pub fn f1(&self) -> f64 {
        ratio(2 * self.right, self.support + self.predicted)
    }
}

impl Figures {
    /// Of at least one outcome.
    pub fn of(outcomes: &[Outcome]) -> Figures {
        let classes: Vec<ClassFigures> = Confusion::of(outcomes).classes().into_values().collect();
        let samples = outcomes.len() as u64;
        let within = |places: u32| ratio(outcomes.iter().filter(|o| o.place < places).count() as u64, samples);
        let mean = |of: fn(&ClassFigures) -> f64| classes.iter().map(of).sum::<f64>() / classes.len() as f64;
        let weighted = |of: fn(&ClassFigures) -> f64| {
            let sum: f64 = classes.iter().map(|class| of(class) * class.support as f64).sum();
            sum / samples as f64
        };
        // Every sample has one label and one prediction, so what is missed here is wrongly found there.
        let right: u64 = classes.iter().map(|class| class.right).sum();
        let micro = ratio(right, samples);
        Figures {
            accuracy: micro,
            f1_macro: mean(ClassFigures::f1),
            f1_micro: micro,
            f1_weighted: weighted(ClassFigures::f1),
            loss: outcomes.iter().map(|outcome| outcome.loss).sum::<f64>() / samples as f64,
            precision_macro: mean(ClassFigures::precision),
            precision_micro: micro,
            precision_weighted: weighted(ClassFigures::precision),
            recall_macro: mean(ClassFigures::recall),
            recall_micro: micro,
            recall_weighted: weighted(ClassFigures::recall),
            top_5_accuracy: within(5),
        }
    }

    pub fn get(&self, figure: Figure) -> f64 {
        use Average::{Macro, Micro, Weighted};
        match figure {
            Figure::Loss => self.loss,
            Figure::Accuracy => self.accuracy,
            Figure::Top5 => self.top_5_accuracy,
            Figure::Precision(Micro) => self.precision_micro,
            Figure::Precision(Macro) => self.precision_macro,
            Figure::Precision(Weighted) => self.precision_weighted,
            Figure::Recall(Micro) => self.recall_micro,
            Figure::Recall(Macro) => self.recall_macro,
            Figure::Recall(Weighted) => self.recall_weighted,
            Figure::F1(Micro) => self.f1_micro,
            Figure::F1(Macro) => self.f1_macro,
            Figure::F1(Weighted) => self.f1_weighted,
        }
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 0.0,
        _ => part as f64 / whole as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(label: u32, prediction: u32) -> Outcome {
        Outcome {
            row: 0,
            label,
            prediction,
            place: u32::from(label != prediction),
            loss: 0.5,
            score: 0.5,
        }
    }

    /// scikit-learn 1.9 computed the expected numbers from the same logits and labels; among the seven classes is one
    /// without samples, one that is never predicted, and one that is neither.
    #[test]
    fn figures_are_those_of_scikit_learn() {
        let stored: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/fixtures/metrics.json")).unwrap();
        for case in stored.as_array().unwrap() {
            let numbers = |value: &serde_json::Value| -> Vec<f64> {
                value.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect()
            };
            let outcomes: Vec<Outcome> = case["logits"]
                .as_array()
                .unwrap()
                .iter()
                .zip(numbers(&case["labels"]))
                .zip(numbers(&case["losses"]))
                .map(|((logits, label), loss)| {
                    let logits: Vec<f32> = numbers(logits).into_iter().map(|x| x as f32).collect();
                    Outcome::new(0, label as u32, &logits, loss)
                })
                .collect();
            let figures = Figures::of(&outcomes);
            for figure in Figure::ALL {
                let (ours, expected) = (figures.get(figure), case[figure.name()].as_f64().unwrap());
                // Sums of a few hundred terms in another order.
                assert!((ours - expected).abs() < 1e-14, "{}: {ours} {expected}", figure.name());
            }
            let confusion = Confusion::of(&outcomes);
            for (label, row) in case["confusion"].as_array().unwrap().iter().enumerate() {
                for (prediction, count) in numbers(row).into_iter().enumerate() {
                    let ours = confusion.counts.get(&(label as u32, prediction as u32)).copied();
                    assert_eq!(ours.unwrap_or_default() as f64, count);
                }
            }
            for (class, figures) in confusion.classes() {
                let expected = numbers(&case["per_class"][class as usize]);
                let ours = [
                    figures.precision(),
                    figures.recall(),
                    figures.f1(),
                    figures.support as f64,
                ];
                assert!(
                    ours.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-15),
                    "{ours:?} {expected:?}"
                );
            }
        }
    }

    #[test]
    fn a_class_that_occurs_nowhere_does_not_count() {
        let figures = Figures::of(&[outcome(0, 0), outcome(0, 3), outcome(3, 3)]);
        // Classes 1 and 2 are left out: (2/3 + 2/3) / 2.
        assert_eq!((figures.f1_macro, figures.accuracy), (2.0 / 3.0, 2.0 / 3.0));
    }

    #[test]
    fn ties_go_to_the_first_class_for_predictions_and_places_alike() {
        let of = |label| Outcome::new(9, label, &[1.0, 3.0, 3.0, 2.0], 0.0);
        assert_eq!((of(1).prediction, of(1).place), (1, 0));
        assert_eq!((of(2).prediction, of(2).place), (1, 1));
        assert_eq!((of(3).place, of(0).place), (2, 3));
    }

    #[test]
    fn outcomes_cross_ranks_bit_for_bit() {
        let outcomes = [
            Outcome::new(7, 1, &[0.1, -3.5], 1e-300),
            Outcome::new(u32::MAX, 0, &[1e30, 0.0], f64::MAX),
        ];
        assert_eq!(Outcome::read_all(&Outcome::write_all(&outcomes)), outcomes);
    }
}
