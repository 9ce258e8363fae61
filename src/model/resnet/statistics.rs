//! Running statistics of batch normalisations: what a model learns without gradients.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use crate::collective::{Collective, share};
use crate::error::{Error, Result};
use crate::ops::storage::{update, values, zeros};

/// All means and variances in one flat buffer, and how many batches each pair has seen.
#[derive(Clone)]
pub struct Statistics {
    /// [n] f32: mean and variance of one normalisation after the other.
    pub values: Tensor,
    /// Batches that each normalisation has taken in.
    pub batches: Vec<i64>,
    /// Module names and numbers of channels.
    norms: Vec<(String, usize)>,
}

impl Statistics {
    /// Of normalisations with these names and numbers of channels: means 0, variances 1.
    pub fn new(norms: Vec<(String, usize)>, device: &Device) -> Result<Statistics> {
        let count = norms.iter().map(|(_, channels)| 2 * channels).sum::<usize>();
        let statistics = Statistics {
            values: zeros(count, DType::F32, device)?,
            batches: vec![0; norms.len()],
            norms,
        };
        update(&statistics.values, |values| {
            for at in 0..statistics.norms.len() {
                let range = statistics.range(at);
                let middle = range.start + range.len() / 2;
                values[middle..range.end].fill(1.0);
            }
        })?;
        Ok(statistics)
    }

    /// Views of the mean and the variance of normalisation `at`.
    pub fn pair(&self, at: usize) -> Result<[Tensor; 2]> {
        let range = self.range(at);
        let half = range.len() / 2;
        Ok([
            self.values.narrow(0, range.start, half)?,
            self.values.narrow(0, range.start + half, half)?,
        ])
    }

    /// Every tensor under its file name.
    pub fn named(&self) -> Result<Vec<(String, Tensor)>> {
        let mut named = Vec::new();
        for (at, (name, _)) in self.norms.iter().enumerate() {
            let [mean, variance] = self.pair(at)?;
            named.push((format!("{name}.running_mean"), mean));
            named.push((format!("{name}.running_var"), variance));
            let batches = Tensor::new(self.batches[at], &Device::Cpu)?;
            named.push((format!("{name}.num_batches_tracked"), batches));
        }
        Ok(named)
    }

    /// All ranks take over those of rank 0. Every rank must call it.
    pub fn share(&mut self, collective: &dyn Collective) -> Result<()> {
        if collective.world() == 1 || self.batches.is_empty() {
            return Ok(());
        }
        let floats = values(&self.values)?.to_vec();
        let mut bytes: Vec<u8> = floats.iter().flat_map(|value| value.to_le_bytes()).collect();
        bytes.extend(self.batches.iter().flat_map(|batches| batches.to_le_bytes()));
        let bytes = share(collective, bytes)?;
        let (of_values, of_batches) = bytes.split_at(4 * floats.len());
        update(&self.values, |values| {
            for (value, bytes) in values.iter_mut().zip(of_values.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        })?;
        for (batches, bytes) in self.batches.iter_mut().zip(of_batches.as_chunks::<8>().0) {
            *batches = i64::from_le_bytes(*bytes);
        }
        Ok(())
    }

    /// Takes over what a checkpoint holds. Errors: it is of another model.
    pub fn restore(&mut self, kept: &[f32], batches: &[i64]) -> Result<()> {
        if kept.len() != self.values.elem_count() || batches.len() != self.batches.len() {
            return Err(Error::usage(
                format!(
                    "the checkpoint has {} running statistics, not {}",
                    kept.len(),
                    self.values.elem_count()
                ),
                "resume from a checkpoint of the same model",
            ));
        }
        update(&self.values, |values| values.copy_from_slice(kept))?;
        self.batches.copy_from_slice(batches);
        Ok(())
    }

    fn range(&self, at: usize) -> Range<usize> {
        let start = self.norms[..at].iter().map(|(_, channels)| 2 * channels).sum();
        start..start + 2 * self.norms[at].1
    }
}
