//! Checks of what must hold while training: finite numbers, a gradient for every parameter, the same values on all ranks.

use crate::collective::{Collective, host, same_everywhere};
use crate::error::{Error, Result};
use crate::ops::storage::values;
use crate::optim::Parameters;

/// Parameters that no gradient has reached yet.
///
/// In the first step every trained parameter must get one, else a part of the model is cut off and would silently stay
/// as it was. One case is right: the gradient of LoRA's A is B's times something, so it is zero until B has moved.
pub struct GradientAudit {
    waiting: Vec<usize>,
}

impl GradientAudit {
    pub fn new(parameters: &Parameters) -> GradientAudit {
        GradientAudit {
            waiting: (0..parameters.entries.len()).collect(),
        }
    }

    /// Every parameter has had a gradient.
    pub fn is_done(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Looks at the gradients of optimizer step `step`, before the optimizer moves the values.
    /// Errors: parameters, by name, with no gradient and no reason to have none.
    pub fn look(&mut self, parameters: &Parameters, step: u64) -> Result<()> {
        let (gradients, current) = (values(&parameters.gradients)?, values(&parameters.values)?);
        let is_zero =
            |values: &[f32], entry: usize| values[parameters.entries[entry].range()].iter().all(|&v| v == 0.0);
        self.waiting.retain(|&entry| is_zero(&gradients, entry));
        let cut_off: Vec<&str> = self
            .waiting
            .iter()
            .map(|&entry| parameters.entries[entry].name.as_str())
            .filter(|name| match partner(name).and_then(|b| parameters.position(&b)) {
                Some(b) => !is_zero(&current, b),
                None => true,
            })
            .collect();
        if cut_off.is_empty() {
            return Ok(());
        }
        Err(Error::Training {
            step,
            what: format!(
                "no gradient reached {} trained parameter(s): {}",
                cut_off.len(),
                cut_off.join(", ")
            ),
            fix: "lower --learning-rate if it is unusually large; otherwise this is a bug of dtrain, please report it"
                .into(),
        })
    }
}

/// The name of LoRA's B beside its A.
fn partner(name: &str) -> Option<String> {
    name.contains("lora_A").then(|| name.replace("lora_A", "lora_B"))
}

/// Errors unless the loss of a micro-batch on this rank is a number; `names` are the draws that it is made of.
pub fn finite_loss(loss: f64, step: u64, collective: &dyn Collective, names: &[u64]) -> Result<()> {
    if loss.is_finite() {
        return Ok(());
    }
    // The lower half of a name is the row.
    let rows: Vec<u32> = names.iter().map(|name| *name as u32).collect();
    Err(Error::Training {
        step,
        what: format!(
            "the loss is {loss} on rank {} ({}), samples {rows:?} of the training set",
            collective.rank(),
            host()
        ),
        fix: "lower --learning-rate or add --warmup-steps; resume from an earlier checkpoint".into(),
    })
}

/// Errors unless the norm of the summed gradient is a number.
pub fn finite_norm(norm: f64, step: u64) -> Result<()> {
    if norm.is_finite() {
        return Ok(());
    }
    Err(Error::Training {
        step,
        what: format!("the norm of the gradient is {norm}"),
        fix: "lower --learning-rate or add --warmup-steps; resume from an earlier checkpoint".into(),
    })
}

/// Errors unless the trained values are the same bits on every rank.
pub fn same_values(collective: &dyn Collective, parameters: &Parameters) -> Result<()> {
    if collective.world() == 1 {
        return Ok(());
    }
    let bytes: Vec<u8> = values(&parameters.values)?
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    same_everywhere(collective, "the model", &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    use crate::collective::Single;
    use crate::ops::storage::update;
    use crate::optim::Decay;
    use crate::optim::parameters::Layout;

    fn parameters() -> Parameters {
        let mut layout = Layout::default();
        for name in ["q.lora_A.weight", "q.lora_B.weight", "classifier.weight"] {
            layout.push(name, &[2], Decay::Decayed);
        }
        Parameters::new(layout, &Device::Cpu).unwrap()
    }

    fn set(parameters: &Parameters, gradients: [f32; 6], values: [f32; 6]) {
        update(&parameters.gradients, |g| g.copy_from_slice(&gradients)).unwrap();
        update(&parameters.values, |v| v.copy_from_slice(&values)).unwrap();
    }

    #[test]
    fn loras_a_may_wait_until_b_moves_and_no_longer() {
        let parameters = parameters();
        let mut audit = GradientAudit::new(&parameters);
        set(
            &parameters,
            [0.0, 0.0, 1.0, 0.0, 0.0, 2.0],
            [1.0, 1.0, 0.0, 0.0, 1.0, 1.0],
        );
        audit.look(&parameters, 0).unwrap();
        assert!(!audit.is_done());
        // A warm-up's first rate is 0: B has still not moved.
        audit.look(&parameters, 1).unwrap();
        set(&parameters, [0.0; 6], [1.0, 1.0, 0.1, 0.0, 1.0, 1.0]);
        let error = audit.look(&parameters, 2).unwrap_err().to_string();
        assert!(error.contains("step 3") && error.contains("q.lora_A.weight"), "{error}");
        set(
            &parameters,
            [0.0, 1e-30, 0.0, 0.0, 0.0, 0.0],
            [1.0, 1.0, 0.1, 0.0, 1.0, 1.0],
        );
        audit.look(&parameters, 2).unwrap();
        assert!(audit.is_done());
    }

    #[test]
    fn a_parameter_that_is_cut_off_is_named() {
        let parameters = parameters();
        set(
            &parameters,
            [0.0, 0.0, 1.0, 0.0, 0.0, 0.0],
            [1.0, 1.0, 0.0, 0.0, 1.0, 1.0],
        );
        let error = GradientAudit::new(&parameters)
            .look(&parameters, 0)
            .unwrap_err()
            .to_string();
        assert!(error.contains("1 trained parameter(s): classifier.weight"), "{error}");
    }

    #[test]
    fn a_loss_that_is_no_number_names_step_rank_and_samples() {
        assert!(finite_loss(1e30, 3, &Single, &[]).is_ok());
        let error = finite_loss(f64::NAN, 3, &Single, &[17, 4]).unwrap_err().to_string();
        for part in ["step 4", "NaN", "rank 0", "[17, 4]", "--learning-rate"] {
            assert!(error.contains(part), "{part} is missing: {error}");
        }
        assert!(finite_norm(f64::INFINITY, 3).is_err() && finite_norm(0.0, 3).is_ok());
    }
}
