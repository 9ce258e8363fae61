//! exp, the normal distribution and GELU's derivative as branch-free polynomials, so that loops over them vectorise.
//!
//! The polynomials in t ∈ [-1, 1] interpolate at Chebyshev's nodes (computed with 60 digits, then rounded to f32). The
//! tests hold every function against f64.

/// Φ(x) = ½(1 + erf(x/√2)), absolute error below 1.2e-7; exactly 0 and 1 beyond ±5.4.
#[inline(always)]
pub(crate) fn normal_cdf(x: f32) -> f32 {
    // Φ(x) = ½ + x·A(x²), A even and smooth: t = 2x²/5.4² - 1.
    const A: [f32; 17] = [
        0.130_928_11,
        -0.065_327_94,
        0.048_499_86,
        -0.039_211_38,
        0.032_112_7,
        -0.025_693_024,
        0.019_662_675,
        -0.014_237_37,
        0.009_636_008,
        -0.005_997_510_6,
        0.003_576_707_6,
        -0.002_188_862,
        0.001_107_638_8,
        -0.000_318_230_48,
        0.000_166_202_17,
        -0.000_200_527_6,
        7.753_613e-5,
    ];
    const CUT: f32 = 5.4;
    let inside = x.clamp(-CUT, CUT);
    let t = (inside * inside).mul_add(2.0 / (CUT * CUT), -1.0);
    let phi = inside.mul_add(polynomial(&A, t), 0.5);
    let tail = if x > 0.0 { 1.0 } else { 0.0 };
    if x.abs() < CUT { phi } else { tail }
}

/// GELU(x) = x·Φ(x).
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    x * normal_cdf(x)
}

/// GELU'(x) = Φ(x) + x·φ(x), absolute error below 3e-7; exactly 0 and 1 beyond ±5.9.
#[inline(always)]
pub(crate) fn gelu_derivative(x: f32) -> f32 {
    // GELU'(x) = ½ + x·B(x²), t = 2x²/5.9² - 1.
    const B: [f32; 19] = [
        0.119_911_276,
        -0.060_466_323,
        0.047_283_08,
        -0.044_170_08,
        0.047_211_494,
        -0.054_294_437,
        0.062_153_235,
        -0.066_850_975,
        0.067_339_346,
        -0.064_425_625,
        0.053_109_214,
        -0.034_304_77,
        0.026_275_488,
        -0.027_760_066,
        0.015_242_68,
        0.000_800_727_87,
        0.000_556_926_7,
        -0.005_097_837_7,
        0.002_232_422,
    ];
    const CUT: f32 = 5.9;
    let inside = x.clamp(-CUT, CUT);
    let t = (inside * inside).mul_add(2.0 / (CUT * CUT), -1.0);
    let slope = inside.mul_add(polynomial(&B, t), 0.5);
    let tail = if x > 0.0 { 1.0 } else { 0.0 };
    // A NaN stays one.
    if x.abs() >= CUT { tail } else { slope }
}

/// eˣ for x ≤ 88, relative error below 2e-7; 0 below -87.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // x = k·ln2 + r with |r| ≤ ½ln2; adding 1.5·2²³ rounds to a whole number and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const TAYLOR: [f32; 8] = [
        1.0,
        1.0,
        1.0 / 2.0,
        1.0 / 6.0,
        1.0 / 24.0,
        1.0 / 120.0,
        1.0 / 720.0,
        1.0 / 5040.0,
    ];
    let inside = x.clamp(-87.0, 88.0);
    let shifted = inside.mul_add(std::f32::consts::LOG2_E, ROUND);
    let k = shifted - ROUND;
    let r = k.mul_add(-LN2_LOW, k.mul_add(-LN2_HIGH, inside));
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    let y = polynomial(&TAYLOR, r) * power;
    if x < -87.0 { 0.0 } else { y }
}

#[inline(always)]
fn polynomial<const N: usize>(coefficients: &[f32; N], t: f32) -> f32 {
    let mut value = coefficients[N - 1];
    for i in (0..N - 1).rev() {
        value = value.mul_add(t, coefficients[i]);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// erf by its series (|x| < 3) and by its continued fraction beyond, in f64.
    fn erf(x: f64) -> f64 {
        if x < 0.0 {
            return -erf(-x);
        }
        if x < 3.0 {
            let (mut term, mut total, mut n) = (x, x, 0.0);
            while term.abs() > 1e-18 {
                n += 1.0;
                term *= -x * x / n;
                total += term / (2.0 * n + 1.0);
            }
            return total * 2.0 / std::f64::consts::PI.sqrt();
        }
        let mut fraction = 0.0;
        for k in (1..60).rev() {
            fraction = k as f64 / 2.0 / (x + fraction);
        }
        1.0 - (-x * x).exp() / (std::f64::consts::PI.sqrt() * (x + fraction))
    }

    fn cdf(x: f64) -> f64 {
        0.5 * (1.0 + erf(x / std::f64::consts::SQRT_2))
    }

    fn slope(x: f64) -> f64 {
        cdf(x) + x * (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt()
    }

    fn worst(range: Range, f: impl Fn(f32) -> f32, reference: impl Fn(f64) -> f64) -> f64 {
        let n = 40_000;
        (0..=n)
            .map(|i| range.0 + (range.1 - range.0) * i as f32 / n as f32)
            .map(|x| (f(x) as f64 - reference(x as f64)).abs())
            .fold(0.0, f64::max)
    }

    struct Range(f32, f32);

    #[test]
    fn normal_distribution_and_gelu_are_close_to_f64() {
        let phi = worst(Range(-9.0, 9.0), normal_cdf, cdf);
        assert!(phi < 1.2e-7, "{phi}");
        let derivative = worst(Range(-9.0, 9.0), gelu_derivative, slope);
        assert!(derivative < 3e-7, "{derivative}");
        assert_eq!(gelu(40.0), 40.0);
        assert_eq!(gelu(-40.0), 0.0);
        assert_eq!((gelu_derivative(40.0), gelu_derivative(-40.0)), (1.0, 0.0));
        assert_eq!((gelu(0.0), gelu_derivative(0.0)), (0.0, 0.5));
        assert!(gelu(f32::NAN).is_nan() && gelu_derivative(f32::NAN).is_nan());
    }

    #[test]
    fn exponential_is_close_to_f64() {
        let relative = worst(
            Range(-86.0, 87.0),
            |x| (exp(x) as f64 / (x as f64).exp() - 1.0) as f32,
            |_| 0.0,
        );
        assert!(relative < 2e-7, "{relative}");
        assert_eq!((exp(0.0), exp(-200.0)), (1.0, 0.0));
    }
}
