//! What held a run up, in one sentence, with what to change.

use std::time::Duration;

use super::{Stage, Stages, duration};
use crate::ops::ceilings::Ceilings;

/// What the threads that make images ready did meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub struct Supply {
    pub images: u64,
    /// Time of all threads together: decoding, and cropping to normalizing.
    pub decode: Duration,
    pub resample: Duration,
    pub threads: usize,
    pub there: OnDevice,
}

/// What the GPU did beside the steps to make images ready: all zero if it did nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct OnDevice {
    /// Bytes that were copied to it.
    pub copied: u64,
    pub copy: Duration,
    /// Cropping to normalizing, as far as it was timed.
    pub preprocess: Duration,
}

impl Supply {
    /// Images per second of all threads when none of them waits; None if there was nothing to do.
    pub fn rate(&self) -> Option<f64> {
        let busy = (self.decode + self.resample).as_secs_f64();
        (busy > 0.0).then(|| (self.images * self.threads as u64) as f64 / busy)
    }
}

/// Shares of the time booked on all stages from which a stage counts as what held the run up.
const NOTICEABLE_WAIT: f64 = 0.10;
const LARGE: f64 = 0.35;
/// Below this, files and evaluations are not worth a word: a short run has little else.
const WORTH_A_WORD: Duration = Duration::from_secs(5);

/// One sentence on the largest cost that could be avoided. Training itself is what a run is for: it is named where nothing
/// else took much.
pub fn bottleneck(stages: &Stages, supply: &Supply, world: usize, ceilings: Option<&Ceilings>) -> String {
    let seconds = |stage| stages.spent(stage).as_secs_f64();
    let all: f64 = Stage::ALL.iter().map(|&stage| seconds(stage)).sum();
    if all <= 0.0 {
        return "Bottleneck: none, nothing was done.".to_owned();
    }
    let share = |stage| seconds(stage) / all;
    let percent = |stage| 100.0 * share(stage);
    // Threads that decode may themselves have waited for copies.
    let elapsed = stages.elapsed().as_secs_f64().max(1e-9);
    let decoding = (supply.decode + supply.resample).as_secs_f64() / supply.threads.max(1) as f64 / elapsed;
    let OnDevice { copied, copy, .. } = supply.there;
    let copying = copy.as_secs_f64() / elapsed;
    if share(Stage::WaitForData) >= NOTICEABLE_WAIT && copying > decoding {
        return format!(
            "Bottleneck: copies to the GPU. Training waited {:.0} % of the time for images, of which {:.0} MB were copied at \
             {:.1} GB/s; keep them there (--image-cache device), or store them smaller.",
            percent(Stage::WaitForData),
            copied as f64 / 1e6,
            copied as f64 / 1e9 / copy.as_secs_f64().max(1e-9),
        );
    }
    if share(Stage::WaitForData) >= NOTICEABLE_WAIT {
        return format!(
            "Bottleneck: images. Training waited {:.0} % of the time for {}, which can make {} ready; raise \
             --dataloader-num-workers if cores are free, or store the images smaller.",
            percent(Stage::WaitForData),
            threads(supply.threads),
            rate(supply),
        );
    }
    if world > 1 && share(Stage::AllReduce) >= NOTICEABLE_WAIT {
        return format!(
            "Bottleneck: the other ranks. {:.0} % of the time went into sums over ranks and waiting for slower ones; raise \
             --gradient-accumulation-steps, or look for a rank whose cores or GPU are shared.",
            percent(Stage::AllReduce),
        );
    }
    let is_long = |stage| stages.spent(stage) >= WORTH_A_WORD;
    if share(Stage::Checkpoint) >= NOTICEABLE_WAIT && is_long(Stage::Checkpoint) {
        return format!(
            "Bottleneck: checkpoints. Writing took {} ({:.0} %); save less often (--save-steps), or to a faster disk.",
            duration(stages.spent(Stage::Checkpoint)),
            percent(Stage::Checkpoint),
        );
    }
    if share(Stage::Evaluation) >= LARGE && is_long(Stage::Evaluation) {
        return format!(
            "Bottleneck: evaluation, {:.0} % of the time; evaluate less often (--eval-steps) or on fewer samples \
             (--validation-split with a slice).",
            percent(Stage::Evaluation),
        );
    }
    let asking = percent(Stage::Forward) + percent(Stage::Backward) + percent(Stage::Optimizer);
    if stages.spent(Stage::Gpu) > Duration::ZERO {
        return format!(
            "Bottleneck: computing, {:.0} % of the time (waiting for the GPU {:.0}, asking for its work {asking:.0}); images could \
             come at {}, so more or faster GPUs make the run faster.",
            asking + percent(Stage::Gpu),
            percent(Stage::Gpu),
            rate(supply),
        );
    }
    format!(
        "Bottleneck: computing, {:.0} % of the time (forward {:.0}, backward {:.0}, optimizer {:.0}){}; images could come at {}, \
         so more or faster cores or GPUs make the run faster.",
        asking,
        percent(Stage::Forward),
        percent(Stage::Backward),
        percent(Stage::Optimizer),
        ceilings.map(|ceilings| attained(stages, ceilings)).unwrap_or_default(),
        rate(supply),
    )
}

/// How close training comes to the ceilings.
fn attained(stages: &Stages, ceilings: &Ceilings) -> String {
    let computing = [Stage::Forward, Stage::Backward, Stage::Optimizer];
    let seconds: f64 = computing.map(|stage| stages.spent(stage).as_secs_f64()).iter().sum();
    let least: f64 = computing.map(|stage| ceilings.least(&stages.work(stage))).iter().sum();
    match least > 0.0 {
        true => format!(
            ", at {:.0} % of what this machine's matrix product and memory allow",
            100.0 * least / seconds
        ),
        false => String::new(),
    }
}

fn threads(count: usize) -> String {
    match count {
        1 => "the one thread that decodes".to_owned(),
        n => format!("the {n} threads that decode"),
    }
}

fn rate(supply: &Supply) -> String {
    match supply.rate() {
        Some(rate) => format!("{rate:.0} images/s"),
        None => "any speed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence(spent: &[(Stage, u64)], world: usize) -> String {
        let mut stages = Stages::begin();
        for &(stage, seconds) in spent {
            stages.add(stage, Duration::from_secs(seconds));
        }
        let supply = Supply {
            images: 1000,
            decode: Duration::from_secs(4),
            resample: Duration::from_secs(1),
            threads: 2,
            there: OnDevice::default(),
        };
        bottleneck(&stages, &supply, world, None)
    }

    #[test]
    fn the_largest_avoidable_cost_is_named() {
        use Stage::*;
        let starved = sentence(&[(WaitForData, 50), (Forward, 30), (Backward, 20)], 1);
        assert!(
            starved.contains("images") && starved.contains("waited 50 %") && starved.contains("400 images/s"),
            "{starved}"
        );
        let mut stages = Stages::begin();
        stages.add(WaitForData, Duration::from_secs(50));
        stages.add(Forward, Duration::from_secs(50));
        let copying = Supply {
            there: OnDevice {
                copied: 8_000_000_000,
                copy: Duration::from_secs(2),
                ..OnDevice::default()
            },
            decode: Duration::from_secs(1),
            threads: 4,
            ..Supply::default()
        };
        let sentence_of_copies = bottleneck(&stages, &copying, 1, None);
        assert!(
            sentence_of_copies.contains("copies") && sentence_of_copies.contains("8000 MB were copied at 4.0 GB/s"),
            "{sentence_of_copies}"
        );
        let computing = sentence(&[(WaitForData, 1), (Forward, 49), (Backward, 50)], 1);
        assert!(computing.contains("computing, 99 %"), "{computing}");
        let waiting = sentence(&[(Forward, 40), (Backward, 40), (AllReduce, 20)], 2);
        assert!(waiting.contains("other ranks"), "{waiting}");
        let on_gpu = sentence(&[(Forward, 4), (Backward, 6), (Gpu, 90)], 1);
        assert!(
            on_gpu.contains("computing, 100 %") && on_gpu.contains("the GPU 90, asking for its work 10"),
            "{on_gpu}"
        );
        // A single process sums nothing; what is booked there is bookkeeping.
        assert!(sentence(&[(Forward, 40), (AllReduce, 20)], 1).contains("computing"));
        assert!(sentence(&[(Forward, 40), (Checkpoint, 20)], 1).contains("--save-steps"));
        assert!(sentence(&[(Forward, 40), (Evaluation, 60)], 1).contains("--eval-steps"));
        // Two seconds are not worth a word.
        assert!(sentence(&[(Forward, 3), (Checkpoint, 2)], 1).contains("computing"));
        assert!(sentence(&[], 1).contains("none"));
    }
}
