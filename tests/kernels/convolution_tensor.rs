//! `kernels/convolution_tensor.cu` against `ops::convolution`.

use dtrain::ops::convolution::{Kernel, convolution};
use dtrain::ops::launch::ConvolutionTiles;
use dtrain::ops::maps::Maps;
use dtrain::ops::matmul::Products;

use super::case::{Arg, Case, Format, Tolerance};
use super::values::{normal, tensor};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in [Format::F16, Format::Bf16] {
        // Less than a tile and several, all channels of a tile and some; a stride; one place of a kernel.
        for ([b, h, w, c], n, side, stride) in [
            ([1, 3, 4, 32], 8, 3, 1),
            ([2, 9, 8, 64], 72, 3, 2),
            ([1, 12, 11, 32], 128, 3, 1),
            ([3, 5, 7, 96], 33, 1, 2),
        ] {
            cases.push(whole(format, [b, h, w, c], n, Kernel { side, stride }));
        }
        for n in [64, 7] {
            cases.push(apart(format, n));
        }
    }
    cases
}

/// [o,i,k,k] and the same in the order of windows.
fn weights(format: Format, n: usize, c: usize, side: usize) -> (Vec<f32>, Vec<f32>) {
    let w = normal(format, n * c * side * side, 2);
    let taps = side * side;
    let rows = (0..n).flat_map(|row| (0..taps).flat_map(move |tap| (0..c).map(move |i| (row * c + i) * taps + tap)));
    let packed = rows.map(|at| w[at]).collect();
    (w, packed)
}

/// Channels innermost.
fn convolved(x: &[f32], [b, h, w, c]: [usize; 4], weights: &[f32], n: usize, kernel: Kernel) -> Vec<f32> {
    let x = tensor(x, &[b, h, w, c]).permute((0, 3, 1, 2)).unwrap();
    let x = Maps::from_bchw(&x.contiguous().unwrap(), kernel.padding()).unwrap();
    let y = convolution(
        &x,
        &tensor(weights, &[n, c, kernel.side, kernel.side]),
        kernel,
        Products::F32,
    )
    .unwrap();
    super::values::values(y.values())
}

/// Up to 576 products of size 1 in another order, and one rounding.
fn close(format: Format) -> Tolerance {
    Tolerance::arithmetic(1e-4, format)
}

fn whole(format: Format, shape: [usize; 4], n: usize, kernel: Kernel) -> Case {
    let [b, h, w, c] = shape;
    let mut case = Case::new(format!("convolution_tensor {format:?} {shape:?} to {n}, {kernel:?}"));
    let x = normal(format, b * h * w * c, 1);
    let (weights, packed) = weights(format, n, c, kernel.side);
    let expected = convolved(&x, shape, &weights, n, kernel);
    let (lines, pixels) = (kernel.outputs(h), kernel.outputs(w));
    let rows = b * lines * pixels;
    let tiles = ConvolutionTiles::new(rows, n);
    let y = case.output(format, rows * n);
    let mut args = vec![y.clone(), case.input(format, x), case.input(format, packed)];
    let start = -(kernel.padding() as i32) as u32;
    let sizes = [rows, n, lines, pixels, h, w, c, kernel.side, kernel.side, kernel.stride];
    args.extend(sizes.map(|size| Arg::U32(size as u32)));
    args.extend([start, start, lines as u32, pixels as u32, 1, 0, 0, 0].map(Arg::U32));
    case.step(format!("{}_{}", tiles.kernel, format.suffix()), tiles.launch, args);
    case.expect(&y, expected, close(format));
    case
}

/// Single pixels, added to the pixels (2·line + 1, 2·pixel) of maps of 8x9.
fn apart(format: Format, n: usize) -> Case {
    let (b, lines, pixels, c, to) = (2, 4, 5, 32, [8, 9]);
    let mut case = Case::new(format!("convolution_tensor {format:?} to {n} apart"));
    let x = normal(format, b * lines * pixels * c, 1);
    let (weights, packed) = weights(format, n, c, 1);
    let kernel = Kernel { side: 1, stride: 1 };
    let product = convolved(&x, [b, lines, pixels, c], &weights, n, kernel);
    let before = normal(format, b * to[0] * to[1] * n, 3);
    let mut expected = before.clone();
    for (place, product) in product.chunks(n).enumerate() {
        let (pixel, line, image) = (place % pixels, place / pixels % lines, place / (pixels * lines));
        let at = ((image * to[0] + 2 * line + 1) * to[1] + 2 * pixel) * n;
        for (to, product) in expected[at..][..n].iter_mut().zip(product) {
            *to += product;
        }
    }
    let rows = b * lines * pixels;
    let tiles = ConvolutionTiles::new(rows, n);
    let y = case.state(format, before);
    let mut args = vec![y.clone(), case.input(format, x), case.input(format, packed)];
    args.extend([rows, n, lines, pixels, lines, pixels, c, 1, 1, 1].map(|size| Arg::U32(size as u32)));
    args.extend([0, 0, to[0] as u32, to[1] as u32, 2, 1, 0, 1].map(Arg::U32));
    case.step(format!("{}_{}", tiles.kernel, format.suffix()), tiles.launch, args);
    case.expect(&y, expected, close(format));
    case
}
