//! The tables at the end of a run.

use std::fmt::Write;
use std::time::Duration;

use super::{OnDevice, Stage, Stages, Supply, TrainerState};
use crate::ops::ceilings::Ceilings;

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

/// One line a stage: seconds, share of the whole, and the seconds that the ceilings allow; then what the decoding threads did
/// meanwhile, how busy they were, and how many images they could make ready.
pub fn stages_table(stages: &Stages, supply: &Supply, ceilings: Option<&Ceilings>) -> String {
    let whole = stages.elapsed().as_secs_f64().max(1e-9);
    let booked: Duration = Stage::ALL.iter().map(|&stage| stages.spent(stage)).sum();
    let mut table = format!("  {:<16} {:>9}   {:>5}", "stage", "s", "%");
    if ceilings.is_some() {
        let _ = write!(table, " {:>17} {:>7}", "s at the ceiling", "% of it");
    }
    table.push('\n');
    let line = |name: &str, seconds: f64| format!("  {name:<16} {seconds:>9.2}   {:>5.1}", 100.0 * seconds / whole);
    for stage in Stage::ALL {
        let seconds = stages.spent(stage).as_secs_f64();
        if stage == Stage::Gpu && seconds == 0.0 {
            continue; // a CPU has none
        }
        table += &line(stage.name(), seconds);
        let least = ceilings.map_or(0.0, |ceilings| ceilings.least(&stages.work(stage)));
        if least > 0.0 && seconds > 0.0 {
            let _ = write!(table, " {least:>17.2} {:>7.0}", 100.0 * least / seconds);
        }
        table.push('\n');
    }
    let _ = writeln!(table, "{}", line("everything else", whole - booked.as_secs_f64()));
    let _ = writeln!(table, "  {:<16} {whole:>9.2}", "in all");
    if let Some(c) = ceilings {
        let _ = writeln!(
            table,
            "  ceilings: {:.0} GFLOP/s in a matrix product, {:.1} GB/s in a copy, measured after the run",
            c.gflops, c.gbytes
        );
    }
    let threads = whole * supply.threads.max(1) as f64;
    let OnDevice {
        copied,
        copy,
        preprocess,
    } = supply.there;
    let then = if copied > 0 { "into batches" } else { "crop, normalize" };
    for (name, spent) in [("decode", supply.decode), (then, supply.resample)] {
        let seconds = spent.as_secs_f64();
        let _ = writeln!(
            table,
            "  {name:<16} {seconds:>9.2}   {:>5.1} % of {} decoding thread(s)",
            100.0 * seconds / threads,
            supply.threads
        );
    }
    if copied > 0 {
        let megabytes = copied as f64 / 1e6;
        let _ = writeln!(
            table,
            "{} of the GPU, beside the steps: {megabytes:.0} MB",
            line("copy", copy.as_secs_f64())
        );
        let _ = writeln!(
            table,
            "{} of the GPU, beside the steps",
            line("crop, normalize", preprocess.as_secs_f64())
        );
    }
    if let Some(rate) = supply.rate() {
        let _ = writeln!(
            table,
            "  {} images were made ready, which these threads can do at {rate:.0} images/s",
            supply.images
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
    fn stages_are_held_against_the_ceilings() {
        let mut stages = Stages::begin();
        stages.add(Stage::Backward, Duration::from_secs(4));
        stages.time(Stage::Forward, || {
            // 2 · 64³ operations at 1e6 a second.
            let x = crate::ops::storage::tensor(vec![1.0; 64 * 64], (64, 64)).unwrap();
            crate::ops::matmul::product(&x, &x, crate::ops::matmul::Products::F32).unwrap()
        });
        let supply = Supply {
            images: 100,
            decode: Duration::from_secs(3),
            resample: Duration::from_secs(1),
            threads: 2,
            there: OnDevice::default(),
        };
        let ceilings = Ceilings {
            gflops: 1e-3,
            gbytes: 10.0,
        };
        let table = stages_table(&stages, &supply, Some(&ceilings));
        let line = |name: &str| table.lines().find(|line| line.trim().starts_with(name)).unwrap();
        let forward: Vec<&str> = line("forward").split_whitespace().collect();
        assert_eq!((forward[3], forward.len()), ("0.52", 5), "{table}");
        assert_eq!(line("backward").split_whitespace().count(), 3, "{table}");
        assert!(
            table.contains("100 images were made ready, which these threads can do at 50 images/s"),
            "{table}"
        );
        assert!(!stages_table(&stages, &supply, None).contains("ceiling"));
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
