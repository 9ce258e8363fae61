//! Randomness as a pure function of names: the counter-based generator Philox4x32-10.
//!
//! Nothing here has a state that would need saving. A random number is named by (seed, epoch, sample, purpose, index);
//! asking for the same name anywhere, in any order, on any rank gives the same number.
//! Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.

/// What a random number is for. The values are part of the format of a run: never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The order of the samples in an epoch (`sample` is 0).
    Order,
    /// RandomResizedCrop's box.
    Crop,
    /// RandomHorizontalFlip.
    Flip,
    /// Dropout of one module; the number is the module's place in the model.
    Dropout(u32),
    /// Initial value of a new weight; the number is the tensor's place in the model (`epoch` and `sample` are 0).
    Init(u32),
    /// Further augmentations, numbered by their place in the pipeline.
    Augment(u32),
    /// RandAugment's ops and their signs.
    RandAugment,
    /// ColorJitter's factors and their order.
    ColorJitter,
    /// Whether and where a rectangle is erased.
    Erasing,
    /// What it is filled with.
    ErasedValues,
    /// Mixup and CutMix: 0 the choices, 1 and 2 the two deviates that shares are made of.
    Mix(u32),
}

impl Purpose {
    /// Kind in the top 8 bits, number in the low 24.
    pub const fn code(self) -> u32 {
        match self {
            Purpose::Order => 0,
            Purpose::Crop => 1 << 24,
            Purpose::Flip => 2 << 24,
            Purpose::Dropout(n) => (3 << 24) | (n & 0xff_ffff),
            Purpose::Init(n) => (4 << 24) | (n & 0xff_ffff),
            Purpose::Augment(n) => (5 << 24) | (n & 0xff_ffff),
            Purpose::RandAugment => 6 << 24,
            Purpose::ColorJitter => 7 << 24,
            Purpose::Erasing => 8 << 24,
            Purpose::ErasedValues => 9 << 24,
            Purpose::Mix(n) => (10 << 24) | (n & 0xff_ffff),
        }
    }
}

/// The name of a stream of random numbers: everything but the index in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
    /// sample (low 32 bits), epoch, purpose
    name: [u32; 3],
}

impl Stream {
    /// `sample` is the row's index in the whole training set; its upper 32 bits are folded into the key.
    pub fn new(seed: u64, epoch: u32, sample: u64, purpose: Purpose) -> Self {
        Stream {
            key: [seed as u32, (seed >> 32) as u32 ^ (sample >> 32) as u32],
            name: [sample as u32, epoch, purpose.code()],
        }
    }

    /// Block `index` of four 32-bit numbers.
    #[inline(always)]
    pub fn block(&self, index: u32) -> [u32; 4] {
        philox4x32_10([index, self.name[0], self.name[1], self.name[2]], self.key)
    }

    /// Number `index` of the stream as a real in [0, 1) with 53 random bits.
    pub fn uniform(&self, index: u32) -> f64 {
        let block = self.block(index / 2);
        let at = (index as usize % 2) * 2;
        let bits = (block[at] as u64) << 32 | block[at + 1] as u64;
        (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Number `index` of the stream as an integer in [0, n), n > 0, by multiplication (bias below n / 2^53).
    pub fn below(&self, index: u32, n: u64) -> u64 {
        ((self.uniform(index) * n as f64) as u64).min(n - 1)
    }

    /// Number `index` of the stream as a standard normal deviate (Box-Muller over one block).
    pub fn normal(&self, index: u32) -> f64 {
        let [a, b, c, d] = self.block(index);
        let unit = |hi: u32, lo: u32| {
            let bits = ((hi as u64) << 32 | lo as u64) >> 11;
            (bits as f64 + 0.5) * (1.0 / (1u64 << 53) as f64)
        };
        (-2.0 * unit(a, b).ln()).sqrt() * (std::f64::consts::TAU * unit(c, d)).cos()
    }

    /// The logarithm of a gamma deviate of this shape, > 0 (Marsaglia and Tsang, "A simple method for generating gamma
    /// variables", 2000). It has the whole stream to itself: block 0 for shapes below 1, attempt k two blocks from 2k+1 on.
    pub fn log_gamma(&self, shape: f64) -> f64 {
        // Gamma(a) is Gamma(a+1)·U^(1/a).
        let (shape, power) = match shape < 1.0 {
            true => (shape + 1.0, (1.0 - self.uniform(0)).ln() / shape),
            false => (shape, 0.0),
        };
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        for attempt in 0.. {
            let x = self.normal(2 * attempt + 1);
            let v = (1.0 + c * x).powi(3);
            let u = self.uniform(2 * (2 * attempt + 2));
            if v > 0.0 && u.ln() < 0.5 * x * x + d * (1.0 - v + v.ln()) {
                return (d * v).ln() + power;
            }
        }
        unreachable!("nineteen of twenty attempts succeed")
    }
}

/// Philox4x32 with ten rounds.
#[inline(always)]
pub fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let p0 = 0xD251_1F53u64 * counter[0] as u64;
        let p1 = 0xCD9E_8D57u64 * counter[2] as u64;
        counter = [
            (p1 >> 32) as u32 ^ counter[1] ^ key[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ counter[3] ^ key[1],
            p0 as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors publish with Random123.
    #[test]
    fn philox_meets_its_authors_known_answers() {
        assert_eq!(
            philox4x32_10([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32_10(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn uniform_and_normal_have_their_moments() {
        let s = Stream::new(42, 1, 7, Purpose::Crop);
        let n = 20_000;
        let (mut mean, mut normal_mean, mut normal_square) = (0.0, 0.0, 0.0);
        for i in 0..n {
            let u = s.uniform(i);
            assert!((0.0..1.0).contains(&u));
            mean += u / n as f64;
            let z = s.normal(i);
            normal_mean += z / n as f64;
            normal_square += z * z / n as f64;
        }
        // Four standard errors: 4/sqrt(12 n), 4/sqrt(n), 4*sqrt(2/n).
        assert!((mean - 0.5).abs() < 0.0082, "{mean}");
        assert!(normal_mean.abs() < 0.0283, "{normal_mean}");
        assert!((normal_square - 1.0).abs() < 0.04, "{normal_square}");
    }

    /// Mean and variance of a gamma deviate are its shape.
    #[test]
    fn gamma_deviates_have_their_moments() {
        let n = 20_000;
        for shape in [0.3, 1.0, 4.5] {
            let deviate = |sample| Stream::new(7, 0, sample, Purpose::Mix(1)).log_gamma(shape).exp();
            let deviates: Vec<f64> = (0..n).map(deviate).collect();
            let mean = deviates.iter().sum::<f64>() / n as f64;
            let variance = deviates.iter().map(|x| (x - shape).powi(2)).sum::<f64>() / n as f64;
            // Four standard errors; the fourth central moment is 3a² + 6a.
            assert!(
                (mean - shape).abs() < 4.0 * (shape / n as f64).sqrt(),
                "{shape}: {mean}"
            );
            let error = ((2.0 * shape * shape + 6.0 * shape) / n as f64).sqrt();
            assert!((variance - shape).abs() < 4.0 * error, "{shape}: {variance}");
        }
    }

    #[test]
    fn streams_with_other_names_differ() {
        let base = Stream::new(1, 2, 3, Purpose::Crop);
        for other in [
            Stream::new(2, 2, 3, Purpose::Crop),
            Stream::new(1, 3, 3, Purpose::Crop),
            Stream::new(1, 2, 4, Purpose::Crop),
            Stream::new(1, 2, 3 + (1 << 32), Purpose::Crop),
            Stream::new(1, 2, 3, Purpose::Flip),
            Stream::new(1, 2, 3, Purpose::Dropout(0)),
        ] {
            assert_ne!(base.block(0), other.block(0));
        }
    }
}
