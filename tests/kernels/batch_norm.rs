//! `kernels/batch_norm.cu` against `ops::batch_norm`.

use dtrain::ops::batch_norm::{self, Affine, Beside, Moments, Passes, Then};
use dtrain::ops::launch::{self, ChannelRows};
use dtrain::ops::maps::Maps;

use super::case::{Arg, Case, Format, Tolerance};
use super::values::{normal, tensor, values};

const EPS: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;

/// Images, lines, pixels, channels: one row of channels and more than a warp's, one part and several, odd ones.
const SHAPES: [[usize; 4]; 6] = [
    [1, 1, 2, 1],
    [2, 3, 5, 5],
    [3, 7, 9, 20],
    [1, 40, 33, 8],
    [2, 16, 17, 64],
    [1, 9, 7, 264],
];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in Format::REAL {
        for shape in SHAPES {
            cases.push(moments(format, shape, None));
            cases.push(backward(format, shape));
            for beside in [Added::Nothing, Added::Maps, Added::Normalized] {
                cases.push(normalized(format, shape, beside));
            }
        }
        cases.push(moments(format, [2, 3, 5, 16], Some(21)));
        for shape in [[2, 3, 5, 16], [2, 3, 5, 5]] {
            cases.push(moments(format, shape, None).misaligned());
            cases.push(backward(format, shape).misaligned());
            cases.push(normalized(format, shape, Added::Normalized).misaligned());
        }
    }
    cases.push(nothing());
    cases
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Added {
    Nothing,
    Maps,
    Normalized,
}

/// 2·normal + 3, rounded.
fn inputs(format: Format, count: usize, which: u64) -> Vec<f32> {
    let normal = normal(Format::F32, count, which);
    normal.iter().map(|x| format.rounded(2.0 * x + 3.0)).collect()
}

fn maps(values: &[f32], shape: [usize; 4]) -> Maps {
    Maps::new(tensor(values, &shape), 0).unwrap()
}

fn count([b, h, w, c]: [usize; 4]) -> (usize, usize) {
    (b * h * w, c)
}

/// As kernels hold them.
fn packed(moments: &Moments, affine: &Affine) -> Vec<f32> {
    [&moments.mean_c, &moments.rstd_c, &affine.scale_c, &affine.shift_c]
        .into_iter()
        .flatten()
        .copied()
        .collect()
}

fn of(x: &Maps, which: u64) -> (Moments, Affine, Vec<f32>) {
    let c = x.shape().channels;
    let moments = Moments::of(&batch_norm::sums(x).unwrap(), EPS);
    let (weight, bias) = (normal(Format::F32, c, which), normal(Format::F32, c, which + 1));
    let affine = moments.affine(&weight, &bias);
    (moments, affine, weight)
}

fn channel_rows(case: &mut Case, kernel: &str, format: Format, n: usize, c: usize, mut args: Vec<Arg>) {
    let shape = ChannelRows::new(n, c);
    args.extend([shape.rows, n as u32, c as u32].map(Arg::U32));
    case.step(format!("{kernel}_{}", format.suffix()), shape.launch, args);
}

/// Sums, moments and running statistics; a value of channel `strange % c` may be no number.
fn moments(format: Format, shape: [usize; 4], strange: Option<usize>) -> Case {
    let (n, c) = count(shape);
    let mut case = Case::new(format!("batch_norm moments {format:?} {shape:?} {strange:?}"));
    let mut x = inputs(format, n * c, 1);
    if let Some(strange) = strange {
        x[strange] = f32::NAN;
    }
    let of_maps = maps(&x, shape);
    let sums = batch_norm::sums(&of_maps).unwrap();
    let expected = Moments::of(&sums, EPS);
    let (weight, bias) = (normal(Format::F32, c, 2), normal(Format::F32, c, 3));
    let (mean, variance) = (normal(Format::F32, c, 4), normal(Format::F32, c, 5));
    let running = |old: &[f32], new: Vec<f64>| -> Vec<f64> {
        let both = old.iter().zip(new);
        both.map(|(old, new)| (1.0 - MOMENTUM) * f64::from(*old) + MOMENTUM * new)
            .collect()
    };
    let means = running(&mean, expected.mean_c.iter().map(|mean| f64::from(*mean)).collect());
    let unbiased = n as f64 / (n as f64 - 1.0);
    let variances = running(&variance, expected.variance_c.iter().map(|v| v * unbiased).collect());

    let parts = ChannelRows::new(n, c).parts;
    let partial = case.output(Format::F32, 2 * parts as usize * c);
    let x = case.input(format, x);
    channel_rows(
        &mut case,
        "batch_norm_partial",
        format,
        n,
        c,
        vec![partial.clone(), x.clone()],
    );
    let of_sums = case.output(Format::F64, 1 + 2 * c);
    let mut args = vec![of_sums.clone(), partial, x];
    args.extend([parts, n as u32, c as u32].map(Arg::U32));
    case.step(format!("batch_norm_sums_{}", format.suffix()), launch::rows(c), args);
    let moments = case.output(Format::F32, 4 * c);
    let (running_mean, running_variance) = (case.state(Format::F32, mean), case.state(Format::F32, variance));
    let mut args = vec![
        moments.clone(),
        running_mean.clone(),
        running_variance.clone(),
        of_sums.clone(),
    ];
    args.extend([
        case.input(Format::F32, weight.clone()),
        case.input(Format::F32, bias.clone()),
    ]);
    args.extend([Arg::F64(EPS), Arg::F64(MOMENTUM), Arg::U32(c as u32)]);
    case.step("batch_norm_moments", launch::columns(c), args);
    // Up to 1320 values of size 5 and squares of size 25 in another order.
    let close = Tolerance {
        absolute: 2e-4,
        relative: 4e-6,
    };
    case.expect(&of_sums, sums, close);
    let close = Tolerance {
        absolute: 2e-6,
        relative: 4e-6,
    };
    case.expect(&moments, packed(&expected, &expected.affine(&weight, &bias)), close);
    case.expect(&running_mean, means, close);
    case.expect(&running_variance, variances, close);
    case
}

/// Of no rows at all: the running statistics stay, and normalise.
fn nothing() -> Case {
    let c = 5;
    let mut case = Case::new("batch_norm moments of nothing");
    let (weight, bias) = (normal(Format::F32, c, 2), normal(Format::F32, c, 3));
    let mean = normal(Format::F32, c, 4);
    let variance: Vec<f32> = normal(Format::F32, c, 5).iter().map(|x| x.abs()).collect();
    let running = Moments::running(&mean, &variance, EPS);
    let expected = packed(&running, &running.affine(&weight, &bias));
    let sums = case.output(Format::F64, 1 + 2 * c);
    let mut args = vec![sums.clone(), Arg::Null, Arg::Null];
    args.extend([0, 0, c as u32].map(Arg::U32));
    case.step("batch_norm_sums_f32", launch::rows(c), args);
    let (of_batch, of_running) = (case.output(Format::F32, 4 * c), case.output(Format::F32, 4 * c));
    let [mean, variance] = [mean, variance].map(|values| (case.state(Format::F32, values.clone()), values));
    let (weight, bias) = (case.input(Format::F32, weight), case.input(Format::F32, bias));
    let mut args = vec![
        of_batch.clone(),
        mean.0.clone(),
        variance.0.clone(),
        sums.clone(),
        weight.clone(),
        bias.clone(),
    ];
    args.extend([Arg::F64(EPS), Arg::F64(MOMENTUM), Arg::U32(c as u32)]);
    case.step("batch_norm_moments", launch::columns(c), args);
    let args = vec![
        of_running.clone(),
        mean.0.clone(),
        variance.0.clone(),
        weight,
        bias,
        Arg::F64(EPS),
        Arg::U32(c as u32),
    ];
    case.step("batch_norm_running", launch::columns(c), args);
    case.expect(&sums, vec![0.0; 1 + 2 * c], Tolerance::EXACT);
    case.expect(&of_batch, expected.clone(), Tolerance::EXACT);
    case.expect(&of_running, expected, Tolerance::EXACT);
    case.expect(&mean.0, mean.1, Tolerance::EXACT);
    case.expect(&variance.0, variance.1, Tolerance::EXACT);
    case
}

fn normalized(format: Format, shape: [usize; 4], added: Added) -> Case {
    let (n, c) = count(shape);
    let mut case = Case::new(format!("batch_norm normalize {format:?} {shape:?} {added:?}"));
    let (x, other) = (inputs(format, n * c, 1), inputs(format, n * c, 2));
    let (of_x, of_other) = (maps(&x, shape), maps(&other, shape));
    let ((moments, affine, _), (other_moments, other_affine, _)) = (of(&of_x, 3), of(&of_other, 5));
    let beside = match added {
        Added::Nothing => Beside::Nothing,
        Added::Maps => Beside::Maps(&of_other),
        Added::Normalized => Beside::Normalized(&of_other, &other_affine),
    };
    let then = if added == Added::Maps {
        Then::AsItIs
    } else {
        Then::Rectified
    };
    let expected = batch_norm::normalized(&of_x, &affine, beside, then, 0).unwrap();
    let y = case.output(format, n * c);
    let mut args = vec![
        y.clone(),
        case.input(format, x),
        case.input(Format::F32, packed(&moments, &affine)),
    ];
    args.push(match added {
        Added::Nothing => Arg::Null,
        _ => case.input(format, other),
    });
    args.push(match added {
        Added::Normalized => case.input(Format::F32, packed(&other_moments, &other_affine)),
        _ => Arg::Null,
    });
    args.push(Arg::U32(u32::from(then == Then::Rectified)));
    channel_rows(&mut case, "batch_norm_normalize", format, n, c, args);
    case.expect(&y, values(expected.values()), Tolerance::arithmetic(0.0, format));
    case
}

/// Through a rectifier behind the normalisation, and through one behind an addition.
fn backward(format: Format, shape: [usize; 4]) -> Case {
    let (n, c) = count(shape);
    let mut case = Case::new(format!("batch_norm backward {format:?} {shape:?}"));
    let (x, g, y) = (
        inputs(format, n * c, 1),
        normal(format, n * c, 7),
        normal(format, n * c, 8),
    );
    let of_x = maps(&x, shape);
    let (moments, affine, weight) = of(&of_x, 3);
    let (gw, gb) = (normal(Format::F32, c, 9), normal(Format::F32, c, 10));
    let parts = ChannelRows::new(n, c).parts;
    let (of_moments, of_weight) = (
        case.input(Format::F32, packed(&moments, &affine)),
        case.input(Format::F32, weight.clone()),
    );
    let x = case.input(format, x);
    let rows = case.input(Format::F64, [moments.count]);
    // n sums of products of size 2 in another order; dx gets a share of them.
    let close = Tolerance {
        absolute: 5e-5,
        relative: 2e-6,
    };
    for behind_addition in [false, true] {
        let of_g = maps(&g, shape);
        let passes = if behind_addition {
            Passes::All
        } else {
            Passes::Positive(&affine)
        };
        let sums = match behind_addition {
            true => batch_norm::rectified_gradient_sums(&of_g, &maps(&y, shape), &of_x, &moments),
            false => batch_norm::gradient_sums(&of_g, &of_x, &moments, passes),
        };
        let sums = sums.unwrap();
        let dx = batch_norm::batch_norm_backward(&of_g, &of_x, &moments, &weight, &sums, passes, 0).unwrap();
        let partial = case.output(Format::F32, 2 * parts as usize * c);
        let g = case.state(format, g.clone());
        let results = if behind_addition {
            case.input(format, y.clone())
        } else {
            Arg::Null
        };
        let rectified = Arg::U32(u32::from(!behind_addition));
        let args = vec![
            partial.clone(),
            g.clone(),
            results,
            x.clone(),
            of_moments.clone(),
            rectified.clone(),
        ];
        channel_rows(&mut case, "batch_norm_gradient_partial", format, n, c, args);
        let of_sums = case.output(Format::F64, 2 * c);
        let args = vec![of_sums.clone(), partial, Arg::U32(parts), Arg::U32(c as u32)];
        case.step("batch_norm_gradient_sums", launch::rows(c), args);
        let (dw, db) = (case.state(Format::F32, gw.clone()), case.state(Format::F32, gb.clone()));
        let args = vec![
            dw.clone(),
            db.clone(),
            of_sums.clone(),
            of_moments.clone(),
            Arg::U32(c as u32),
        ];
        case.step("batch_norm_weights", launch::columns(c), args);
        let factors = case.output(Format::F32, 3 * c);
        let mut args = vec![
            factors.clone(),
            of_sums.clone(),
            rows.clone(),
            of_moments.clone(),
            of_weight.clone(),
        ];
        args.push(Arg::U32(c as u32));
        case.step("batch_norm_factors", launch::columns(c), args);
        let to = case.output(format, n * c);
        let args = vec![to.clone(), g.clone(), x.clone(), of_moments.clone(), factors, rectified];
        channel_rows(&mut case, "batch_norm_backward", format, n, c, args);
        case.expect(&g, values(of_g.values()), Tolerance::EXACT);
        case.expect(&of_sums, sums.clone(), close);
        let products = sums[c..]
            .iter()
            .zip(&moments.rstd_c)
            .map(|(sum, rstd)| sum * f64::from(*rstd));
        case.expect(
            &dw,
            gw.iter().zip(products).map(|(gw, sum)| f64::from(*gw) + sum),
            close,
        );
        case.expect(
            &db,
            gb.iter().zip(&sums[..c]).map(|(gb, sum)| f64::from(*gb) + sum),
            close,
        );
        // Where two values are normalised, rstd is large.
        case.expect(
            &to,
            values(dx.values()),
            Tolerance::arithmetic(if n == 2 { 1e-3 } else { 1e-5 }, format),
        );
    }
    case
}
