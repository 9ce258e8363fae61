//! What a low-rank adaptation is: rank, scale, dropout, and the projections that get an adapter.

use crate::error::{Error, Result};
use crate::nn::Projection;

#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    pub r: usize,
    pub alpha: f64,
    /// Probability that dropout zeroes an input of A, in [0, 1).
    pub dropout: f64,
    /// Sorted, without repetition, not empty.
    pub targets: Vec<Projection>,
}

impl LoraConfig {
    /// `target_modules` may be spelled as transformers 4 does (`query`) or 5 (`q_proj`), or as a longer path's end.
    pub fn new(r: usize, alpha: f64, dropout: f64, target_modules: &[String]) -> Result<LoraConfig> {
        let mut targets = Vec::new();
        for name in target_modules {
            let Some(projection) = projection_of(name) else {
                return Err(Error::usage(
                    format!("no adapter can sit on module {name:?}"),
                    "choose from query, key, value (or q_proj, k_proj, v_proj)",
                ));
            };
            targets.push(projection);
        }
        targets.sort();
        targets.dedup();
        let wrong = if targets.is_empty() {
            "LoRA without target modules trains no adapter".to_owned()
        } else if r == 0 {
            "LoRA of rank 0 trains nothing".to_owned()
        } else if !(0.0..1.0).contains(&dropout) {
            format!("LoRA dropout {dropout} is no probability below 1")
        } else if !alpha.is_finite() {
            format!("LoRA alpha {alpha} is no number")
        } else {
            return Ok(LoraConfig {
                r,
                alpha,
                dropout,
                targets,
            });
        };
        Err(Error::usage(
            wrong,
            "the recipe vit-lora has r 16, alpha 16, dropout 0.1, query and value",
        ))
    }

    /// What B·A·x is multiplied with: α/r.
    pub fn scale(&self) -> f64 {
        self.alpha / self.r as f64
    }
}

fn projection_of(name: &str) -> Option<Projection> {
    match name.rsplit('.').next() {
        Some("query" | "q_proj") => Some(Projection::Query),
        Some("key" | "k_proj") => Some(Projection::Key),
        Some("value" | "v_proj") => Some(Projection::Value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_mean_the_same_and_nonsense_is_refused() {
        let config = |r, dropout, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
            LoraConfig::new(r, 16.0, dropout, &names)
        };
        let expected = [Projection::Query, Projection::Value];
        assert_eq!(config(16, 0.1, &["value", "query"]).unwrap().targets, expected);
        assert_eq!(
            config(16, 0.1, &["q_proj", "v_proj", "query"]).unwrap().targets,
            expected
        );
        assert!(config(16, 0.1, &["dense"]).is_err());
        assert!(config(16, 0.1, &[]).is_err());
        assert!(config(0, 0.1, &["query"]).is_err());
        assert!(config(16, 1.0, &["query"]).is_err());
    }
}
