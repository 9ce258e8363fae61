//! Where a run's time went, by stage.

use std::time::{Duration, Instant};

use crate::ops::meter::{self, Work};

/// What a rank is busy with, or waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    WaitForData,
    /// Of a micro-batch that a GPU replays all of it.
    Forward,
    Backward,
    /// With waiting for slower ranks.
    AllReduce,
    Optimizer,
    /// Waiting for it: what is booked on the stages above is then only the time to ask for their work.
    Gpu,
    Evaluation,
    Checkpoint,
}

/// Time by stage since [`Stages::begin`], and what the calling thread's ops did in it.
#[derive(Clone, Debug)]
pub struct Stages {
    begun: Instant,
    ended: Option<Instant>,
    spent: [Duration; Stage::ALL.len()],
    work: [Work; Stage::ALL.len()],
}

/// The beginning of something that is booked when it is over.
pub struct Begun {
    at: Instant,
    total: Work,
}

impl Stage {
    pub const ALL: [Stage; 8] = [
        Stage::WaitForData,
        Stage::Forward,
        Stage::Backward,
        Stage::AllReduce,
        Stage::Optimizer,
        Stage::Gpu,
        Stage::Evaluation,
        Stage::Checkpoint,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Stage::WaitForData => "waiting for data",
            Stage::Forward => "forward",
            Stage::Backward => "backward",
            Stage::AllReduce => "all-reduce",
            Stage::Optimizer => "optimizer",
            Stage::Gpu => "the GPU",
            Stage::Evaluation => "evaluation",
            Stage::Checkpoint => "checkpoint",
        }
    }
}

impl Stages {
    pub fn begin() -> Stages {
        Stages {
            begun: Instant::now(),
            ended: None,
            spent: Default::default(),
            work: Default::default(),
        }
    }

    /// The run is over: what comes now is not part of it.
    pub fn end(&mut self) {
        self.ended = Some(Instant::now());
    }

    /// Does `work` and books its time on `stage`.
    pub fn time<R>(&mut self, stage: Stage, work: impl FnOnce() -> R) -> R {
        let begun = Begun::now();
        let result = work();
        self.book(stage, begun);
        result
    }

    /// Books what was done since then.
    pub fn book(&mut self, stage: Stage, begun: Begun) {
        self.add(stage, begun.at.elapsed());
        self.work[stage as usize] += meter::total() - begun.total;
    }

    pub fn add(&mut self, stage: Stage, time: Duration) {
        self.spent[stage as usize] += time;
    }

    pub fn spent(&self, stage: Stage) -> Duration {
        self.spent[stage as usize]
    }

    /// Operations and bytes of the stage on this rank; the time that is booked elsewhere is not in it.
    pub fn work(&self, stage: Stage) -> Work {
        self.work[stage as usize]
    }

    pub fn elapsed(&self) -> Duration {
        self.ended.unwrap_or_else(Instant::now) - self.begun
    }
}

impl Begun {
    pub fn now() -> Begun {
        Begun {
            at: Instant::now(),
            total: meter::total(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_has_its_own_account() {
        let mut stages = Stages::begin();
        for stage in Stage::ALL {
            assert_eq!(stages.spent(stage), Duration::ZERO, "{stage:?}");
            assert_eq!(stages.time(stage, || std::thread::sleep(Duration::from_millis(1))), ());
            assert!(stages.spent(stage) >= Duration::from_millis(1), "{stage:?}");
        }
        assert!(stages.elapsed() >= Duration::from_millis(7));
    }
}
