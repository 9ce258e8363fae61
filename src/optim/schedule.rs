//! The learning rate as a pure function of the optimizer step.
//!
//! Source: transformers' `get_linear_schedule_with_warmup` and its siblings; nothing has a state, so a resumed run needs
//! only its step.

use crate::recipe::Schedule;

/// Where a polynomial schedule ends.
const POLYNOMIAL_END: f64 = 1e-7;

/// A schedule over `total_steps` optimizer steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRate {
    /// Highest rate, reached at the end of the warm-up.
    pub peak: f64,
    pub schedule: Schedule,
    pub warmup_steps: u64,
    pub total_steps: u64,
}

impl LearningRate {
    /// The rate of optimizer step `step`, counted from 0.
    ///
    /// With s = step, w = warmup_steps, T = total_steps: s/w below w, where there is a warm-up; then linear (T-s)/(T-w),
    /// cosine (1 + cos π(s-w)/(T-w))/2, or 1. `Constant` knows no warm-up.
    pub fn at(&self, step: u64) -> f64 {
        let since_warmup = step.saturating_sub(self.warmup_steps) as f64;
        let after_warmup = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let factor = match self.schedule {
            Schedule::Constant => 1.0,
            _ if step < self.warmup_steps => step as f64 / self.warmup_steps as f64,
            Schedule::ConstantWithWarmup => 1.0,
            Schedule::Linear => self.total_steps.saturating_sub(step) as f64 / after_warmup,
            // Transformers' defaults: power 1, and an end of 1e-7.
            Schedule::Polynomial if step > self.total_steps => POLYNOMIAL_END / self.peak,
            Schedule::Polynomial => {
                let left = 1.0 - since_warmup / after_warmup;
                ((self.peak - POLYNOMIAL_END) * left + POLYNOMIAL_END) / self.peak
            }
            Schedule::InverseSqrt => {
                let timescale = if self.warmup_steps == 0 {
                    10_000
                } else {
                    self.warmup_steps
                } as f64;
                ((step as f64 + timescale - self.warmup_steps as f64) / timescale)
                    .sqrt()
                    .recip()
            }
            Schedule::CosineWithRestarts if step >= self.total_steps => 0.0,
            Schedule::Cosine | Schedule::CosineWithRestarts => {
                (0.5 * (1.0 + (std::f64::consts::PI * since_warmup / after_warmup).cos())).max(0.0)
            }
        };
        self.peak * factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: Schedule, warmup_steps: u64, total_steps: u64) -> Vec<f64> {
        let rate = LearningRate {
            peak: 5e-3,
            schedule,
            warmup_steps,
            total_steps,
        };
        (0..total_steps + 2).map(|step| rate.at(step)).collect()
    }

    /// Printed by torch's LambdaLR over transformers' functions: the rates of successive optimizer steps.
    #[test]
    fn rates_are_those_of_transformers() {
        let cases = [
            (
                Schedule::Linear,
                0,
                6,
                &[
                    0.005,
                    0.004166666666666667,
                    0.003333333333333333,
                    0.0025,
                    0.0016666666666666666,
                    0.0008333333333333333,
                    0.0,
                ][..],
            ),
            (
                Schedule::Linear,
                2,
                7,
                &[0.0, 0.0025, 0.005, 0.004, 0.003, 0.002, 0.001, 0.0][..],
            ),
            (
                Schedule::Cosine,
                0,
                5,
                &[
                    0.005,
                    0.0045225424859373685,
                    0.0032725424859373687,
                    0.0017274575140626316,
                    0.00047745751406263163,
                    0.0,
                ][..],
            ),
            (
                Schedule::Cosine,
                3,
                8,
                &[
                    0.0,
                    0.0016666666666666666,
                    0.003333333333333333,
                    0.005,
                    0.0045225424859373685,
                    0.0032725424859373687,
                    0.0017274575140626316,
                    0.00047745751406263163,
                    0.0,
                ][..],
            ),
            (
                Schedule::Polynomial,
                2,
                6,
                &[
                    0.0,
                    0.0025,
                    0.005,
                    0.0037500249999999997,
                    0.0025000499999999998,
                    0.001250075,
                    1e-07,
                    1e-07,
                ][..],
            ),
            (
                Schedule::InverseSqrt,
                3,
                6,
                &[
                    0.0,
                    0.0016666666666666666,
                    0.003333333333333333,
                    0.005,
                    0.004330127018922193,
                    0.0038729833462074173,
                    0.0035355339059327372,
                    0.0032732683535398855,
                ][..],
            ),
            (
                Schedule::CosineWithRestarts,
                2,
                6,
                &[
                    0.0,
                    0.0025,
                    0.005,
                    0.004267766952966369,
                    0.0025,
                    0.0007322330470336313,
                    0.0,
                    0.0,
                ][..],
            ),
            (Schedule::Constant, 2, 4, &[0.005, 0.005, 0.005, 0.005, 0.005][..]),
            (
                Schedule::ConstantWithWarmup,
                3,
                5,
                &[0.0, 0.0016666666666666666, 0.003333333333333333, 0.005, 0.005, 0.005][..],
            ),
        ];
        for (schedule, warmup, total, expected) in cases {
            let ours = rates(schedule, warmup, total);
            // The same f64 arithmetic up to the order of the factors: a few roundings.
            for (step, (a, b)) in ours.iter().zip(expected).enumerate() {
                assert!(
                    (a - b).abs() <= 4.0 * f64::EPSILON * 5e-3,
                    "{schedule:?} {warmup}/{total} step {step}: {a} {b}"
                );
            }
        }
    }

    #[test]
    fn degenerate_lengths_give_finite_rates() {
        for schedule in [
            Schedule::Linear,
            Schedule::Cosine,
            Schedule::Constant,
            Schedule::ConstantWithWarmup,
        ] {
            for (warmup, total) in [(0, 0), (0, 1), (1, 1), (5, 3)] {
                assert!(
                    rates(schedule, warmup, total)
                        .iter()
                        .all(|r| r.is_finite() && *r >= 0.0),
                    "{schedule:?}"
                );
            }
        }
    }
}
