//! The trainable parameters: one flat f32 buffer of values, one of gradients, in a fixed named order.
//!
//! Layers hold views of both, so one call reduces, clips, updates or saves everything, and the order is the same on every
//! rank by construction.

use std::ops::Range;

use candle_core::{DType, Tensor};

use crate::error::Result;
use crate::ops::cast::cast_into;
use crate::ops::device::Placement;
use crate::ops::reduce;
use crate::ops::storage::zeros;

/// Flat buffers and the names of what lies in them, without gaps.
#[derive(Clone)]
pub struct Parameters {
    /// [n] f32
    pub values: Tensor,
    /// [n] f32
    pub gradients: Tensor,
    /// [n], the values rounded to the format that products take, where that is not f32. See [`Parameters::refresh`].
    pub rounded: Option<Tensor>,
    pub entries: Vec<Parameter>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Hugging Face's name of the tensor.
    pub name: String,
    pub shape: Vec<usize>,
    /// Place of the first value in the buffers.
    pub start: usize,
    pub decay: Decay,
}

/// Whether weight decay moves a parameter: biases and layer norms are spared, as Hugging Face's Trainer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    Decayed,
    Spared,
}

impl Parameter {
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.count()
    }
}

/// The names and shapes of parameters before their buffers exist.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    pub entries: Vec<Parameter>,
}

impl Layout {
    pub fn push(&mut self, name: impl Into<String>, shape: &[usize], decay: Decay) {
        let start = self.count();
        self.entries.push(Parameter {
            name: name.into(),
            shape: shape.to_vec(),
            start,
            decay,
        });
    }

    /// Values in all.
    pub fn count(&self) -> usize {
        self.entries.last().map_or(0, |last| last.range().end)
    }
}

impl Parameters {
    /// Buffers of zeros.
    pub fn new(layout: Layout, placement: impl Into<Placement>) -> Result<Self> {
        let n = layout.count();
        let Placement { device, compute, .. } = placement.into();
        Ok(Parameters {
            values: zeros(n, DType::F32, &device)?,
            gradients: zeros(n, DType::F32, &device)?,
            rounded: match compute {
                DType::F32 => None,
                half => Some(zeros(n, half, &device)?),
            },
            entries: layout.entries,
        })
    }

    pub fn count(&self) -> usize {
        self.values.elem_count()
    }

    /// Where `name` is among the entries.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.entries.iter().position(|entry| entry.name == name)
    }

    /// Where each of `count` parts begins, whose parameters' names contain what `part` says; of one without parameters, where
    /// those of the next begin.
    pub fn starts(&self, count: usize, part: impl Fn(usize) -> String) -> Vec<usize> {
        let mut starts = vec![self.count(); count];
        let mut next = self.count();
        for (which, start) in starts.iter_mut().enumerate().rev() {
            let part = part(which);
            let first = self.entries.iter().find(|entry| entry.name.contains(&part));
            next = first.map_or(next, |first| first.start);
            *start = next;
        }
        starts
    }

    /// View of entry `i`'s values in its shape.
    pub fn value(&self, i: usize) -> Result<Tensor> {
        view(&self.values, &self.entries[i])
    }

    /// View of entry `i`'s gradient in its shape.
    pub fn gradient(&self, i: usize) -> Result<Tensor> {
        view(&self.gradients, &self.entries[i])
    }

    /// Brings the rounded values up to date with the values. A model does it before it computes.
    pub fn refresh(&self) -> Result<()> {
        match &self.rounded {
            Some(rounded) if self.count() > 0 => cast_into(rounded, &self.values),
            _ => Ok(()),
        }
    }

    /// Values `start..start+count` in the format that products take.
    pub fn multiplied(&self, start: usize, count: usize) -> Result<Tensor> {
        Ok(self.rounded.as_ref().unwrap_or(&self.values).narrow(0, start, count)?)
    }

    pub fn zero_gradients(&self) -> Result<()> {
        reduce::set_zero(&self.gradients)
    }

    /// Scales the gradients so that their global L2 norm is at most `max_norm`; returns the norm before.
    ///
    /// The factor is min(1, max/(norm + 1e-6)), as torch.nn.utils.clip_grad_norm_ has it. `max_norm` = 0 only measures.
    pub fn clip_gradients(&self, max_norm: f64) -> Result<f64> {
        self.unscale_and_clip_gradients(1.0, max_norm)
    }

    /// The same for gradients of a loss that was multiplied by `loss_scale`; the norm is that of the gradients without it.
    /// If it is infinite or NaN, the gradients are left as they are.
    pub fn unscale_and_clip_gradients(&self, loss_scale: f64, max_norm: f64) -> Result<f64> {
        let norm = reduce::sum_of_squares(&self.gradients)?.sqrt() / loss_scale;
        let clip = match max_norm > 0.0 {
            true => (max_norm / (norm + 1e-6)).min(1.0),
            false => 1.0,
        };
        let factor = (clip / loss_scale) as f32;
        if norm.is_finite() && factor != 1.0 {
            reduce::scale(&self.gradients, factor)?;
        }
        Ok(norm)
    }

    /// The ranges that weight decay moves, in order, adjacent ones joined.
    pub fn decayed_ranges(&self) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for entry in self.entries.iter().filter(|entry| entry.decay == Decay::Decayed) {
            match ranges.last_mut() {
                Some(last) if last.end == entry.start => last.end = entry.range().end,
                _ => ranges.push(entry.range()),
            }
        }
        ranges
    }
}

fn view(flat: &Tensor, entry: &Parameter) -> Result<Tensor> {
    Ok(flat
        .narrow(0, entry.start, entry.count())?
        .reshape(entry.shape.as_slice())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    use crate::ops::storage::{update, values};

    #[test]
    fn views_share_the_flat_buffers_and_clipping_sees_all() {
        let mut layout = Layout::default();
        layout.push("a.weight", &[2, 3], Decay::Decayed);
        layout.push("a.bias", &[2], Decay::Spared);
        layout.push("b.weight", &[1, 2], Decay::Decayed);
        let parameters = Parameters::new(layout, &Device::Cpu).unwrap();
        update(&parameters.gradient(1).unwrap(), |g| g.copy_from_slice(&[3.0, 0.0])).unwrap();
        update(&parameters.gradient(2).unwrap(), |g| g.copy_from_slice(&[0.0, 4.0])).unwrap();
        assert_eq!(parameters.decayed_ranges(), [0..6, 8..10]);
        assert_eq!(
            parameters.starts(3, |part| format!("{}.", ["a", "none", "b"][part])),
            [0, 8, 8]
        );
        assert_eq!(parameters.clip_gradients(5.5).unwrap(), 5.0);
        assert_eq!(values(&parameters.gradients).unwrap()[6..], [3.0, 0.0, 0.0, 4.0]);
        assert_eq!(parameters.clip_gradients(1.0).unwrap(), 5.0);
        assert!((parameters.clip_gradients(0.0).unwrap() - 1.0).abs() < 1e-6);
        parameters.zero_gradients().unwrap();
        update(&parameters.gradient(1).unwrap(), |g| {
            g.copy_from_slice(&[3072.0, 4096.0])
        })
        .unwrap();
        assert_eq!(parameters.unscale_and_clip_gradients(1024.0, 0.0).unwrap(), 5.0);
        assert_eq!(values(&parameters.gradients).unwrap()[6..8], [3.0, 4.0]);
        update(&parameters.gradient(0).unwrap(), |g| g[0] = f32::INFINITY).unwrap();
        assert!(!parameters.unscale_and_clip_gradients(1024.0, 1.0).unwrap().is_finite());
        assert_eq!(values(&parameters.gradients).unwrap()[6..8], [3.0, 4.0]);
        parameters.zero_gradients().unwrap();
        assert_eq!(parameters.clip_gradients(1.0).unwrap(), 0.0);
    }
}
