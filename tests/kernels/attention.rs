//! `kernels/attention.cu`, `kernels/attention_rows.cu` and `kernels/attention_tensor.cu` against `ops::attention`.

use dtrain::ops::attention::{Attention, AttentionOutput, Wanted, attention, attention_backward};
use dtrain::ops::launch::AttentionShape;
use dtrain::ops::matmul::Products;

use super::case::{Arg, Case, Format, Tolerance};
use super::values::{normal, tensor, values};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in Format::REAL {
        for (b, heads, sq, s) in [
            (1, 1, 1, 1),
            (2, 2, 17, 17),
            (1, 3, 64, 64),
            (1, 1, 65, 197),
            (1, 2, 5, 130),
        ] {
            let shape = AttentionShape { b, heads, sq, s, e: 64 };
            cases.extend(all(shape, format, Way::Tiles, 1.0));
        }
        for (b, heads, sq, s, e) in [
            (1, 1, 1, 1, 1),
            (2, 3, 5, 5, 8),
            (1, 2, 3, 20, 33),
            (1, 1, 4, 17, 80),
            (1, 1, 2, 7, 136),
        ] {
            let shape = AttentionShape { b, heads, sq, s, e };
            cases.extend(all(shape, format, Way::Rows, 1.0));
        }
        for (b, heads, s, e) in [(2, 3, 197, 64), (1, 2, 1, 64), (3, 2, 19, 20)] {
            let shape = AttentionShape { b, heads, sq: 1, s, e };
            cases.extend(all(shape, format, Way::First, 1.0));
        }
        let small = AttentionShape {
            b: 1,
            heads: 1,
            sq: 9,
            s: 70,
            e: 64,
        };
        // Scores of several hundred: one key takes all.
        cases.extend(all(small, format, Way::Tiles, 12.0));
        cases.extend(all(small, format, Way::Tiles, 1.0).map(Case::misaligned));
        cases.extend(all(small, format, Way::Rows, 1.0).map(Case::misaligned));
        cases.extend(all(AttentionShape { sq: 1, ..small }, format, Way::First, 1.0).map(Case::misaligned));
        for way in [Way::Tiles, Way::Rows] {
            cases.push(not_finite(format, way));
        }
    }
    cases
}

/// Those that are made of tensor-core instructions.
pub fn tensor_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in [Format::F16, Format::Bf16] {
        for (b, heads, sq, s) in [
            (1, 1, 1, 1),
            (2, 2, 17, 17),
            (1, 3, 64, 64),
            (1, 1, 197, 197),
            (1, 1, 1, 197),
            (1, 1, 33, 130),
            (2, 1, 50, 9),
        ] {
            let shape = AttentionShape { b, heads, sq, s, e: 64 };
            cases.extend(all(shape, format, Way::Tensor, 1.0));
        }
        let small = AttentionShape {
            b: 1,
            heads: 1,
            sq: 9,
            s: 70,
            e: 64,
        };
        cases.push(forward(&Operands::new(small, format, 12.0), Way::Tensor, 12.0));
        cases.push(not_finite(format, Way::Tensor));
    }
    cases
}

/// Which kernels compute it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Tiles,
    Rows,
    First,
    Tensor,
}

/// Operands as a packed product leaves them, and what the CPU makes of them.
struct Operands {
    shape: AttentionShape,
    format: Format,
    /// Elements in a row of the packed projections: [q k v] of each token, or q apart from [k v].
    packed: bool,
    q: Vec<f32>,
    kv: Vec<f32>,
    d_o: Vec<f32>,
    o: Vec<f32>,
    log_sums: Vec<f32>,
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

impl Operands {
    fn new(shape: AttentionShape, format: Format, size: f32) -> Operands {
        let AttentionShape { b, heads, sq, s, e } = shape;
        let d = heads * e;
        let packed = sq == s;
        let wide = |count, which| -> Vec<f32> {
            normal(format, count, which)
                .iter()
                .map(|x| format.rounded(size * x))
                .collect()
        };
        let (q, kv) = match packed {
            true => (Vec::new(), wide(b * s * 3 * d, 1)),
            false => (wide(b * sq * d, 2), wide(b * s * 2 * d, 3)),
        };
        let d_o = normal(format, b * sq * d, 4);
        let kv_t = tensor(&kv, &[b, s, if packed { 3 * d } else { 2 * d }]);
        let part = |which: usize| kv_t.narrow(2, which * d, d).unwrap();
        let operands = match packed {
            true => (part(0), part(1), part(2)),
            false => (tensor(&q, &[b, sq, d]), part(0), part(1)),
        };
        let operands = Attention {
            q_bqd: &operands.0,
            k_bsd: &operands.1,
            v_bsd: &operands.2,
            heads,
            products: Products::F32,
        };
        let output = attention(&operands).unwrap();
        // The kernels get the output as it is stored.
        let o: Vec<f32> = values(&output.o_bqd).iter().map(|x| format.rounded(*x)).collect();
        let stored = AttentionOutput {
            o_bqd: tensor(&o, &[b, sq, d]),
            log_sums_bhq: output.log_sums_bhq.clone(),
        };
        let d_o_t = tensor(&d_o, &[b, sq, d]);
        let gradient = attention_backward(&operands, &stored, &d_o_t, Wanted::QueryKeyValue).unwrap();
        let dense = |t: candle_core::Tensor| values(&t.contiguous().unwrap());
        Operands {
            shape,
            format,
            packed,
            q,
            kv,
            d_o,
            o,
            log_sums: values(&output.log_sums_bhq),
            dq: dense(gradient.dq_bqd().unwrap()),
            dk: dense(gradient.dk_bsd().unwrap().expect("it was wanted")),
            dv: dense(gradient.dv_bsd().unwrap()),
        }
    }

    fn inputs(&self, case: &mut Case) -> Inputs {
        let AttentionShape { heads, sq, s, e, .. } = self.shape;
        let d = heads * e;
        let kv = case.input(self.format, self.kv.clone());
        let at = |place: usize| match &kv {
            Arg::Buffer(index) => Arg::Within(*index, place),
            _ => unreachable!("an input is a buffer"),
        };
        match self.packed {
            true => Inputs {
                qkv: [at(0), at(d), at(2 * d)],
                q_strides: strides(s, 3 * d),
                kv_strides: strides(s, 3 * d),
            },
            false => Inputs {
                qkv: [case.input(self.format, self.q.clone()), at(0), at(d)],
                q_strides: strides(sq, d),
                kv_strides: strides(s, 2 * d),
            },
        }
    }

    fn numbers(&self, way: Way) -> Vec<Arg> {
        let AttentionShape { sq, s, e, .. } = self.shape;
        let sizes: &[usize] = match way {
            Way::Tiles | Way::Tensor => &[sq, s],
            Way::Rows => &[sq, s, e],
            Way::First => &[s, e],
        };
        let scale = Arg::F32(1.0 / (e as f32).sqrt());
        sizes.iter().map(|n| Arg::U32(*n as u32)).chain([scale]).collect()
    }
}

struct Inputs {
    qkv: [Arg; 3],
    q_strides: [Arg; 2],
    kv_strides: [Arg; 2],
}

/// From image to image and from token to token.
fn strides(tokens: usize, row: usize) -> [Arg; 2] {
    [Arg::U64((tokens * row) as u64), Arg::U64(row as u64)]
}

/// Forward, and backward with and without dK.
fn all(shape: AttentionShape, format: Format, way: Way, size: f32) -> impl Iterator<Item = Case> {
    let operands = Operands::new(shape, format, size);
    let backward = match way {
        Way::First => first_backward,
        Way::Tensor => tensor_backward,
        _ => backward,
    };
    [
        forward(&operands, way, size),
        backward(&operands, way, size, Wanted::QueryKeyValue),
        backward(&operands, way, size, Wanted::QueryValue),
    ]
    .into_iter()
}

/// Scores of size² cost as many units of f32's rounding in the exponent. Tensor cores take probabilities p and their gradients
/// rounded to the format: an error of ε·Σ p·|v|, where Σ p is 1 and |v| up to 4, and the like in the backward pass.
fn tolerance(format: Format, way: Way, size: f32) -> Tolerance {
    let products = match way {
        Way::Tensor => 3.0 * format.epsilon() * size as f64,
        _ => 0.0,
    };
    Tolerance::arithmetic(3e-6 * (size as f64).powi(3) + products, format)
}

fn forward(o: &Operands, way: Way, size: f32) -> Case {
    let mut case = Case::new(format!(
        "attention forward {way:?} {:?} {:?} size {size}",
        o.format, o.shape
    ));
    let inputs = o.inputs(&mut case);
    let out = case.output(o.format, o.o.len());
    let log_sums = case.output(Format::F32, o.log_sums.len());
    let mut args = vec![out.clone(), log_sums.clone()];
    args.extend(inputs.qkv);
    args.extend(inputs.q_strides.into_iter().chain(inputs.kv_strides));
    // The single query's forward is that of rows.
    args.extend(o.numbers(if way == Way::First { Way::Rows } else { way }));
    let suffix = o.format.suffix();
    match way {
        Way::Tiles => case.step(format!("attention_forward_{suffix}"), o.shape.queries(), args),
        Way::Tensor => case.step(
            format!("attention_tensor_forward_{suffix}"),
            o.shape.tensor_forward(),
            args,
        ),
        _ => case.step(format!("attention_rows_forward_{suffix}"), o.shape.rows(), args),
    }
    // Expected values are rounded already: two roundings may differ by one unit.
    let close = tolerance(o.format, way, size);
    case.expect(
        &out,
        o.o.clone(),
        Tolerance {
            relative: 2.0 * close.relative,
            ..close
        },
    );
    case.expect(
        &log_sums,
        o.log_sums.clone(),
        Tolerance {
            absolute: 2e-6,
            relative: 1e-6,
        },
    );
    case
}

fn backward(o: &Operands, way: Way, size: f32, wanted: Wanted) -> Case {
    let mut case = Case::new(format!(
        "attention backward {way:?} {:?} {:?} size {size} {wanted:?}",
        o.format, o.shape
    ));
    let AttentionShape { b, heads, sq, s, e } = o.shape;
    let d = heads * e;
    let inputs = o.inputs(&mut case);
    let (out, d_o) = (case.input(o.format, o.o.clone()), case.input(o.format, o.d_o.clone()));
    let log_sums = case.input(Format::F32, o.log_sums.clone());
    let diagonal = case.output(Format::F32, b * heads * sq);
    let suffix = o.format.suffix();
    let rows = [sq, heads, e, b * sq * heads].map(|n| Arg::U32(n as u32));
    case.step(
        format!("attention_diagonal_{suffix}"),
        o.shape.diagonal(),
        [diagonal.clone(), out, d_o.clone()].into_iter().chain(rows).collect(),
    );
    let dq = case.output(o.format, o.dq.len());
    let (dk, dv) = (case.output(o.format, o.dk.len()), case.output(o.format, o.dv.len()));
    let common = |case: &mut Case, kernel: &str, launch, first: Vec<Arg>, strides: [Arg; 2]| {
        let mut args = first;
        args.extend(inputs.qkv.clone());
        args.extend([d_o.clone(), log_sums.clone(), diagonal.clone()]);
        args.extend(inputs.q_strides.clone().into_iter().chain(inputs.kv_strides.clone()));
        args.extend(strides);
        args.extend(o.numbers(way));
        case.step(format!("{kernel}_{suffix}"), launch, args);
    };
    let (name, for_q, for_kv) = match way {
        Way::Tiles => ("attention", o.shape.queries_backward(), o.shape.keys_backward()),
        _ => ("attention_rows", o.shape.rows_backward_q(), o.shape.rows_backward_kv()),
    };
    common(
        &mut case,
        &format!("{name}_backward_q"),
        for_q,
        vec![dq.clone()],
        strides(sq, d),
    );
    let dk_arg = if wanted == Wanted::QueryKeyValue {
        dk.clone()
    } else {
        Arg::Null
    };
    common(
        &mut case,
        &format!("{name}_backward_kv"),
        for_kv,
        vec![dk_arg, dv.clone()],
        strides(s, d),
    );
    let close = tolerance(o.format, way, size);
    case.expect(&dq, o.dq.clone(), close);
    case.expect(&dv, o.dv.clone(), close);
    if wanted == Wanted::QueryKeyValue {
        case.expect(&dk, o.dk.clone(), close);
    }
    case
}

/// One launch makes all gradients.
fn tensor_backward(o: &Operands, way: Way, size: f32, wanted: Wanted) -> Case {
    let mut case = Case::new(format!(
        "attention backward {way:?} {:?} {:?} size {size} {wanted:?}",
        o.format, o.shape
    ));
    let AttentionShape { heads, sq, s, e, .. } = o.shape;
    let d = heads * e;
    let inputs = o.inputs(&mut case);
    let [dq, dk, dv] = [&o.dq, &o.dk, &o.dv].map(|gradient| case.output(o.format, gradient.len()));
    let all = wanted == Wanted::QueryKeyValue;
    let mut args = vec![dq.clone(), if all { dk.clone() } else { Arg::Null }, dv.clone()];
    args.extend(inputs.qkv);
    args.extend([case.input(o.format, o.o.clone()), case.input(o.format, o.d_o.clone())]);
    args.push(case.input(Format::F32, o.log_sums.clone()));
    args.extend(inputs.q_strides.into_iter().chain(inputs.kv_strides));
    args.extend(strides(sq, d).into_iter().chain(strides(s, d)));
    args.extend(o.numbers(way));
    case.step(
        format!("attention_tensor_backward_{}", o.format.suffix()),
        o.shape.tensor_backward(),
        args,
    );
    let close = tolerance(o.format, way, size);
    case.expect(&dq, o.dq.clone(), close);
    case.expect(&dv, o.dv.clone(), close);
    if all {
        case.expect(&dk, o.dk.clone(), close);
    }
    case
}

/// One query an image; the gradients of keys and values lie side by side, as the product below wants them.
fn first_backward(o: &Operands, way: Way, size: f32, wanted: Wanted) -> Case {
    let mut case = Case::new(format!(
        "attention first backward {:?} {:?} {wanted:?}",
        o.format, o.shape
    ));
    let AttentionShape { b, heads, s, e, .. } = o.shape;
    let d = heads * e;
    let inputs = o.inputs(&mut case);
    let parts = if wanted == Wanted::QueryKeyValue { 2 } else { 1 };
    let (dq, dkv) = (
        case.output(o.format, o.dq.len()),
        case.output(o.format, b * s * parts * d),
    );
    let Arg::Buffer(index) = dkv else {
        unreachable!("an output is a buffer")
    };
    let (dk, dv) = match parts {
        2 => (Arg::Within(index, 0), Arg::Within(index, d)),
        _ => (Arg::Null, dkv.clone()),
    };
    let mut args = vec![dq.clone(), dk, dv];
    args.extend(inputs.qkv);
    args.extend([case.input(o.format, o.o.clone()), case.input(o.format, o.d_o.clone())]);
    args.push(case.input(Format::F32, o.log_sums.clone()));
    args.push(inputs.q_strides[0].clone());
    args.extend(inputs.kv_strides);
    args.push(Arg::U64(d as u64));
    args.extend(strides(s, parts * d));
    args.extend(o.numbers(way));
    case.step(
        format!("attention_first_backward_{}", o.format.suffix()),
        o.shape.rows_backward_q(),
        args,
    );
    let mut together = Vec::new();
    for (dk, dv) in o.dk.chunks_exact(d).zip(o.dv.chunks_exact(d)) {
        if parts == 2 {
            together.extend_from_slice(dk);
        }
        together.extend_from_slice(dv);
    }
    let close = tolerance(o.format, way, size);
    case.expect(&dq, o.dq.clone(), close);
    case.expect(&dkv, together, close);
    case
}

/// A NaN in one image's key spoils that head of that image; an infinite query its own row.
fn not_finite(format: Format, way: Way) -> Case {
    let shape = AttentionShape {
        b: 2,
        heads: 2,
        sq: 3,
        s: 5,
        e: 64,
    };
    let mut o = Operands::new(shape, format, 1.0);
    o.kv[5 * 256 + 2 * 256 + 64 + 7] = f32::NAN; // image 1, key 2, head 1
    o.q[128 + 3] = f32::INFINITY; // image 0, query 1, head 0
    let mut case = forward(&o, way, 1.0);
    let mut expected = o.o.clone();
    for (place, value) in expected.iter_mut().enumerate() {
        let (image, query, head) = (place / 384, place / 128 % 3, place / 64 % 2);
        if (image, head) == (1, 1) || (image, query, head) == (0, 1, 0) {
            *value = f32::NAN;
        }
    }
    let mut log_sums = o.log_sums.clone();
    log_sums[3 * 3..].fill(f32::NAN);
    log_sums[1] = f32::NAN;
    let close = tolerance(format, way, 1.0);
    let inputs = case.buffers.len() - 2;
    case.expect(
        &Arg::Buffer(inputs),
        expected,
        Tolerance {
            relative: 2.0 * close.relative,
            ..close
        },
    );
    case.expect(
        &Arg::Buffer(inputs + 1),
        log_sums,
        Tolerance {
            absolute: 2e-6,
            relative: 1e-6,
        },
    );
    case.name += " not finite";
    case
}
