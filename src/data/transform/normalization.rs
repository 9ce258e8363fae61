//! u8 to f32: 256 possible values per channel, computed once with the reference's own operations, then looked up.

use crate::data::preprocessor::Preprocessor;
use crate::ops::parts::Front;
use crate::ops::preprocess::Values;

#[derive(Clone, Debug, PartialEq)]
pub struct Normalization {
    /// `[channel, u8 value]`.
    table: Values,
}

impl Normalization {
    /// torchvision's ToTensor and Normalize: (v / 255 - mean) / std, each operation rounded to f32.
    pub fn of_tensor(mean: [f64; 3], std: [f64; 3]) -> Normalization {
        Normalization::tabulate(|channel, value| (value / 255.0 - mean[channel] as f32) / std[channel] as f32)
    }

    /// transformers' image processors: rescaling and normalization are one subtraction and one division.
    pub fn of_processor(preprocessor: &Preprocessor) -> Normalization {
        let factor = match preprocessor.do_rescale {
            true => preprocessor.rescale_factor,
            false => 1.0,
        };
        let inverse = (1.0 / factor) as f32;
        Normalization::tabulate(|channel, value| match preprocessor.do_normalize {
            true => {
                let [mean, std] =
                    [preprocessor.image_mean, preprocessor.image_std].map(|v| v[channel] as f32 * inverse);
                (value - mean) / std
            }
            false => value * factor as f32,
        })
    }

    fn tabulate(f: impl Fn(usize, f32) -> f32) -> Normalization {
        Normalization {
            table: std::array::from_fn(|channel| std::array::from_fn(|value| f(channel, value as f32))),
        }
    }

    /// What each value becomes: for `ops::preprocess`.
    pub fn values(&self) -> &Values {
        &self.table
    }

    pub fn value(&self, channel: usize, value: u8) -> f32 {
        self.table[channel][value as usize]
    }

    /// Writes what `values` become to `out`, from `start` on.
    pub(super) fn write(&self, channel: usize, values: &[u8], out: &mut Front<'_>, start: usize) {
        let table = &self.table[channel];
        out.write(start, values.len(), |at| table[values[at] as usize]);
    }

    /// The same, the last value first.
    pub(super) fn write_mirrored(&self, channel: usize, values: &[u8], out: &mut Front<'_>, start: usize) {
        let (table, last) = (&self.table[channel], values.len().saturating_sub(1));
        out.write(start, values.len(), |at| table[values[last - at] as usize]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of `Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(ToTensor()(image))` in torch, as bits.
    #[test]
    fn values_are_torchs() {
        let table = Normalization::of_tensor([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        for (channel, value, bits) in TORCH_VALUES {
            assert_eq!(
                table.value(channel, value).to_bits(),
                bits,
                "channel {channel}, {value}"
            );
        }
        let half = Normalization::of_tensor([0.5; 3], [0.5; 3]);
        assert_eq!((half.value(0, 0), half.value(1, 255)), (-1.0, 1.0));
    }

    const TORCH_VALUES: [(usize, u8, u32); 21] = [
        (0, 0, 0xc007_8bbd),
        (0, 1, 0xc006_732b),
        (0, 7, 0xbfff_bf78),
        (0, 100, 0xbecf_9456),
        (0, 124, 0x3bb6_5eae),
        (0, 178, 0x3f6e_284a),
        (0, 255, 0x400f_ee1d),
        (1, 0, 0xc002_4924),
        (1, 1, 0xc001_2a4f),
        (1, 7, 0xbff4_e299),
        (1, 100, 0xbe91_ed5a),
        (1, 124, 0x3e0a_65d3),
        (1, 178, 0x3f8a_4ee2),
        (1, 255, 0x401b_6db7),
        (2, 0, 0xbfe6_f809),
        (2, 1, 0xbfe4_bcea),
        (2, 7, 0xbfd7_5a32),
        (2, 100, 0xbd7c_019d),
        (2, 124, 0x3eb6_ab4d),
        (2, 178, 0x3fa6_234d),
        (2, 255, 0x4028_f5c3),
    ];
}
