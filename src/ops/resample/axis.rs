//! The weights of one direction of a resize: which inputs make an output sample, and how much each counts.

use std::ops::Range;

/// Bits behind the point of a weight: a sum of u8 samples and their weights stays below 2^31.
pub(super) const WEIGHT_BITS: u32 = 32 - 8 - 2;

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
#[derive(Default)]
pub struct Axis {
    /// Inputs and outputs in all.
    size: (usize, usize),
    outputs: Range<usize>,
    inputs: Range<usize>,
    /// Weights per output, a multiple of four; unused ones are 0.
    pub(super) taps: usize,
    /// First input of each output.
    pub(super) first: Vec<u32>,
    /// `[outputs, taps]`, in units of 2^-22.
    pub(super) weights: Vec<i32>,
    scratch: Vec<f64>,
}

impl Axis {
    pub fn new(inputs: usize, outputs: usize, filter: Filter, window: Range<usize>) -> Axis {
        let mut axis = Axis::default();
        axis.set(inputs, outputs, filter, window);
        axis
    }

    /// `inputs` samples become `outputs` samples, of which those in `window` are wanted.
    pub fn set(&mut self, inputs: usize, outputs: usize, filter: Filter, window: Range<usize>) {
        assert!(
            inputs > 0 && !window.is_empty() && window.end <= outputs,
            "an empty resize"
        );
        self.size = (inputs, outputs);
        self.outputs = window.clone();
        if self.is_identity() {
            self.inputs = window;
            return;
        }
        let scale = inputs as f64 / outputs as f64;
        let filter_scale = scale.max(1.0);
        let support = filter.support() * filter_scale;
        self.taps = (support.ceil() as usize * 2 + 1).next_multiple_of(4);
        self.first.clear();
        self.weights.clear();
        self.weights.resize(window.len() * self.taps, 0);
        let mut end = 0;
        for (at, output) in window.enumerate() {
            let (first, last) = match filter {
                Filter::Nearest => {
                    let nearest = nearest_input(output, scale).min(inputs - 1);
                    (nearest, nearest + 1)
                }
                _ => {
                    let center = (output as f64 + 0.5) * scale;
                    let first = (center - support + 0.5).max(0.0) as usize;
                    (first, ((center + support + 0.5) as usize).min(inputs))
                }
            };
            let center = (output as f64 + 0.5) * scale;
            let inverse = 1.0 / filter_scale;
            self.scratch.clear();
            self.scratch
                .extend((first..last).map(|input| filter.weight((input as f64 - center + 0.5) * inverse)));
            let sum: f64 = self.scratch.iter().sum();
            let weights = &mut self.weights[at * self.taps..][..last - first];
            for (fixed, &real) in weights.iter_mut().zip(&self.scratch) {
                let real = if sum != 0.0 { real / sum } else { real };
                let scaled = real * (1 << WEIGHT_BITS) as f64;
                *fixed = (scaled + if real < 0.0 { -0.5 } else { 0.5 }) as i32;
            }
            self.first.push(first as u32);
            end = end.max(last);
        }
        self.inputs = self.first[0] as usize..end;
    }

    /// The outputs that are computed.
    pub fn outputs(&self) -> Range<usize> {
        self.outputs.clone()
    }

    /// The inputs that they depend on.
    pub fn inputs(&self) -> Range<usize> {
        self.inputs.clone()
    }

    /// As many outputs as inputs: Pillow leaves the pass out.
    pub fn is_identity(&self) -> bool {
        self.size.0 == self.size.1
    }

    /// How many samples fewer come out than go in.
    pub(super) fn shrinkage(&self) -> isize {
        self.size.0 as isize - self.size.1 as isize
    }

    /// First input and weights of output `at`, counted from the window's start.
    pub(super) fn output(&self, at: usize) -> (usize, &[i32]) {
        (self.first[at] as usize, &self.weights[at * self.taps..][..self.taps])
    }
}

/// Pillow walks along the outputs and adds `scale` up; so do we, for the same rounding.
fn nearest_input(output: usize, scale: f64) -> usize {
    let mut at = scale * 0.5;
    for _ in 0..output {
        at += scale;
    }
    at as usize
}
