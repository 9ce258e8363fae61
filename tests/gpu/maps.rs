//! Ops on feature maps, on the GPU against the CPU: convolutions and their gradients, batch normalisation, pooling.

use candle_core::Tensor;
use dtrain::ops::batch_norm::Then;
use dtrain::ops::convolution::{
    Kernel, convolution, convolution_backward, convolution_backward_into, convolution_backward_weights,
};
use dtrain::ops::maps::Maps;
use dtrain::ops::matmul::Products;
use dtrain::ops::normalization::{self, Beside, Norm, Normalization, Passes};
use dtrain::ops::pool;

use super::ops::same;

/// Channels innermost, without a margin, wherever they lie.
fn inside(maps: &Maps) -> Tensor {
    match maps.values().device().is_cuda() {
        true => maps.values().clone(),
        false => {
            let x = maps.to_bchw().unwrap().permute((0, 2, 3, 1)).unwrap();
            x.contiguous().unwrap()
        }
    }
}

fn maps(x_bchw: &Tensor) -> Maps {
    Maps::from_bchw(x_bchw, 0).unwrap()
}

/// Pointwise ones, the stem, with and without a stride, few and many channels, one line, an even size and an odd one.
#[test]
fn convolutions_are_the_cpus() {
    let cases = [
        (1, 1, [2, 5, 7], [17, 40]),
        (1, 2, [1, 6, 9], [16, 33]),
        (3, 1, [3, 7, 7], [16, 24]),
        (3, 1, [1, 1, 1], [3, 4]),
        (3, 2, [2, 8, 11], [24, 16]),
        (3, 2, [1, 9, 1], [4, 4]),
        (7, 2, [2, 16, 13], [3, 18]),
        (5, 3, [1, 10, 13], [6, 7]),
        (1, 3, [1, 7, 8], [8, 8]),
    ];
    for (side, stride, [b, h, w], [i, o]) in cases {
        let kernel = Kernel { side, stride };
        let what = format!("{kernel:?} of {b}x{h}x{w}, {i} to {o}");
        let (lines, pixels) = (kernel.outputs(h), kernel.outputs(w));
        let (x, weights, upstream) = ([b, i, h, w], [o, i, side, side], [b, o, lines, pixels]);
        same(&what, &[&x, &weights, &upstream, &weights], &[3], |operands| {
            let [x, w, upstream, gradient] = operands else {
                unreachable!()
            };
            let margin = side / 2;
            let (x, dz) = (
                Maps::from_bchw(x, margin).unwrap(),
                Maps::from_bchw(upstream, margin).unwrap(),
            );
            let y = convolution(&x, w, kernel, Products::F32).unwrap();
            let dx = convolution_backward(&dz, w, kernel, x.shape(), Products::F32).unwrap();
            let twice = convolution_backward(&dz, w, kernel, x.shape(), Products::F32).unwrap();
            convolution_backward_into(&twice, &dz, w, kernel, Products::F32).unwrap();
            convolution_backward_weights(gradient, &dz, &x, kernel, Products::F32).unwrap();
            vec![inside(&y), inside(&dx), inside(&twice), gradient.clone()]
        });
    }
}

/// Two normalised maps, added and rectified; and one that is rectified by itself.
#[test]
fn batch_norm_is_the_cpus() {
    for (shape, c) in [([3, 20, 6, 7], 20), ([2, 64, 5, 4], 64)] {
        let operands: [&[usize]; 11] = [&shape, &shape, &shape, &[c], &[c], &[c], &[c], &[c], &[c], &[c], &[c]];
        let is_f32: Vec<usize> = (3..11).collect();
        same("batch_norm", &operands, &is_f32, |x| {
            let norm = |at: usize| Norm {
                weight_c: &x[at],
                bias_c: &x[at + 1],
                running_mean_c: &x[at + 2],
                running_variance_c: &x[at + 3],
                eps: 1e-5,
                momentum: 0.1,
            };
            let (z, other, g) = (maps(&x[0]), maps(&x[1]), maps(&x[2]));
            let train =
                |z: &Maps, at: usize| Normalization::of_batch(normalization::sums(z).unwrap(), &norm(at)).unwrap();
            let (how, how_other) = (train(&z, 3), train(&other, 7));
            let a = normalization::normalized(&z, &how, Beside::Nothing, Then::Rectified, 0).unwrap();
            let through = normalization::gradient_sums(&g, &z, &how, Passes::Positive).unwrap();
            let [gw, gb] = [x[4].zeros_like(), x[4].zeros_like()].map(Result::unwrap);
            normalization::add_weights(&gw, &gb, &through, &how).unwrap();
            let backward = |sums, passes| normalization::backward(&g, &z, &how, &x[3], sums, passes, 0).unwrap();
            let dz = backward(&through, Passes::Positive);
            let beside = Beside::Normalized(&other, &how_other);
            let y = normalization::normalized(&z, &how, beside, Then::Rectified, 0).unwrap();
            let plain = normalization::normalized(&z, &how, Beside::Maps(&other), Then::AsItIs, 0).unwrap();
            let behind = normalization::rectified_gradient_sums(&g, &y, &z, &how).unwrap();
            let dz_behind = backward(&behind, Passes::All);
            let all = [&a, &dz, &y, &plain, &g, &dz_behind].map(inside);
            let statistics = [&gw, &gb, &x[5], &x[6], &x[9]];
            all.into_iter().chain(statistics.into_iter().cloned()).collect()
        });
    }
}

#[test]
fn running_statistics_normalise_as_on_the_cpu() {
    let operands: [&[usize]; 5] = [&[2, 9, 4, 3], &[9], &[9], &[9], &[9]];
    same("running", &operands, &[1, 2, 3, 4], |x| {
        let variance = &x[4];
        // A variance is not negative.
        dtrain::ops::storage::update(variance, |v| v.iter_mut().for_each(|v| *v = v.abs() + 0.1)).unwrap();
        let norm = Norm {
            weight_c: &x[1],
            bias_c: &x[2],
            running_mean_c: &x[3],
            running_variance_c: variance,
            eps: 1e-5,
            momentum: 0.1,
        };
        let how = Normalization::running(&norm).unwrap();
        let y = normalization::normalized(&maps(&x[0]), &how, Beside::Nothing, Then::AsItIs, 0);
        vec![inside(&y.unwrap())]
    });
}

#[test]
fn pooling_is_the_cpus() {
    for (b, c, h, w) in [(2, 5, 7usize, 6usize), (1, 16, 8, 9)] {
        let (lines, pixels) = (h.div_ceil(2), w.div_ceil(2));
        let operands: [&[usize]; 3] = [&[b, c, h, w], &[b, c, lines, pixels], &[b, c]];
        same("pooling", &operands, &[], |x| {
            let of_x = maps(&x[0]);
            let (y, places) = pool::max_pool(&of_x, 0).unwrap();
            let dx = pool::max_pool_backward(&maps(&x[1]), &places, of_x.shape()).unwrap();
            let mean = pool::mean_pool(&of_x).unwrap();
            let dmean = pool::mean_pool_backward(&x[2], of_x.shape()).unwrap();
            vec![inside(&y), inside(&dx), mean, inside(&dmean)]
        });
    }
}

#[test]
fn without_images_nothing_is_computed() {
    let kernel = Kernel { side: 3, stride: 2 };
    same("no images", &[&[4, 3, 3, 3], &[4, 3, 3, 3]], &[1], |x| {
        let none = x[0].narrow(0, 0, 1).unwrap().zeros_like().unwrap();
        let none = Maps::from_bchw(&none.narrow(0, 0, 0).unwrap(), 1).unwrap();
        let y = convolution(&none, &x[0], kernel, Products::F32).unwrap();
        convolution_backward_weights(&x[1], &y, &none, kernel, Products::F32).unwrap();
        assert_eq!(y.shape().images, 0);
        assert_eq!(pool::mean_pool(&y).unwrap().dims(), [0, 4]);
        vec![x[1].clone()]
    });
}
