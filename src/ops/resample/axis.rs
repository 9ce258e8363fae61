//! The weights of one direction of a resize: which inputs make an output sample, and how much each counts.

use std::ops::Range;

use super::kernels::Kernels;

/// Bits behind the point of a weight: a sum of u8 samples and their weights stays below 2^31.
pub(super) const WEIGHT_BITS: u32 = 32 - 8 - 2;

/// Outputs are padded to a multiple of this in `words` and `first`: the widest kernel makes as many at once.
pub(super) const LANES: usize = 16;

/// Pillow's filters; the numbers are its `Resampling` enumeration, which `preprocessor_config.json` uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    Nearest = 0,
    Lanczos = 1,
    Bilinear = 2,
    Bicubic = 3,
    Box = 4,
    Hamming = 5,
}

impl Filter {
    pub const ALL: [Filter; 6] = [
        Filter::Nearest,
        Filter::Lanczos,
        Filter::Bilinear,
        Filter::Bicubic,
        Filter::Box,
        Filter::Hamming,
    ];

    /// Half the width of the filter when nothing shrinks, in samples.
    fn support(self) -> f64 {
        match self {
            Filter::Nearest => 0.0,
            Filter::Box => 0.5,
            Filter::Bilinear | Filter::Hamming => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    /// Not normalized; `x` in samples from the centre.
    #[inline(always)]
    fn weight(self, x: f64) -> f64 {
        use std::f64::consts::PI;
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) };
        let distance = x.abs();
        match self {
            Filter::Nearest => 1.0,
            Filter::Box => (x > -0.5 && x <= 0.5) as u32 as f64,
            Filter::Bilinear => (1.0 - distance).max(0.0),
            Filter::Hamming if distance == 0.0 => 1.0,
            Filter::Hamming if distance >= 1.0 => 0.0,
            // The two constants are floats in Pillow, so they are not quite .54 and .46.
            Filter::Hamming => {
                let x = distance * PI;
                x.sin() / x * (0.54f32 as f64 + 0.46f32 as f64 * x.cos())
            }
            // Keys' cubic convolution with a = -1/2.
            Filter::Bicubic if distance < 1.0 => (1.5 * distance - 2.5) * distance * distance + 1.0,
            Filter::Bicubic if distance < 2.0 => (((distance - 5.0) * distance + 8.0) * distance - 4.0) * -0.5,
            Filter::Bicubic => 0.0,
            Filter::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Filter::Lanczos => 0.0,
        }
    }
}

/// One direction of a resize, restricted to a window of its outputs. Keeps its memory when it is set anew.
pub struct Axis {
    pub(super) kernels: Kernels,
    /// Inputs and outputs in all.
    size: (usize, usize),
    /// Where the outputs begin among the inputs, and how many inputs they are made of.
    part: (f64, f64),
    outputs: Range<usize>,
    inputs: Range<usize>,
    /// Most inputs of an output.
    taps: usize,
    /// First input of each output, counted from `inputs.start`; padded with the last one.
    pub(super) first: Vec<u32>,
    /// `[outputs, taps]`, in units of 2^-22; unused ones are 0.
    weights: Vec<i32>,
    /// The weights as the kernels want them; see there.
    pub(super) words: Vec<i32>,
    scratch: Vec<f64>,
}

impl Default for Axis {
    fn default() -> Self {
        Axis::with(Kernels::best())
    }
}

impl Axis {
    pub(super) fn with(kernels: Kernels) -> Axis {
        Axis {
            kernels,
            size: (0, 0),
            part: (0.0, 0.0),
            outputs: 0..0,
            inputs: 0..0,
            taps: 0,
            first: Vec::new(),
            weights: Vec::new(),
            words: Vec::new(),
            scratch: Vec::new(),
        }
    }

    pub fn new(inputs: usize, outputs: usize, filter: Filter, window: Range<usize>) -> Axis {
        let mut axis = Axis::default();
        axis.set(inputs, outputs, filter, window);
        axis
    }

    /// `inputs` samples become `outputs` samples, of which those in `window` are wanted.
    pub fn set(&mut self, inputs: usize, outputs: usize, filter: Filter, window: Range<usize>) {
        self.set_part(inputs, (0.0, inputs as f64), outputs, filter, window);
    }

    /// `part`, its start and its length among `inputs` samples, becomes `outputs` samples.
    pub fn set_part(&mut self, inputs: usize, part: (f64, f64), outputs: usize, filter: Filter, window: Range<usize>) {
        assert!(
            inputs > 0 && part.1 > 0.0 && !window.is_empty() && window.end <= outputs,
            "an empty resize"
        );
        self.size = (inputs, outputs);
        self.part = part;
        self.outputs = window.clone();
        if self.is_identity() {
            self.inputs = window;
            return;
        }
        let scale = part.1 / outputs as f64;
        // One instance per filter, so that its arithmetic is compiled into the loop.
        match filter {
            Filter::Nearest => self.set_nearest(scale),
            Filter::Bilinear => self.set_weights(scale, filter.support(), |x| Filter::Bilinear.weight(x)),
            Filter::Bicubic => self.set_weights(scale, filter.support(), |x| Filter::Bicubic.weight(x)),
            _ => self.set_weights(scale, filter.support(), |x| filter.weight(x)),
        }
        let end = (self.outputs.len() - 1) * self.taps;
        let last = self.weights[end..].iter().rposition(|weight| *weight != 0).unwrap_or(0);
        let first = self.first[0];
        self.inputs = first as usize..(self.first[self.first.len() - 1] as usize + last + 1).min(inputs);
        for at in &mut self.first {
            *at -= first;
        }
        let padded = self.first.len().next_multiple_of(LANES);
        self.first.resize(padded, self.first[self.first.len() - 1]);
        self.kernels.pack(&self.weights, self.taps, &mut self.words);
    }

    fn set_weights(&mut self, scale: f64, support: f64, weight: impl Fn(f64) -> f64) {
        let (inputs, start) = (self.size.0, self.part.0);
        let filter_scale = scale.max(1.0);
        let support = support * filter_scale;
        let inverse = 1.0 / filter_scale;
        let bounds = |output: usize| {
            let center = start + (output as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            (center, first, ((center + support + 0.5) as usize).min(inputs))
        };
        let count = |output: usize| bounds(output).2 - bounds(output).1;
        self.taps = self.outputs.clone().map(count).max().unwrap_or(0);
        self.first.clear();
        self.weights.clear();
        self.weights.resize(self.outputs.len() * self.taps, 0);
        self.scratch.resize(self.taps, 0.0);
        for (output, weights) in self.outputs.clone().zip(self.weights.chunks_exact_mut(self.taps)) {
            let (center, first, last) = bounds(output);
            let real = &mut self.scratch[..last - first];
            let mut sum = 0.0;
            for (real, input) in real.iter_mut().zip(first..) {
                *real = weight((input as f64 - center + 0.5) * inverse);
                sum += *real;
            }
            let sum = if sum != 0.0 { sum } else { 1.0 };
            for (fixed, &real) in weights.iter_mut().zip(&*real) {
                let scaled = real / sum * (1 << WEIGHT_BITS) as f64;
                *fixed = (scaled + 0.5f64.copysign(scaled)) as i32;
            }
            self.first.push(first as u32);
        }
    }

    /// Pillow walks along the outputs and adds `scale` up; so do we, for the same rounding.
    fn set_nearest(&mut self, scale: f64) {
        self.taps = 1;
        self.weights.clear();
        self.weights.resize(self.outputs.len(), 1 << WEIGHT_BITS);
        self.first.clear();
        let mut at = self.part.0 + scale * 0.5;
        for output in 0..self.outputs.end {
            if output >= self.outputs.start {
                self.first.push((at as usize).min(self.size.0 - 1) as u32);
            }
            at += scale;
        }
    }

    /// The outputs that are computed.
    pub fn outputs(&self) -> Range<usize> {
        self.outputs.clone()
    }

    /// The inputs that they depend on.
    pub fn inputs(&self) -> Range<usize> {
        self.inputs.clone()
    }

    /// First input and weights of an output of the window, in units of 2^-22; the last ones may be 0.
    pub fn weights(&self, output: usize) -> (usize, &[i32]) {
        if self.is_identity() {
            return (output, &[1 << WEIGHT_BITS]);
        }
        let (first, weights) = self.output(output - self.outputs.start);
        (self.inputs.start + first, weights)
    }

    /// As many outputs as inputs: Pillow leaves the pass out.
    pub fn is_identity(&self) -> bool {
        self.size.0 == self.size.1 && self.part == (0.0, self.size.0 as f64)
    }

    /// Inputs and outputs in all.
    pub(super) fn size(&self) -> (usize, usize) {
        self.size
    }

    /// First input, counted from `inputs().start`, and weights of output `at`, counted from `outputs().start`.
    pub(super) fn output(&self, at: usize) -> (usize, &[i32]) {
        (self.first[at] as usize, &self.weights[at * self.taps..][..self.taps])
    }

    /// Number of groups of four weights.
    pub(super) fn quads(&self) -> usize {
        self.taps.div_ceil(4)
    }
}
