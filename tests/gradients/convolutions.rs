//! Convolution, pooling and batch normalisation of feature maps against PyTorch's stored values and candle's autograd.

use candle_core::{DType, Tensor, Var};
use dtrain::ops::batch_norm::{self, Beside, Moments, Passes, Then};
use dtrain::ops::convolution::{self, Kernel};
use dtrain::ops::maps::Maps;
use dtrain::ops::matmul::Products;
use dtrain::ops::{pool, storage};

use super::stored::Stored;
use super::{close, random};

#[test]
fn convolutions_are_pytorchs() {
    for (name, side, stride) in [
        ("conv7s2", 7, 2),
        ("conv3s1", 3, 1),
        ("conv3s2", 3, 2),
        ("conv1s2", 1, 2),
    ] {
        let Some(case) = Stored::open(name) else { return };
        let kernel = Kernel { side, stride };
        let (x, w) = (maps(&case.get("x"), side / 2), case.get("w"));
        let y = convolution::convolution(&x, &w, kernel, Products::F32).unwrap();
        case.check("y", &y.to_bchw().unwrap());
        let gy = maps(&case.get("gy"), side / 2);
        let gx = convolution::convolution_backward(&gy, &w, kernel, x.shape(), Products::F32).unwrap();
        case.check("gx", &gx.to_bchw().unwrap());
        let gw = w.zeros_like().unwrap();
        convolution::convolution_backward_weights(&gw, &gy, &x, kernel, Products::F32).unwrap();
        case.check("gw", &gw);
    }
}

#[test]
fn max_pooling_is_pytorchs() {
    let Some(case) = Stored::open("max_pool3s2p1") else {
        return;
    };
    for margin in [0, 1] {
        let x = maps(&case.get("x"), margin);
        let (y, places) = pool::max_pool(&x, margin).unwrap();
        case.check("y", &y.to_bchw().unwrap());
        let gx = pool::max_pool_backward(&maps(&case.get("gy"), margin), &places, x.shape()).unwrap();
        case.check("gx", &gx.to_bchw().unwrap());
    }
}

#[test]
fn batch_norm_is_pytorchs() {
    let Some(case) = Stored::open("batch_norm_train") else {
        return;
    };
    let (x, gy) = (maps(&case.get("x"), 0), maps(&case.get("gy"), 1));
    let (w, b) = (case.get("w").to_vec1().unwrap(), case.get("b").to_vec1().unwrap());
    let moments = Moments::of(&batch_norm::sums(&x).unwrap(), 1e-5);
    let affine = moments.affine(&w, &b);
    let y = batch_norm::normalized(&x, &affine, Beside::Nothing, Then::AsItIs, 1).unwrap();
    case.check("y", &y.to_bchw().unwrap());
    let sums = batch_norm::gradient_sums(&gy, &x, &moments, Passes::All).unwrap();
    let gx = batch_norm::batch_norm_backward(&gy, &x, &moments, &w, &sums, Passes::All, 1).unwrap();
    case.check("gx", &gx.to_bchw().unwrap());
    let gradient = |values: Vec<f32>| storage::tensor(values, 4).unwrap();
    case.check("gb", &gradient(sums[..4].iter().map(|s| *s as f32).collect()));
    let products = sums[4..].iter().zip(&moments.rstd_c);
    case.check("gw", &gradient(products.map(|(s, rstd)| *s as f32 * rstd).collect()));
}

/// Kernels, strides, odd and even sizes, widths beside those of tiles and panels, one image and several; in bf16 of values
/// that have this format, whose products and sums are as exact.
#[test]
fn convolutions_are_autograds() {
    let cases = [
        (1, 1, [2, 5, 7], [17, 40]),
        (1, 2, [1, 6, 8], [5, 33]),
        (3, 1, [3, 7, 7], [40, 15]),
        (3, 1, [1, 1, 1], [3, 4]),
        (3, 1, [2, 16, 30], [9, 70]),
        (3, 2, [2, 8, 10], [33, 29]),
        (3, 2, [2, 8, 10], [34, 30]),
        (1, 2, [1, 6, 8], [6, 32]),
        (3, 2, [1, 9, 1], [4, 4]),
        (7, 2, [2, 16, 14], [3, 18]),
        (5, 3, [1, 10, 13], [6, 7]),
        // Many pixels, which are summed in slices.
        (1, 1, [2, 41, 67], [33, 15]),
        (3, 1, [3, 50, 41], [5, 18]),
        (7, 2, [1, 132, 136], [3, 9]),
    ];
    let both = |case| [Products::F32, Products::Bf16].map(|products| (case, products));
    for (number, (case, products)) in cases.into_iter().flat_map(both).enumerate() {
        let (side, stride, [b, h, w], [i, o]) = case;
        let kernel = Kernel { side, stride };
        let what = format!("{kernel:?} on {b}x{h}x{w}, {i} to {o}, {products:?}");
        let random = |shape: &[usize], number| match products {
            Products::F32 => random(shape, number, 1.0),
            Products::Bf16 => rounded(&random(shape, number, 1.0)),
        };
        let x = random(&[b, i, h, w], 10 * number as u32);
        let weights = random(&[o, i, side, side], 10 * number as u32 + 1);
        let double = |t: &Tensor| Var::from_tensor(&t.to_dtype(DType::F64).unwrap()).unwrap();
        let (x_var, w_var) = (double(&x), double(&weights));
        let expected = x_var.conv2d(&w_var, side / 2, stride, 1, 1).unwrap();
        let upstream = random(expected.dims(), 10 * number as u32 + 2);
        let loss = (&expected * upstream.to_dtype(DType::F64).unwrap()).unwrap().sum_all();
        let gradients = loss.unwrap().backward().unwrap();

        for slack in [0, 1] {
            let margin = side / 2 + slack;
            let (x, dz) = (maps(&x, margin), maps(&upstream, margin));
            let y = convolution::convolution(&x, &weights, kernel, products).unwrap();
            close(&what, &y.to_bchw().unwrap(), &expected, 1e-5);
            let dx = convolution::convolution_backward(&dz, &weights, kernel, x.shape(), products).unwrap();
            close(&what, &dx.to_bchw().unwrap(), gradients.get(&x_var).unwrap(), 1e-5);
            convolution::convolution_backward_into(&dx, &dz, &weights, kernel, products).unwrap();
            let twice = (gradients.get(&x_var).unwrap() * 2.0).unwrap();
            close(&what, &dx.to_bchw().unwrap(), &twice, 1e-5);
            let dw = weights.zeros_like().unwrap();
            for times in [1.0, 2.0] {
                convolution::convolution_backward_weights(&dw, &dz, &x, kernel, products).unwrap();
                let expected = (gradients.get(&w_var).unwrap() * times).unwrap();
                close(&what, &dw, &expected, 1e-5);
            }
        }
    }
}

#[test]
fn maps_without_images_give_maps_without_images() {
    let kernel = Kernel { side: 3, stride: 2 };
    let weights = random(&[4, 3, 3, 3], 0, 1.0);
    let x = maps(&random(&[0, 3, 9, 9], 1, 1.0), 1);
    let y = convolution::convolution(&x, &weights, kernel, Products::F32).unwrap();
    assert_eq!(y.to_bchw().unwrap().dims(), [0, 4, 5, 5]);
    assert_eq!(batch_norm::sums(&y).unwrap(), vec![0.0; 9]);
    assert_eq!(pool::mean_pool(&y).unwrap().dims(), [0, 4]);
}

/// A mean that is large against the deviation does not spoil the variance.
#[test]
fn the_variance_survives_a_large_mean() {
    let noise = random(&[4, 3, 20, 20], 5, 1.0);
    let x = maps(&(&noise + 1000.0).unwrap(), 0);
    let moments = Moments::of(&batch_norm::sums(&x).unwrap(), 1e-5);
    let exact = Moments::of(&batch_norm::sums(&maps(&noise, 0)).unwrap(), 1e-5);
    for channel in 0..3 {
        // The sum itself is rounded to 6e-5 (values of 1000 in f32).
        let ratio = moments.variance_c[channel] / exact.variance_c[channel];
        assert!((ratio - 1.0).abs() < 1e-4, "{ratio}");
    }
}

/// Residual, rectifier and their gradients in one piece: y = relu(norm(x) + norm(other)).
#[test]
fn rectified_sums_of_normalised_maps_are_autograds() {
    // Below, at and above multiples of the lanes that loops go by.
    [5, 16, 37].into_iter().for_each(rectified_sums_are_autograds);
}

fn rectified_sums_are_autograds(channels: usize) {
    let shape = [3, channels, 6, 7];
    let (x, other) = (random(&shape, 1, 2.0), random(&shape, 2, 1.5));
    let affines: Vec<Vec<f32>> = (0..4)
        .map(|i| random(&[channels], 3 + i, 1.0).to_vec1().unwrap())
        .collect();
    let moments = |t: &Tensor| Moments::of(&batch_norm::sums(&maps(t, 0)).unwrap(), 1e-5);
    let (first, second) = (
        moments(&x).affine(&affines[0], &affines[1]),
        moments(&other).affine(&affines[2], &affines[3]),
    );
    let beside = maps(&other, 0);
    let y = batch_norm::normalized(
        &maps(&x, 1),
        &first,
        Beside::Normalized(&beside, &second),
        Then::Rectified,
        1,
    );
    let y = y.unwrap();
    let plain = |t: &Tensor, w: &[f32], b: &[f32]| {
        let t = t.to_dtype(DType::F64).unwrap();
        let mean = t.mean_keepdim((0, 2, 3)).unwrap();
        let centred = t.broadcast_sub(&mean).unwrap();
        let variance = centred.sqr().unwrap().mean_keepdim((0, 2, 3)).unwrap();
        let normed = centred
            .broadcast_div(&(variance + 1e-5).unwrap().sqrt().unwrap())
            .unwrap();
        let column = |v: &[f32]| {
            let v = storage::tensor(v.to_vec(), (1, channels, 1, 1)).unwrap();
            v.to_dtype(DType::F64).unwrap()
        };
        normed
            .broadcast_mul(&column(w))
            .unwrap()
            .broadcast_add(&column(b))
            .unwrap()
    };
    let expected = (plain(&x, &affines[0], &affines[1]) + plain(&other, &affines[2], &affines[3])).unwrap();
    close("y", &y.to_bchw().unwrap(), &expected.relu().unwrap(), 1e-5);

    let upstream = random(&shape, 9, 1.0);
    let g = maps(&upstream, 0);
    let (of_x, first_moments) = (maps(&x, 0), moments(&x));
    let sums = batch_norm::rectified_gradient_sums(&g, &y, &of_x, &first_moments).unwrap();
    let open = expected.gt(0.0).unwrap().to_dtype(DType::F64).unwrap();
    let masked = (upstream.to_dtype(DType::F64).unwrap() * open).unwrap();
    close("g", &g.to_bchw().unwrap(), &masked, 1e-6);
    let apart = batch_norm::gradient_sums(&g, &of_x, &first_moments, Passes::All).unwrap();
    assert_eq!(sums, apart);

    // The same through the gradient of one normalisation that is rectified by itself.
    let y = batch_norm::normalized(&maps(&x, 0), &first, Beside::Nothing, Then::Rectified, 0).unwrap();
    let (moments, g) = (moments(&x), maps(&upstream, 0));
    let through = Passes::Positive(&first);
    let sums = batch_norm::gradient_sums(&g, &maps(&x, 0), &moments, through).unwrap();
    let dx = batch_norm::batch_norm_backward(&g, &maps(&x, 0), &moments, &affines[0], &sums, through, 0).unwrap();
    batch_norm::rectified_gradient_sums(&g, &y, &maps(&x, 0), &moments).unwrap();
    let x_var = Var::from_tensor(&x.to_dtype(DType::F64).unwrap()).unwrap();
    let again = plain(x_var.as_tensor(), &affines[0], &affines[1]);
    let loss = (again * g.to_bchw().unwrap().to_dtype(DType::F64).unwrap())
        .unwrap()
        .sum_all()
        .unwrap();
    close(
        "dx",
        &dx.to_bchw().unwrap(),
        loss.backward().unwrap().get(&x_var).unwrap(),
        1e-5,
    );
}

fn maps(x_bchw: &Tensor, margin: usize) -> Maps {
    Maps::from_bchw(x_bchw, margin).unwrap()
}

/// The nearest values that bf16 has.
fn rounded(x: &Tensor) -> Tensor {
    x.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap()
}
