//! Every op on the GPU against the same op on the CPU, from the same (rounded) operands, in all number formats.
//!
//! Shapes are odd, not multiples of a block, and of one row; the kernels' own table has the rest (tests/kernels).

use candle_core::{DType, Tensor};
use dtrain::ops::adamw::{AdamWStep, Decayed, adamw};
use dtrain::ops::attention::{Attention, AttentionGradient, Wanted, attention, attention_backward};
use dtrain::ops::average::{average_into, swap};
use dtrain::ops::cast::{cast, cast_into};
use dtrain::ops::cross_entropy::cross_entropy;
use dtrain::ops::dropout::{Dropout, DropoutNames, add_dropped, dropout};
use dtrain::ops::jpeg::Rect;
use dtrain::ops::matmul::Factor::{Rows, Transposed};
use dtrain::ops::matmul::{Products, Write, linear, linear_onto, product, product_into};
use dtrain::ops::mixing::{Blend, mix};
use dtrain::ops::soft_cross_entropy::{Mixed, Targets, soft_cross_entropy};
use dtrain::ops::{gelu, layer_norm, patches, reduce, residual, storage};

use super::{FORMATS, close, random, rounded, there};

/// Runs `op` on CPU and GPU with operands of these shapes, the first `floats` of which are f32 in any case, and compares what it
/// returns.
pub fn same(what: &str, shapes: &[&[usize]], is_f32: &[usize], op: impl Fn(&[Tensor]) -> Vec<Tensor>) {
    for (dtype, tolerance) in FORMATS {
        let format = |i: usize| if is_f32.contains(&i) { DType::F32 } else { dtype };
        let operands = || {
            shapes
                .iter()
                .enumerate()
                .map(|(i, shape)| (i, random(shape, i as u32, 0.7)))
        };
        let here: Vec<Tensor> = operands().map(|(i, x)| rounded(&x, format(i))).collect();
        let gpu: Vec<Tensor> = operands().map(|(i, x)| there(&x, format(i))).collect();
        for (i, (ours, expected)) in op(&gpu).iter().zip(op(&here)).enumerate() {
            assert!(ours.device().is_cuda(), "{what}: result {i} is not on the GPU");
            close(&format!("{what} in {dtype:?}, result {i}"), ours, &expected, tolerance);
        }
    }
}

#[test]
fn layer_norm_is_the_cpus() {
    for (n, d) in [(1, 8), (37, 24), (5, 30)] {
        same("layer_norm", &[&[n, d], &[d], &[d]], &[1, 2], |x| {
            let (y, moments) = layer_norm::layer_norm(&x[0], &x[1], &x[2], 1e-12).unwrap();
            let again = layer_norm::layer_norm_again(&x[0], &moments, &x[1], &x[2]).unwrap();
            vec![y, moments.mean_n, moments.rstd_n, again]
        });
        same(
            "layer_norm_backward",
            &[&[n, d], &[n, d], &[n, d], &[d], &[d], &[d]],
            &[3, 4, 5],
            |x| {
                let [dx, dy, tokens, w, gw, gb] = x else { unreachable!() };
                let (_, moments) = layer_norm::layer_norm(tokens, w, w, 1e-12).unwrap();
                layer_norm::layer_norm_backward(dx, dy, tokens, &moments, w).unwrap();
                layer_norm::layer_norm_backward_weights(gw, gb, dy, tokens, &moments).unwrap();
                vec![dx.clone(), gw.clone(), gb.clone()]
            },
        );
    }
}

#[test]
fn gelu_is_the_cpus() {
    same("gelu", &[&[3, 7, 11], &[3, 7, 11]], &[], |x| {
        let y = gelu::gelu(&x[0]).unwrap();
        gelu::gelu_backward(&x[1], &x[0]).unwrap();
        vec![y, x[1].clone()]
    });
}

#[test]
fn products_are_the_cpus() {
    same("linear", &[&[2, 5, 12], &[7, 12], &[7]], &[], |x| {
        vec![
            linear(&x[0], &x[1], Some(&x[2]), Products::F32).unwrap(),
            linear(&x[0], &x[1], None, Products::F32).unwrap(),
        ]
    });
    same(
        "linear of columns of a wider tensor",
        &[&[2, 5, 12], &[7, 4]],
        &[],
        |x| vec![linear(&x[0].narrow(2, 4, 4).unwrap(), &x[1], None, Products::F32).unwrap()],
    );
    same(
        "linear of first tokens onto a residual",
        &[&[3, 5, 8], &[8, 6], &[8], &[3, 1, 6]],
        &[],
        |x| {
            let first = x[0].narrow(1, 0, 1).unwrap();
            vec![linear_onto(&first, &x[3], &x[1], Some(&x[2]), Products::F32).unwrap()]
        },
    );
    same("product", &[&[2, 5, 12], &[12, 9]], &[], |x| {
        vec![product(&x[0], &x[1], Products::F32).unwrap()]
    });
    same(
        "product added to columns",
        &[&[2, 5, 12], &[2, 5, 3], &[3, 4]],
        &[],
        |x| {
            let columns = x[0].narrow(2, 4, 4).unwrap();
            product_into(&columns, Write::Add, 0.5, Rows(&x[1]), Rows(&x[2]), Products::F32).unwrap();
            vec![x[0].clone()]
        },
    );
    same("gradient of weights", &[&[9, 6], &[2, 5, 9], &[2, 5, 6]], &[0], |x| {
        product_into(&x[0], Write::Add, 2.0, Transposed(&x[1]), Rows(&x[2]), Products::F32).unwrap();
        vec![x[0].clone()]
    });
    same("gradient of one row", &[&[9, 6], &[1, 1, 9], &[1, 1, 6]], &[0], |x| {
        product_into(
            &x[0],
            Write::Replace,
            1.0,
            Transposed(&x[1]),
            Rows(&x[2]),
            Products::F32,
        )
        .unwrap();
        vec![x[0].clone()]
    });
}

/// Head widths that have kernels of their own and others; all queries, or those of the first tokens only.
#[test]
fn attention_is_the_cpus() {
    // Tensor cores take f16 and bf16 of width 64, but not 900 tokens, whose backward pass shared memory does not hold.
    for (heads, e, s) in [(2, 64, 9), (3, 8, 17), (1, 64, 70), (2, 64, 197), (1, 64, 900)] {
        let d = heads * e;
        for queries in [s, 1] {
            let shapes = [vec![2, s, 3 * d], vec![2, queries, d]];
            let shapes = [&shapes[0][..], &shapes[1][..]];
            let what = format!("attention of {heads} heads of {e}, {queries} of {s} tokens");
            same(&what, &shapes, &[], |x| {
                let part = |which: usize, tokens: usize| {
                    let rows = x[0].narrow(1, 0, tokens).unwrap();
                    rows.narrow(2, which * d, d).unwrap()
                };
                let (q, k, v) = (part(0, queries), part(1, s), part(2, s));
                let operands = Attention {
                    q_bqd: &q,
                    k_bsd: &k,
                    v_bsd: &v,
                    heads,
                    products: Products::F32,
                };
                let output = attention(&operands).unwrap();
                let mut results = vec![output.o_bqd.clone(), output.log_sums_bhq.clone()];
                for wanted in [Wanted::QueryKeyValue, Wanted::QueryValue] {
                    results.extend(match attention_backward(&operands, &output, &x[1], wanted).unwrap() {
                        AttentionGradient::Together { dqkv_bsd } => vec![dqkv_bsd],
                        AttentionGradient::Apart { dq_bqd, dkv_bsd } => vec![dq_bqd, dkv_bsd],
                        AttentionGradient::WithoutKey { dq_bqd, dv_bsd } => vec![dq_bqd, dv_bsd],
                    });
                }
                results
            });
        }
    }
}

#[test]
fn tokens_are_the_cpus() {
    same("patches", &[&[2, 3, 8, 12]], &[], |x| {
        vec![patches::patches(&x[0], 4).unwrap()]
    });
    same("tokens", &[&[2, 5, 6], &[1, 1, 6], &[1, 6, 6]], &[1, 2], |x| {
        vec![patches::tokens(&x[0], &x[1], &x[2]).unwrap()]
    });
    same("tokens_backward", &[&[2, 6, 6], &[6], &[6, 6]], &[1, 2], |x| {
        let dy = patches::tokens_backward(&x[0], &x[1], &x[2]).unwrap();
        vec![dy, x[1].clone(), x[2].clone()]
    });
    same("first_tokens", &[&[3, 1, 10]], &[], |x| {
        vec![residual::first_tokens(&x[0], 4).unwrap()]
    });
    same("with_bias", &[&[3, 4, 10], &[10]], &[1], |x| {
        let first = x[0].narrow(1, 0, 1).unwrap();
        let all = residual::with_bias(&x[0], Some(&x[1])).unwrap();
        vec![
            all,
            residual::with_bias(&first, Some(&x[1])).unwrap(),
            residual::with_bias(&first, None).unwrap(),
        ]
    });
}

#[test]
fn dropout_draws_the_cpus_masks() {
    let samples = [3, 1 << 40, 7];
    let names = DropoutNames {
        seed: 5,
        epoch: 2,
        samples: &samples,
    };
    let module = Dropout {
        probability: 0.3,
        module: 4,
    };
    same("dropout", &[&[3, 5, 13], &[3, 5, 13], &[3, 1, 13]], &[], |x| {
        let y = dropout(&x[0], module, &names).unwrap();
        let first = dropout(&x[0].narrow(1, 0, 1).unwrap(), module, &names).unwrap();
        add_dropped(&x[1], &x[0], module, &names).unwrap();
        add_dropped(&x[1].narrow(1, 0, 1).unwrap(), &x[2], module, &names).unwrap();
        vec![y, first, x[1].clone()]
    });
}

#[test]
fn sums_and_scaling_are_the_cpus() {
    same("column sums", &[&[9], &[70, 9]], &[0], |x| {
        reduce::add_column_sums(&x[0], &x[1]).unwrap();
        vec![x[0].clone()]
    });
    same("scale", &[&[1001]], &[], |x| {
        reduce::scale(&x[0], 0.25).unwrap();
        vec![x[0].clone()]
    });
    let x = random(&[10_001], 1, 3.0);
    let (ours, expected) = (
        reduce::sum_of_squares(&there(&x, DType::F32)).unwrap(),
        reduce::sum_of_squares(&x).unwrap(),
    );
    assert!((ours / expected - 1.0).abs() < 1e-12, "{ours} {expected}");
    for strange in [f32::NAN, f32::INFINITY] {
        storage::update(&x, |x| x[9_999] = strange).unwrap();
        assert!(!reduce::sum_of_squares(&there(&x, DType::F32)).unwrap().is_finite());
    }
    let zeros = there(&x, DType::F16);
    reduce::set_zero(&zeros.narrow(0, 1, 10_000).unwrap()).unwrap();
    let values = storage::values(&zeros).unwrap().to_vec();
    assert!(values[0] != 0.0 && values[1..].iter().all(|x| *x == 0.0));
}

#[test]
fn casts_round_to_nearest() {
    let x = random(&[333], 9, 100.0);
    for dtype in [DType::F16, DType::BF16] {
        let half = cast(&there(&x, DType::F32), dtype).unwrap();
        close("cast", &half, &rounded(&x, dtype), 0.0);
        let into = there(&x.zeros_like().unwrap(), dtype);
        cast_into(&into, &there(&x, DType::F32)).unwrap();
        close("cast_into", &into, &half, 0.0);
        close("cast back", &cast(&half, DType::F32).unwrap(), &rounded(&x, dtype), 0.0);
    }
}

#[test]
fn the_loss_is_the_cpus() {
    let labels = [3, 0, 10, 7];
    same("cross_entropy", &[&[4, 11]], &[], |x| {
        vec![cross_entropy(&x[0], &labels, 0.1, 64.0).unwrap().dlogits_bc]
    });
    let logits = random(&[4, 11], 1, 2.0);
    let ours = cross_entropy(&there(&logits, DType::F32), &labels, 0.1, 1.0).unwrap();
    let expected = cross_entropy(&logits, &labels, 0.1, 1.0).unwrap();
    assert!((ours.sum_loss / expected.sum_loss - 1.0).abs() < 1e-6);
    assert_eq!(ours.losses.len(), 4);
    assert!(cross_entropy(&there(&logits, DType::F32), &[11, 0, 0, 0], 0.0, 1.0).is_err());
}

#[test]
fn weighted_and_mixed_losses_are_the_cpus() {
    let (labels, second_labels, weights) = ([3, 0, 10, 7], [1, 0, 4, 3], random(&[11], 5, 1.0).abs().unwrap());
    let weights = storage::values(&weights).unwrap();
    let mixed = Mixed {
        second_labels: &second_labels,
        shares: &[0.25, 0.5, 1.0, 0.0],
    };
    for (mixed, weights) in [
        (Some(mixed), None),
        (None, Some(&weights[..])),
        (Some(mixed), Some(&weights[..])),
    ] {
        let targets = Targets {
            labels: &labels,
            mixed,
            smoothing: 0.1,
            weights,
        };
        same("soft_cross_entropy", &[&[4, 11]], &[], |x| {
            vec![soft_cross_entropy(&x[0], &targets, 64.0).unwrap().dlogits_bc]
        });
        let logits = random(&[4, 11], 1, 2.0);
        let ours = soft_cross_entropy(&there(&logits, DType::F32), &targets, 1.0).unwrap();
        let expected = soft_cross_entropy(&logits, &targets, 1.0).unwrap();
        assert!((ours.sum_loss / expected.sum_loss - 1.0).abs() < 1e-6);
    }
}

#[test]
fn pictures_are_mixed_as_on_the_cpu() {
    let cut = Rect {
        x: 2,
        y: 1,
        width: 3,
        height: 4,
    };
    let blends = [
        (0, 3, 0.3, Rect::whole(0, 0)),
        (2, 1, 1.0, cut),
        (1, 1, 1.0, Rect::whole(0, 0)),
    ];
    let blends = blends.map(|(own, partner, share, cut)| Blend {
        own,
        partner,
        share,
        cut,
    });
    let x = random(&[4, 3, 6, 7], 1, 1.0);
    let ours = mix(&there(&x, DType::F32), &blends).unwrap();
    close("mix", &ours, &mix(&x, &blends).unwrap(), 0.0);
}

#[test]
fn averages_are_the_cpus() {
    let run = |buffers: &[Tensor]| {
        average_into(&buffers[0], &buffers[1], 0.99, None).unwrap();
        swap(&buffers[1], &buffers[2]).unwrap();
        buffers.to_vec()
    };
    let here = [1, 2, 3].map(|number| random(&[1001], number, 1.0));
    let gpu = run(&here.each_ref().map(|x| there(x, DType::F32)));
    for (ours, expected) in gpu.iter().zip(run(&here)) {
        close("average", ours, &expected, 0.0);
    }
}

#[test]
fn adamw_is_the_cpus() {
    let n = 1000;
    let step = AdamWStep {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
        step: 3,
    };
    let squares = |x: Tensor| x.sqr().unwrap();
    let buffers = [
        random(&[n], 1, 1.0),
        random(&[n], 2, 1.0),
        random(&[n], 3, 0.1),
        squares(random(&[n], 4, 0.1)),
    ];
    let run = |b: &[Tensor]| {
        let decayed = Decayed::new(vec![3..40, 64..999], n, b[0].device()).unwrap();
        adamw(&b[0], &b[1], &b[2], &b[3], &decayed, step).unwrap();
        [b[0].clone(), b[2].clone(), b[3].clone()]
    };
    let gpu: Vec<Tensor> = buffers.iter().map(|b| there(b, DType::F32)).collect();
    for (ours, expected) in run(&gpu).iter().zip(run(&buffers)) {
        close("adamw", ours, &expected, 1e-7);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let x = there(&random(&[4, 6], 1, 1.0), DType::F32);
    assert!(layer_norm::layer_norm(&x, &x, &x, 1e-5).is_err());
    assert!(product(&x, &x, Products::F32).is_err());
    assert!(linear(&x, &there(&random(&[3, 6], 2, 1.0), DType::F16), None, Products::F32).is_err());
    assert!(
        linear(
            &x,
            &there(&random(&[3, 6], 2, 1.0), DType::F32),
            Some(&x),
            Products::F32
        )
        .is_err()
    );
    assert!(gelu::gelu(&x.t().unwrap()).is_err());
    assert!(residual::with_bias(&x.unsqueeze(0).unwrap().narrow(1, 1, 2).unwrap(), Some(&x)).is_err());
}
