//! Where a run's time went, by stage.

use std::time::{Duration, Instant};

/// What a rank is busy with, or waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    WaitForData,
    Forward,
    Backward,
    /// With waiting for slower ranks.
    AllReduce,
    Optimizer,
    Evaluation,
    Checkpoint,
}

/// Time by stage since [`Stages::begin`].
#[derive(Clone, Debug)]
pub struct Stages {
    begun: Instant,
    spent: [Duration; Stage::ALL.len()],
}

impl Stage {
    pub const ALL: [Stage; 7] = [
        Stage::WaitForData,
        Stage::Forward,
        Stage::Backward,
        Stage::AllReduce,
        Stage::Optimizer,
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
            Stage::Evaluation => "evaluation",
            Stage::Checkpoint => "checkpoint",
        }
    }
}

impl Stages {
    pub fn begin() -> Stages {
        Stages {
            begun: Instant::now(),
            spent: Default::default(),
        }
    }

    /// Does `work` and books its time on `stage`.
    pub fn time<R>(&mut self, stage: Stage, work: impl FnOnce() -> R) -> R {
        let begun = Instant::now();
        let result = work();
        self.add(stage, begun.elapsed());
        result
    }

    pub fn add(&mut self, stage: Stage, time: Duration) {
        self.spent[stage as usize] += time;
    }

    pub fn spent(&self, stage: Stage) -> Duration {
        self.spent[stage as usize]
    }

    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
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
