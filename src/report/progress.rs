//! Progress of a run on stderr: a bar on a terminal, plain lines otherwise, nothing on ranks other than 0.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::table::{duration, short};
use super::{EvaluationEntry, LogEntry};

/// Where a run is.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Optimizer steps done.
    pub step: u64,
    pub epoch: f64,
    /// Loss of the last step; None if it had no readable image.
    pub loss: Option<f64>,
    pub learning_rate: f64,
    /// Samples of the last step, over all ranks.
    pub images: usize,
}

pub struct Progress {
    to: Output,
    total_steps: u64,
    begun: Instant,
    /// Steps done when this process began: not 0 in a resumed run.
    first_step: u64,
    done: u64,
    /// Ends of the latest steps, with their images: what the rate is taken over.
    recent: VecDeque<(Instant, usize)>,
}

enum Output {
    Bar(ProgressBar),
    Lines,
    Nowhere,
}

/// Steps that the rate in images/s is taken over.
const RECENT: usize = 20;

impl Progress {
    /// A bar if stderr is a terminal, lines otherwise.
    pub fn new(total_steps: u64, first_step: u64) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(total_steps), ProgressDrawTarget::stderr());
        if bar.is_hidden() {
            return Progress::to(Output::Lines, total_steps, first_step);
        }
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}").expect("a valid template");
        bar.set_style(style);
        bar.set_position(first_step);
        Progress::to(Output::Bar(bar), total_steps, first_step)
    }

    /// Says nothing.
    pub fn silent() -> Progress {
        Progress::to(Output::Nowhere, 0, 0)
    }

    fn to(to: Output, total_steps: u64, first_step: u64) -> Progress {
        let recent = VecDeque::from([(Instant::now(), 0)]);
        Progress {
            to,
            total_steps,
            begun: Instant::now(),
            first_step,
            done: first_step,
            recent,
        }
    }

    /// An optimizer step was done.
    pub fn step(&mut self, now: Now) {
        self.done = now.step;
        self.recent.push_back((Instant::now(), now.images));
        if self.recent.len() > RECENT + 1 {
            self.recent.pop_front();
        }
        if let Output::Bar(bar) = &self.to {
            let loss = now.loss.map_or("none".to_owned(), |loss| format!("{loss:.4}"));
            bar.set_position(now.step);
            bar.set_message(format!(
                "epoch {}  loss {loss}  lr {:.3e}  {:.1} images/s  {} left",
                short(now.epoch),
                now.learning_rate,
                self.images_per_second(),
                duration(self.time_left()),
            ));
        }
    }

    /// An entry was added to the history.
    pub fn logged(&self, entry: &LogEntry) {
        match entry {
            LogEntry::Loss(loss) => self.say(&format!(
                "step {}/{}  epoch {}  loss {:.4}  grad norm {:.4}  lr {:.3e}  {:.1} images/s  {} left",
                loss.step,
                self.total_steps,
                short(loss.epoch),
                loss.loss,
                loss.grad_norm,
                loss.learning_rate,
                self.images_per_second(),
                duration(self.time_left()),
            )),
            LogEntry::Evaluation(evaluation) => self.say(&evaluated(evaluation)),
            LogEntry::Totals(_) => {}
        }
    }

    /// A line of its own.
    pub fn say(&self, line: &str) {
        match &self.to {
            Output::Bar(bar) => bar.suspend(|| eprintln!("{line}")),
            Output::Lines => eprintln!("{line}"),
            Output::Nowhere => {}
        }
    }

    /// Ends the bar.
    pub fn finish(&self) {
        if let Output::Bar(bar) = &self.to {
            bar.finish_and_clear();
        }
    }

    fn images_per_second(&self) -> f64 {
        let (Some(first), Some(last)) = (self.recent.front(), self.recent.back()) else {
            return 0.0;
        };
        let images: usize = self.recent.iter().skip(1).map(|(_, images)| images).sum();
        images as f64 / (last.0 - first.0).as_secs_f64().max(1e-9)
    }

    /// With evaluations and checkpoints, as far as there were any.
    fn time_left(&self) -> Duration {
        let done = (self.done - self.first_step).max(1) as f64;
        let left = self.total_steps.saturating_sub(self.done) as f64;
        self.begun.elapsed().mul_f64(left / done)
    }
}

fn evaluated(evaluation: &EvaluationEntry) -> String {
    format!(
        "evaluated after step {} (epoch {}): loss {:.4}  accuracy {:.4}  {:.1} images/s",
        evaluation.step,
        short(evaluation.epoch),
        evaluation.figures.loss,
        evaluation.figures.accuracy,
        evaluation.eval_samples_per_second
    )
}
