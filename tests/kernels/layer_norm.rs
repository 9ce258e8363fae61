//! `kernels/layer_norm.cu` against `ops::layer_norm`.

use candle_core::Tensor;
use dtrain::ops::launch::{self, RowSums};
use dtrain::ops::layer_norm::{self, Moments};

use super::case::{Arg, Case, Format, Tolerance};
use super::values::{normal, tensor, values};

const EPS: f64 = 1e-6;

/// Rows of up to 1024 stay in registers, longer ones are read again; odd widths have no vectors.
const SHAPES: [(usize, usize); 10] = [
    (0, 16),
    (1, 1),
    (5, 7),
    (3, 33),
    (9, 192),
    (70, 768),
    (2, 1000),
    (3, 1024),
    (2, 1032),
    (2, 1531),
];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in Format::REAL {
        for (n, d) in SHAPES {
            cases.push(forward(format, n, d, Sum::None));
            cases.push(forward(format, n, d, Sum::Both));
            cases.push(forward(format, n, d, Sum::InPlace));
            cases.push(backward(format, n, d, 1));
            cases.push(backward(format, n, d, 3));
            cases.push(weights(format, n, d));
        }
        cases.push(forward(format, 9, 40, Sum::Both).misaligned());
        cases.push(backward(format, 9, 40, 1).misaligned());
        cases.push(weights(format, 200, 40).misaligned());
        cases.push(not_finite(format));
        for (n, d, stride) in [(5, 7, 9), (9, 40, 48), (9, 40, 43), (3, 1032, 1040)] {
            cases.push(apart(format, n, d, stride));
        }
    }
    cases
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Sum {
    /// x = a
    None,
    /// x = a + b + bias
    Both,
    /// x = a + b, written over a.
    InPlace,
}

struct Operands {
    x: Vec<f32>,
    w: Vec<f32>,
    w_bias: Vec<f32>,
    y: Tensor,
    moments: Moments,
}

impl Operands {
    fn new(x: Vec<f32>, n: usize, d: usize) -> Operands {
        let w: Vec<f32> = normal(Format::F32, d, 1).iter().map(|w| 1.0 + 0.1 * w).collect();
        let w_bias = normal(Format::F32, d, 2);
        let (y, moments) =
            layer_norm::layer_norm(&tensor(&x, &[n, d]), &tensor(&w, &[d]), &tensor(&w_bias, &[d]), EPS).unwrap();
        Operands {
            x,
            w,
            w_bias,
            y,
            moments,
        }
    }
}

fn inputs(format: Format, n: usize, d: usize) -> Vec<f32> {
    normal(format, n * d, 3)
        .iter()
        .map(|x| format.rounded(3.0 * x + 1.0))
        .collect()
}

fn forward(format: Format, n: usize, d: usize, sum: Sum) -> Case {
    let mut case = Case::new(format!("layer_norm_forward {format:?} {n}x{d} {sum:?}"));
    let (a, b) = (inputs(format, n, d), normal(format, n * d, 4));
    let bias = normal(Format::F32, d, 5);
    let x = (0..n * d)
        .map(|i| match sum {
            Sum::None => a[i],
            Sum::Both => format.rounded(a[i] + b[i] + bias[i % d]),
            Sum::InPlace => format.rounded(a[i] + b[i]),
        })
        .collect();
    let o = Operands::new(x, n, d);
    let (w, w_bias) = (case.input(Format::F32, o.w), case.input(Format::F32, o.w_bias));
    let (y, again) = (case.output(format, n * d), case.output(format, n * d));
    let (mean, rstd) = (case.output(Format::F32, n), case.output(Format::F32, n));
    let (x_out, a, b, bias) = match sum {
        Sum::None => (Arg::Null, case.input(format, a), Arg::Null, Arg::Null),
        Sum::Both => {
            let x_out = case.output(format, n * d);
            (
                x_out,
                case.input(format, a),
                case.input(format, b),
                case.input(Format::F32, bias),
            )
        }
        Sum::InPlace => {
            let a = case.state(format, a);
            (a.clone(), a, case.input(format, b), Arg::Null)
        }
    };
    let x = if sum == Sum::None { a.clone() } else { x_out.clone() };
    let (rows, width) = (Arg::U32(n as u32), Arg::U32(d as u32));
    case.step(
        format!("layer_norm_forward_{}", format.suffix()),
        launch::rows(n),
        vec![
            x_out.clone(),
            y.clone(),
            mean.clone(),
            rstd.clone(),
            a,
            b,
            bias,
            w.clone(),
            w_bias.clone(),
            rows.clone(),
            width.clone(),
            width.clone(),
            Arg::F32(EPS as f32),
        ],
    );
    case.step(
        format!("layer_norm_again_{}", format.suffix()),
        launch::rows(n),
        vec![again.clone(), x, mean.clone(), rstd.clone(), w, w_bias, rows, width],
    );
    if sum != Sum::None {
        case.expect(&x_out, o.x, Tolerance::EXACT);
    }
    // Sums of d values of size 4 in another order, divided by a deviation of 3; a width of 1 divides by √eps = 1e-3.
    let absolute = if d == 1 { 1e-3 } else { 4e-6 };
    let close = Tolerance::arithmetic(absolute, format);
    case.expect(&y, values(&o.y), close);
    case.expect(&again, values(&o.y), close);
    let relative = Tolerance {
        absolute: 1e-6,
        relative: 1e-5,
    };
    case.expect(&mean, values(&o.moments.mean_n), relative);
    case.expect(&rstd, values(&o.moments.rstd_n), relative);
    case
}

fn backward(format: Format, n: usize, d: usize, every: usize) -> Case {
    let mut case = Case::new(format!("layer_norm_backward {format:?} {n}x{d} residual every {every}"));
    let o = Operands::new(inputs(format, n, d), n, d);
    let dy = normal(format, n * d, 6);
    let residual = normal(format, n.div_ceil(every) * d, 7);
    let mut start = vec![0.0; n * d];
    for row in (0..n).step_by(every) {
        start[row * d..][..d].copy_from_slice(&residual[row / every * d..][..d]);
    }
    let dx = tensor(&start, &[n, d]);
    layer_norm::layer_norm_backward(
        &dx,
        &tensor(&dy, &[n, d]),
        &tensor(&o.x, &[n, d]),
        &o.moments,
        &tensor(&o.w, &[d]),
    )
    .unwrap();
    let (dx_out, residual) = if every == 1 {
        let residual = case.state(format, residual);
        (residual.clone(), residual)
    } else {
        (case.output(format, n * d), case.input(format, residual))
    };
    let args = vec![
        dx_out.clone(),
        case.input(format, dy),
        case.input(format, o.x),
        case.input(Format::F32, values(&o.moments.mean_n)),
        case.input(Format::F32, values(&o.moments.rstd_n)),
        case.input(Format::F32, o.w),
        residual,
        Arg::U32(every as u32),
        Arg::U32(n as u32),
        Arg::U32(d as u32),
        Arg::U32(d as u32),
    ];
    case.step(
        format!("layer_norm_backward_{}", format.suffix()),
        launch::rows(n),
        args,
    );
    // rstd is 1000 where the width is 1.
    let absolute = if d == 1 { 1e-3 } else { 2e-6 };
    case.expect(&dx_out, values(&dx), Tolerance::arithmetic(absolute, format));
    case
}

fn weights(format: Format, n: usize, d: usize) -> Case {
    let mut case = Case::new(format!("layer_norm_weights {format:?} {n}x{d}"));
    let o = Operands::new(inputs(format, n, d), n, d);
    let dy = normal(format, n * d, 8);
    let (gw, gb) = (normal(Format::F32, d, 9), normal(Format::F32, d, 10));
    let (gw_expected, gb_expected) = (tensor(&gw, &[d]), tensor(&gb, &[d]));
    layer_norm::layer_norm_backward_weights(
        &gw_expected,
        &gb_expected,
        &tensor(&dy, &[n, d]),
        &tensor(&o.x, &[n, d]),
        &o.moments,
    )
    .unwrap();
    let RowSums { launch, rows, parts } = RowSums::new(n, d);
    let partial = case.output(Format::F32, 2 * parts as usize * d);
    let (dw, db) = (case.state(Format::F32, gw), case.state(Format::F32, gb));
    let args = vec![
        partial.clone(),
        case.input(format, dy),
        case.input(format, o.x),
        case.input(Format::F32, values(&o.moments.mean_n)),
        case.input(Format::F32, values(&o.moments.rstd_n)),
        Arg::U32(rows),
        Arg::U32(n as u32),
        Arg::U32(d as u32),
    ];
    case.step(format!("layer_norm_weights_partial_{}", format.suffix()), launch, args);
    case.step(
        "layer_norm_weights_finish",
        launch::columns(d),
        vec![dw.clone(), db.clone(), partial, Arg::U32(parts), Arg::U32(d as u32)],
    );
    // Up to 200 products of size 3, added up in another order.
    let close = Tolerance {
        absolute: 2e-5,
        relative: 1e-6,
    };
    case.expect(&dw, values(&gw_expected), close);
    case.expect(&db, values(&gb_expected), close);
    case
}

/// A NaN or an infinity spoils its own row and no other.
fn not_finite(format: Format) -> Case {
    let (n, d) = (4, 24);
    let mut case = Case::new(format!("layer_norm_forward {format:?} not finite"));
    let mut x = inputs(format, n, d);
    x[d + 3] = f32::NAN;
    x[3 * d + 23] = f32::INFINITY;
    let o = Operands::new(x, n, d);
    let mut expected = values(&o.y);
    for row in [1, 3] {
        expected[row * d..][..d].fill(f32::NAN);
    }
    let y = case.output(format, n * d);
    let args = vec![
        Arg::Null,
        y.clone(),
        Arg::Null,
        Arg::Null,
        case.input(format, o.x),
        Arg::Null,
        Arg::Null,
        case.input(Format::F32, o.w),
        case.input(Format::F32, o.w_bias),
        Arg::U32(n as u32),
        Arg::U32(d as u32),
        Arg::U32(d as u32),
        Arg::F32(EPS as f32),
    ];
    case.step(format!("layer_norm_forward_{}", format.suffix()), launch::rows(n), args);
    case.expect(&y, expected, Tolerance::arithmetic(4e-6, format));
    case
}

/// Rows of y and dy that are parts of wider ones, of which nothing else is touched.
fn apart(format: Format, n: usize, d: usize, stride: usize) -> Case {
    let mut case = Case::new(format!("layer_norm {format:?} {n}x{d} in rows of {stride}"));
    let o = Operands::new(inputs(format, n, d), n, d);
    let spread = |rows: &[f32]| -> Vec<f32> {
        let mut wide = vec![3.0; n * stride];
        for (wide, row) in wide.chunks_mut(stride).zip(rows.chunks(d)) {
            wide[..d].copy_from_slice(row);
        }
        wide
    };
    let y = case.state(format, vec![3.0; n * stride]);
    let (mean, rstd) = (case.output(Format::F32, n), case.output(Format::F32, n));
    let x = case.input(format, o.x.clone());
    let w = case.input(Format::F32, o.w.clone());
    let mut args = vec![
        Arg::Null,
        y.clone(),
        mean.clone(),
        rstd.clone(),
        x.clone(),
        Arg::Null,
        Arg::Null,
    ];
    args.extend([w.clone(), case.input(Format::F32, o.w_bias.clone())]);
    let sizes = [n, d, stride].map(|size| Arg::U32(size as u32));
    args.extend(sizes.clone());
    args.push(Arg::F32(EPS as f32));
    let suffix = format.suffix();
    case.step(format!("layer_norm_forward_{suffix}"), launch::rows(n), args);

    let dy = normal(format, n * d, 6);
    let expected = tensor(&vec![0.0; n * d], &[n, d]);
    let (dy_t, x_t) = (tensor(&dy, &[n, d]), tensor(&o.x, &[n, d]));
    layer_norm::layer_norm_backward(&expected, &dy_t, &x_t, &o.moments, &tensor(&o.w, &[d])).unwrap();
    let dx = case.output(format, n * d);
    let mut args = vec![
        dx.clone(),
        case.input(format, spread(&dy)),
        x,
        mean,
        rstd,
        w,
        Arg::Null,
        Arg::U32(1),
    ];
    args.extend(sizes);
    case.step(format!("layer_norm_backward_{suffix}"), launch::rows(n), args);
    case.expect(&y, spread(&values(&o.y)), Tolerance::arithmetic(4e-6, format));
    case.expect(&dx, values(&expected), Tolerance::arithmetic(4e-6, format));
    case
}
