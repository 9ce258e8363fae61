//! Dynamic loss scaling for fp16, with the rules of torch.amp.GradScaler.
//!
//! The loss is multiplied by a scale, so that small gradients do not vanish in fp16's range, and the summed gradients are
//! divided by it. If they overflow, the step is skipped and the scale halved; after 2000 steps in a row without that it is
//! doubled. Ranks agree because they look at the same summed gradients. A skipped step advances neither the learning rate's
//! schedule nor AdamW's count.

use serde::{Deserialize, Serialize};

/// The scale and what its next change depends on; all of it is in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GradScaler {
    scale: f32,
    /// Steps without overflow since the last change.
    clean_steps: u32,
    /// Steps skipped since the run began.
    skipped: u64,
}

/// What the gradients of a step were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradients {
    Finite,
    /// Some gradient is infinite or NaN.
    Overflowed,
}

const FIRST_SCALE: f32 = 65536.0;
pub(super) const GROWTH: f32 = 2.0;
pub(super) const BACKOFF: f32 = 0.5;
pub(super) const CLEAN_STEPS_TO_GROW: u32 = 2000;

impl GradScaler {
    pub fn new() -> Self {
        GradScaler {
            scale: FIRST_SCALE,
            clean_steps: 0,
            skipped: 0,
        }
    }

    /// What the loss is multiplied by in the step to come; a power of two.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Steps skipped so far.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Steps without overflow since the scale changed.
    pub fn clean_steps(&self) -> u32 {
        self.clean_steps
    }

    /// Takes note of a step.
    pub fn update(&mut self, gradients: Gradients) {
        match gradients {
            Gradients::Overflowed => {
                self.scale *= BACKOFF;
                self.clean_steps = 0;
                self.skipped += 1;
            }
            Gradients::Finite => {
                self.clean_steps += 1;
                if self.clean_steps == CLEAN_STEPS_TO_GROW {
                    self.clean_steps = 0;
                    if (self.scale * GROWTH).is_finite() {
                        self.scale *= GROWTH;
                    }
                }
            }
        }
    }

    /// Is the scale so small that the model itself must be broken? Gradients that overflow at 2⁻¹⁶ are not fp16's fault.
    pub fn has_collapsed(&self) -> bool {
        self.scale < FIRST_SCALE.recip()
    }
}

impl Default for GradScaler {
    fn default() -> Self {
        GradScaler::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Gradients::{Finite, Overflowed};

    fn after(steps: impl IntoIterator<Item = Gradients>) -> GradScaler {
        let mut scaler = GradScaler::new();
        steps.into_iter().for_each(|gradients| scaler.update(gradients));
        scaler
    }

    #[test]
    fn it_doubles_after_2000_clean_steps_in_a_row() {
        assert_eq!(after([]).scale(), 65536.0);
        assert_eq!(after(vec![Finite; 1999]).scale(), 65536.0);
        assert_eq!(after(vec![Finite; 2000]).scale(), 131072.0);
        assert_eq!(after(vec![Finite; 3999]).scale(), 131072.0);
        assert_eq!(after(vec![Finite; 4000]).scale(), 262144.0);
    }

    #[test]
    fn an_overflow_halves_it_and_begins_the_count_anew() {
        let one = after([Overflowed]);
        assert_eq!((one.scale(), one.skipped()), (32768.0, 1));
        let interrupted = vec![Finite; 1999]
            .into_iter()
            .chain([Overflowed])
            .chain(vec![Finite; 1999]);
        assert_eq!(after(interrupted.clone()).scale(), 32768.0);
        assert_eq!(after(interrupted.chain([Finite])).scale(), 65536.0);
    }

    #[test]
    fn it_never_becomes_infinite_and_a_collapse_is_noticed() {
        let large = after(vec![Finite; 2000 * 200]);
        assert!(large.scale().is_finite() && large.scale() > 1e38);
        assert!(!after(vec![Overflowed; 32]).has_collapsed());
        assert!(after(vec![Overflowed; 33]).has_collapsed());
    }

    #[test]
    fn its_state_survives_a_checkpoint() {
        let scaler = after(vec![Finite; 7].into_iter().chain([Overflowed]).chain(vec![Finite; 3]));
        let text = toml::to_string(&scaler).unwrap();
        assert_eq!(toml::from_str::<GradScaler>(&text).unwrap(), scaler);
    }
}
