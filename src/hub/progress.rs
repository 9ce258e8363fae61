//! How far a download is, on stderr: a bar on a terminal, else a line now and then.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Counted by several threads.
pub(super) struct Progress {
    what: String,
    to: Output,
    total: u64,
    done: AtomicU64,
    told: Mutex<Instant>,
    begun: Instant,
}

enum Output {
    Bar(ProgressBar),
    Lines,
    Nowhere,
}

const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// Whether somebody wants to see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visibility {
    Shown,
    Hidden,
}

impl Progress {
    /// `what`: "3 files of model org/name"; `total`: bytes.
    pub fn new(what: String, total: u64, visibility: Visibility) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let to = match visibility {
            Visibility::Hidden => Output::Nowhere,
            Visibility::Shown if bar.is_hidden() => Output::Lines,
            Visibility::Shown => {
                let template = "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
                bar.set_style(ProgressStyle::with_template(template).expect("a valid template"));
                bar.set_message(what.clone());
                Output::Bar(bar)
            }
        };
        let now = Instant::now();
        let progress = Progress {
            what,
            to,
            total,
            done: AtomicU64::new(0),
            told: Mutex::new(now),
            begun: now,
        };
        if let Output::Lines = progress.to {
            eprintln!("downloading {} ({})", progress.what, HumanBytes(total));
        }
        progress
    }

    pub fn received(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        match &self.to {
            Output::Bar(bar) => bar.set_position(done),
            Output::Lines => self.line_now_and_then(done),
            Output::Nowhere => {}
        }
    }

    /// Bytes that have to come again.
    pub fn lost(&self, bytes: u64) {
        let done = self.done.fetch_sub(bytes, Ordering::Relaxed).saturating_sub(bytes);
        if let Output::Bar(bar) = &self.to {
            bar.set_position(done);
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

    pub fn finish(&self) {
        match &self.to {
            Output::Bar(bar) => bar.finish_and_clear(),
            Output::Lines => {
                let seconds = self.begun.elapsed().as_secs_f64();
                eprintln!("downloaded {} in {seconds:.1} s", self.what);
            }
            Output::Nowhere => {}
        }
    }

    fn line_now_and_then(&self, done: u64) {
        let Ok(mut told) = self.told.try_lock() else { return };
        if told.elapsed() >= BETWEEN_LINES {
            *told = Instant::now();
            let rate = (done as f64 / self.begun.elapsed().as_secs_f64()) as u64;
            eprintln!(
                "downloading {}: {} of {}, {}/s",
                self.what,
                HumanBytes(done),
                HumanBytes(self.total),
                HumanBytes(rate)
            );
        }
    }
}
