//! The tables at the end of a run.

use std::fmt::Write;
use std::time::Duration;

use super::{Stage, Stages, Supply, TrainerState};

/// One line an evaluation, in Markdown: epoch, the last logged training loss, validation loss and accuracy.
pub fn epochs_table(state: &TrainerState) -> String {
    let mut table =
        String::from("| epoch | train loss | eval loss | accuracy |\n| ----: | ---------: | --------: | -------: |\n");
    for evaluation in state.evaluations() {
        let train_loss = match state.losses().take_while(|loss| loss.step <= evaluation.step).last() {
            Some(last) => format!("{:.4}", last.loss),
            None => "not logged".to_owned(),
        };
        let best = if state.best_global_step == Some(evaluation.step) {
            " best"
        } else {
            ""
        };
        let _ = writeln!(
            table,
            "| {:>5} | {train_loss:>10} | {:>9.4} | {:>8.4} |{best}",
            short(evaluation.epoch),
            evaluation.figures.loss,
            evaluation.figures.accuracy,
        );
    }
    table
}

/// One line a stage: seconds and share of the whole; then what the decoding threads did meanwhile, and how busy they were.
pub fn stages_table(stages: &Stages, supply: &Supply) -> String {
    let whole = stages.elapsed();
    let booked: Duration = Stage::ALL.iter().map(|&stage| stages.spent(stage)).sum();
    let mut table = String::new();
    let rest = ("everything else", whole.saturating_sub(booked));
    for (name, spent) in Stage::ALL
        .iter()
        .map(|&stage| (stage.name(), stages.spent(stage)))
        .chain([rest])
    {
        let share = 100.0 * spent.as_secs_f64() / whole.as_secs_f64().max(1e-9);
        let _ = writeln!(table, "  {name:<16} {:>9.2} s {share:>5.1} %", spent.as_secs_f64());
    }
    let _ = writeln!(table, "  {:<16} {:>9.2} s", "in all", whole.as_secs_f64());
    let threads = whole.as_secs_f64().max(1e-9) * supply.threads.max(1) as f64;
    for (name, spent) in [("decode", supply.decode), ("crop, normalize", supply.resample)] {
        let seconds = spent.as_secs_f64();
        let share = 100.0 * seconds / threads;
        let _ = writeln!(
            table,
            "  {name:<16} {seconds:>9.2} s {share:>5.1} % of {} decoding thread(s)",
            supply.threads
        );
    }
    table
}

/// `1h02m`, `3m20s`, `12s`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Two decimals at most.
pub(super) fn short(epoch: f64) -> String {
    let text = format!("{epoch:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::{EvaluationEntry, Figures, LogEntry, LossEntry};
    use super::*;

    fn evaluation(step: u64, epoch: f64, accuracy: f64) -> LogEntry {
        LogEntry::Evaluation(EvaluationEntry {
            epoch,
            figures: Figures {
                accuracy,
                loss: 0.5,
                ..Figures::default()
            },
            eval_runtime: 1.0,
            eval_samples_per_second: 1.0,
            eval_steps_per_second: 1.0,
            step,
        })
    }

    #[test]
    fn the_training_loss_is_the_last_one_before_the_evaluation() {
        let loss = |step, loss| {
            LogEntry::Loss(LossEntry {
                epoch: 0.0,
                grad_norm: 1.0,
                learning_rate: 1.0,
                loss,
                step,
            })
        };
        let state = TrainerState {
            log_history: vec![
                evaluation(5, 0.5, 0.25),
                loss(10, 2.5),
                evaluation(10, 1.0, 0.5),
                loss(20, 1.5),
            ],
            best_global_step: Some(10),
            ..TrainerState::default()
        };
        let table = epochs_table(&state);
        let lines: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(lines[0], "|   0.5 | not logged |    0.5000 |   0.2500 |");
        assert_eq!(lines[1], "|     1 |     2.5000 |    0.5000 |   0.5000 | best");
    }

    #[test]
    fn durations_have_two_units_at_most() {
        let text = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!(
            (text(59), text(200), text(3725)),
            ("59s".into(), "3m20s".into(), "1h02m".into())
        );
    }
}
