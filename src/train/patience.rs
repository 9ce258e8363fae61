//! Early stopping: how long the validation figures have not become better.
//!
//! The rule is that of transformers' `EarlyStoppingCallback`. It is read off the history, so that nothing about it has to be
//! kept in a checkpoint.

use crate::recipe::BestMetric;

/// Evaluations at the end of `figures` in a row that were not better than the best one before them by more than `threshold`.
pub fn without_progress(figures: impl IntoIterator<Item = f64>, metric: BestMetric, threshold: f64) -> u64 {
    let (mut best, mut waited): (Option<f64>, u64) = (None, 0);
    for figure in figures {
        let progress = best.is_none_or(|best| metric.better(figure, best) && (figure - best).abs() > threshold);
        waited = if progress { 0 } else { waited + 1 };
        if best.is_none_or(|best| metric.better(figure, best)) {
            best = Some(figure);
        }
    }
    waited
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What EarlyStoppingCallback's counter is after each evaluation of a Trainer with these figures.
    #[test]
    fn the_count_is_that_of_transformers() {
        let losses = [1.0, 0.9, 0.95, 0.89, 0.7, 0.7, 0.71, 0.6];
        for (name, greater, threshold, expected) in [
            ("loss", None, 0.0, [0, 0, 1, 0, 0, 1, 2, 0]),
            ("loss", None, 0.05, [0, 0, 1, 2, 0, 1, 2, 0]),
            ("accuracy", None, 0.0, [0, 1, 2, 3, 4, 5, 6, 7]),
            ("accuracy", Some(false), 0.0, [0, 0, 1, 0, 0, 1, 2, 0]),
        ] {
            let metric = BestMetric::named(name, greater).unwrap();
            let counts: Vec<u64> = (1..=losses.len())
                .map(|n| without_progress(losses[..n].iter().copied(), metric, threshold))
                .collect();
            assert_eq!(counts, expected, "{name} {threshold}");
        }
    }

    #[test]
    fn a_small_step_is_the_new_best_all_the_same() {
        // 0.96 is better than 1.0 by too little, and 0.93 is compared with 0.96.
        let metric = BestMetric::named("loss", None).unwrap();
        assert_eq!(without_progress([1.0, 0.96, 0.93], metric, 0.05), 2);
    }
}
