//! `kernels/low_rank.cu` against dropout and products of the CPU.

use candle_core::Tensor;
use dtrain::ops::dropout::{Dropout, DropoutNames, add_dropped, dropout};
use dtrain::ops::launch::{self, LowRankShape};
use dtrain::ops::matmul::Factor::{Rows, Transposed};
use dtrain::ops::matmul::{Products, Write, linear, product, product_into};
use dtrain::rng::Purpose;

use super::case::{Arg, Case, Format, Tolerance};
use super::values::{normal, tensor, values};

const SEED: u64 = 77;
const EPOCH: u32 = 2;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in [Format::F16, Format::Bf16] {
        for (b, s, d, count, r) in [
            (1, 1, 64, 1, 16),
            (3, 5, 128, 2, 16),
            (2, 50, 64, 2, 32),
            (5, 33, 192, 3, 16),
            (1, 66, 64, 1, 64),
        ] {
            for probability in [0.0, 0.3] {
                let shape = Shape { b, s, d, count, r };
                cases.extend(all(shape, format, probability));
            }
        }
    }
    cases
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    b: usize,
    s: usize,
    d: usize,
    count: usize,
    r: usize,
}

/// The numbers of all kernels from the samples on.
fn names(case: &mut Case, shape: Shape, probability: f64, samples: &[u64]) -> Vec<Arg> {
    let purpose = |module| Purpose::Dropout(module).code();
    vec![
        case.input_u64(samples),
        case.input(Format::U32, [EPOCH]),
        Arg::U64(SEED),
        Arg::U32(purpose(6)),
        Arg::U32(purpose(8).wrapping_sub(purpose(6))),
        Arg::U32((probability * 65536.0).round() as u32),
        Arg::F32((1.0 / (1.0 - probability)) as f32),
        Arg::U32((shape.b * shape.s) as u32),
        Arg::U32(shape.s as u32),
        Arg::U32(shape.d as u32),
        Arg::U32(shape.count as u32),
        Arg::U32(shape.r as u32),
    ]
}

fn all(shape: Shape, format: Format, probability: f64) -> [Case; 4] {
    let Shape { b, s, d, count, r } = shape;
    let (n, all, suffix) = (b * s, count * r, format.suffix());
    let samples: Vec<u64> = (0..b as u64).map(|i| i * 0x1_0000_0001 + 5).collect();
    let named = DropoutNames {
        seed: SEED,
        epoch: EPOCH,
        samples: &samples,
    };
    let module = |i: usize| Dropout {
        probability,
        module: 6 + 2 * i as u32,
    };
    let dropped = |x: &Tensor, i: usize| match probability > 0.0 {
        true => tensor(
            &values(&dropout(x, module(i), &named).unwrap())
                .iter()
                .map(|x| format.rounded(*x))
                .collect::<Vec<_>>(),
            &[b, s, d],
        ),
        false => x.clone(),
    };
    let h = normal(format, n * d, 1);
    // A_i are apart by as much as B_i takes.
    let apart = 2 * r * d;
    let a = normal(format, count * apart, 2);
    let tail = normal(format, n * all, 3);
    let a_t = |i: usize| tensor(&a[i * apart..][..r * d], &[r, d]);
    let h_t = tensor(&h, &[b, s, d]);
    let wide = |rows: &[f32], tails: &[f32]| -> Vec<f32> {
        let rows = rows.chunks(d).zip(tails.chunks(all));
        rows.flat_map(|(row, tail)| [row, tail].concat()).collect()
    };
    let title = |what: &str| format!("low_rank_{what} {format:?} {shape:?} dropout {probability}");
    let lanes = LowRankShape { n, d };

    // u_i = dropout_i(h)·A_iᵀ.
    let mut u = vec![0.0; n * all];
    for i in 0..count {
        let of_adapter = values(&linear(&dropped(&h_t, i), &a_t(i), None, Products::F32).unwrap());
        for (row, values) in of_adapter.chunks(r).enumerate() {
            u[row * all + i * r..][..r].copy_from_slice(values);
        }
    }
    let mut forward = Case::new(title("forward"));
    let (h_wide, u_out) = (
        forward.state(format, wide(&h, &vec![9.0; n * all])),
        forward.output(format, n * all),
    );
    let mut args = vec![h_wide.clone(), u_out.clone(), forward.input(format, a.clone())];
    args.extend(names(&mut forward, shape, probability, &samples));
    args.push(Arg::U64(apart as u64));
    forward.step(format!("low_rank_forward_{suffix}"), lanes.rows(), args);
    // Sums of d products of size 1.4, added up in another order.
    let close = Tolerance::arithmetic(1e-5 * (d as f64).sqrt(), format);
    forward.expect(&h_wide, wide(&h, &u), close);
    forward.expect(&u_out, u, close);

    // dh += Σ mask_i∘(du_i·A_i).
    let du_t = |i: usize| {
        let rows = tail.chunks(all).flat_map(|row| row[i * r..][..r].to_vec());
        tensor(&rows.collect::<Vec<f32>>(), &[b, s, r])
    };
    let mut backward = Case::new(title("backward"));
    let dh = backward.state(format, wide(&h, &tail));
    let mut args = vec![dh.clone(), backward.input(format, a.clone())];
    args.extend(names(&mut backward, shape, probability, &samples));
    args.push(Arg::U64(apart as u64));
    backward.step(format!("low_rank_backward_{suffix}"), lanes.rows(), args);
    let sum = tensor(&h, &[b, s, d]);
    for i in 0..count {
        let product = product(&du_t(i), &a_t(i), Products::F32).unwrap();
        match probability > 0.0 {
            true => add_dropped(&sum, &product, module(i), &named).unwrap(),
            false => product_into(&sum, Write::Add, 1.0, Rows(&du_t(i)), Rows(&a_t(i)), Products::F32).unwrap(),
        }
    }
    // Each product of r values is rounded before its mask: up to four deviations of √r, times 1 / 0.7.
    let rounding = count as f64 * 6.0 * (r as f64).sqrt() * format.epsilon();
    backward.expect(&dh, wide(&values(&sum), &tail), Tolerance::arithmetic(rounding, format));

    // dA_i += du_iᵀ·dropout_i(h).
    let mut gradient = Case::new(title("gradient"));
    let (launch, rows, parts) = lanes.gradient();
    let partial = gradient.output(Format::F32, parts * all * d);
    let du_wide = gradient.input(format, wide(&h, &tail));
    let Arg::Buffer(du_index) = du_wide else { unreachable!() };
    let mut args = vec![
        partial.clone(),
        gradient.input(format, h.clone()),
        Arg::Within(du_index, d),
        Arg::U32(rows as u32),
        Arg::U32((d + all) as u32),
    ];
    args.extend(names(&mut gradient, shape, probability, &samples));
    gradient.step(format!("low_rank_gradient_{suffix}"), launch, args);
    let before = normal(Format::F32, count * apart, 4);
    let da = gradient.state(Format::F32, before.clone());
    gradient.step(
        "low_rank_gradient_finish",
        launch::columns(all * d),
        vec![
            da.clone(),
            partial,
            Arg::U32(parts as u32),
            Arg::U32(d as u32),
            Arg::U32(r as u32),
            Arg::U32(count as u32),
            Arg::U64(apart as u64),
        ],
    );
    let mut after = before;
    for i in 0..count {
        let of_adapter = tensor(&after[i * apart..][..r * d], &[r, d]);
        product_into(
            &of_adapter,
            Write::Add,
            1.0,
            Transposed(&du_t(i)),
            Rows(&dropped(&h_t, i)),
            Products::F32,
        )
        .unwrap();
        after[i * apart..][..r * d].copy_from_slice(&values(&of_adapter));
    }
    gradient.expect(
        &da,
        after,
        Tolerance {
            absolute: 1e-5 * (n as f64).sqrt(),
            relative: 1e-6,
        },
    );

    // scale·B of all adapters into their columns of wider rows, in two layers.
    let mut place = Case::new(title("place"));
    let (layers, b_apart, b_layer) = (2, d * r + 5, count * (d * r + 5) + 7);
    let b = normal(format, layers * b_layer, 5);
    let w = place.state(format, vec![3.0; layers * d * (d + all)]);
    let Arg::Buffer(w_index) = w else { unreachable!() };
    let mut args = vec![
        Arg::Within(w_index, d),
        place.input(format, b.clone()),
        Arg::F32(0.5),
        Arg::U32(d as u32),
        Arg::U32(r as u32),
        Arg::U32((d + all) as u32),
    ];
    args.extend([r, b_apart, d * (d + all), b_layer].map(|apart| Arg::U64(apart as u64)));
    place.step(
        format!("low_rank_place_{suffix}"),
        launch::place(d * r, count, layers),
        args,
    );
    let mut placed = vec![3.0; layers * d * (d + all)];
    for (place, to) in placed.iter_mut().enumerate() {
        let (row, column) = (place / (d + all), place % (d + all));
        if let Some(behind) = column.checked_sub(d) {
            let (layer, adapter) = (row / d, behind / r);
            *to = format.rounded(0.5 * b[layer * b_layer + adapter * b_apart + row % d * r + behind % r]);
        }
    }
    place.expect(&w, placed, Tolerance::EXACT);
    [forward, backward, gradient, place]
}
