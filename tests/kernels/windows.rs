//! `kernels/windows.cu` against what it says, spelled out.

use dtrain::ops::launch;

use super::case::{Arg, Case, Format, Tolerance};
use super::values::normal;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in Format::REAL {
        for windows in [
            // The stem; a 3x3 with its stride; classes of its gradient; single pixels.
            Windows::new([2, 9, 8, 3], [5, 4], [7, 7], 2, [-3, -3]),
            Windows::new([1, 7, 5, 16], [4, 3], [3, 3], 2, [-1, -1]),
            Windows::new([2, 4, 6, 24], [4, 6], [1, 2], 1, [0, 0]),
            Windows::new([2, 5, 3, 5], [4, 3], [2, 1], 1, [-1, 0]),
            Windows::new([1, 6, 5, 8], [3, 3], [1, 1], 2, [0, 0]),
        ] {
            cases.push(unfolded(format, windows, 0));
            cases.push(unfolded(format, windows, 5));
            cases.push(unfolded(format, windows, 2).misaligned());
        }
        for (c, add) in [(16, 0), (16, 1), (5, 1)] {
            cases.push(spread(format, c, add));
            cases.push(spread(format, c, add).misaligned());
        }
        for (o, i, side) in [(3, 2, 7), (5, 8, 3), (4, 16, 1)] {
            cases.push(weights(format, o, i, side));
            cases.push(weights(format, o, i, side).misaligned());
        }
        for (b, c, area) in [(2, 3, 35), (1, 8, 16), (3, 1, 1)] {
            cases.push(inside(format, b, c, area));
        }
    }
    cases
}

#[derive(Clone, Copy, Debug)]
struct Windows {
    maps: [usize; 4],
    places: [usize; 2],
    kernel: [usize; 2],
    stride: usize,
    start: [i32; 2],
}

impl Windows {
    fn new(maps: [usize; 4], places: [usize; 2], kernel: [usize; 2], stride: usize, start: [i32; 2]) -> Windows {
        Windows {
            maps,
            places,
            kernel,
            stride,
            start,
        }
    }
}

fn unfolded(format: Format, windows: Windows, first: usize) -> Case {
    let Windows {
        maps: [b, h, w, c],
        places: [lines, pixels],
        kernel: [down, across],
        stride,
        start: [y0, x0],
    } = windows;
    let mut case = Case::new(format!("{windows:?} from {first} {format:?}"));
    let x = normal(format, b * h * w * c, 1);
    let row = (down * across * c).next_multiple_of(8);
    let rows = b * lines * pixels - first;
    let mut expected = Vec::new();
    for place in first..first + rows {
        let (pixel, line, image) = (place % pixels, place / pixels % lines, place / (pixels * lines));
        let start = expected.len();
        for d in 0..down as i32 {
            for a in 0..across as i32 {
                let (y, x_at) = ((line * stride) as i32 + y0 + d, (pixel * stride) as i32 + x0 + a);
                let inside = (0..h as i32).contains(&y) && (0..w as i32).contains(&x_at);
                expected.extend((0..c).map(|channel| match inside {
                    true => x[((image * h + y as usize) * w + x_at as usize) * c + channel],
                    false => 0.0,
                }));
            }
        }
        expected.resize(start + row, 0.0);
    }
    let x = case.input(format, x);
    // The kernel for few channels takes any number, and so does, more slowly, the other.
    for kernel in ["windows", "narrow_windows"] {
        let to = case.output(format, rows * row);
        let mut args = vec![to.clone(), x.clone()];
        args.extend([lines, pixels, h, w, c, down, across, stride].map(|n| Arg::U32(n as u32)));
        args.extend([y0 as u32, x0 as u32, row as u32, first as u32, rows as u32].map(Arg::U32));
        let launch = match kernel {
            "windows" => launch::pixels(rows, c),
            _ => launch::eights(rows * row),
        };
        case.step(format!("{kernel}_{}", format.suffix()), launch, args);
        case.expect(&to, expected.clone(), Tolerance::EXACT);
    }
    case
}

/// Rows 1.. of the class of pixels (2·line + 1, 2·pixel) of images of 5x6.
fn spread(format: Format, c: usize, add: u32) -> Case {
    let (b, h, w, lines, pixels, first) = (2, 5, 6, 2, 3, 1);
    let rows = b * lines * pixels - first;
    let mut case = Case::new(format!("spread {format:?} {c} {add}"));
    let (before, from) = (normal(format, b * h * w * c, 1), normal(format, rows * c, 2));
    let mut expected = before.clone();
    for (row, from) in from.chunks(c).enumerate() {
        let place = row + first;
        let (pixel, line, image) = (place % pixels, place / pixels % lines, place / (pixels * lines));
        let to = &mut expected[((image * h + 2 * line + 1) * w + 2 * pixel) * c..][..c];
        for (to, from) in to.iter_mut().zip(from) {
            *to = format.rounded(from + if add == 1 { *to } else { 0.0 });
        }
    }
    let (dx, from) = (case.state(format, before), case.input(format, from));
    let mut args = vec![dx.clone(), from];
    args.extend([lines, pixels, h, w, c, 2, 1, 0].map(|n| Arg::U32(n as u32)));
    args.extend([add, first as u32, rows as u32].map(Arg::U32));
    case.step(format!("spread_{}", format.suffix()), launch::pixels(rows, c), args);
    case.expect(&dx, expected, Tolerance::EXACT);
    case
}

/// For the way up; for a class of every second place, last one first, on the way down; and a gradient back into their order.
fn weights(format: Format, o: usize, i: usize, side: usize) -> Case {
    let mut case = Case::new(format!("weights {format:?} {o}x{i}x{side}"));
    let taps = side * side;
    let w = normal(format, o * i * taps, 1);
    let at =
        |output: usize, input: usize, down: usize, across: usize| w[(output * i + input) * taps + down * side + across];
    let few = side.div_ceil(2);
    let (up, down) = ((taps * i).next_multiple_of(8), (few * few * o).next_multiple_of(8));
    let (mut for_up, mut for_down) = (Vec::new(), Vec::new());
    for output in 0..o {
        let start = for_up.len();
        let places = (0..side).flat_map(|d| (0..side).map(move |a| (d, a)));
        places.for_each(|(d, a)| for_up.extend((0..i).map(|input| at(output, input, d, a))));
        for_up.resize(start + up, 0.0);
    }
    for input in 0..i {
        let start = for_down.len();
        let places = (0..few).rev().flat_map(|d| (0..few).rev().map(move |a| (2 * d, 2 * a)));
        places.for_each(|(d, a)| for_down.extend((0..o).map(|output| at(output, input, d, a))));
        for_down.resize(start + down, 0.0);
    }
    let (of_o, of_i) = ((i * taps) as i32, taps as i32);
    let (k, last) = (side as i32, 2 * (few as i32 - 1));
    let packed = [
        (o, i, up, side, [of_o, of_i, 0, k, 1], for_up),
        (i, o, down, few, [of_i, of_o, last * k + last, -2 * k, -2], for_down),
    ];
    let from = case.input(format, w.clone());
    for (rows, c, row, side, strides, expected) in packed {
        let to = case.output(format, rows * row);
        let mut args = vec![to.clone(), from.clone()];
        args.extend([c, row, side, side].map(|n| Arg::U32(n as u32)));
        args.extend(strides.map(|n| Arg::U32(n as u32)));
        args.push(Arg::U64((rows * row) as u64));
        case.step(
            format!("pack_weights_{}", format.suffix()),
            launch::eights(rows * row),
            args,
        );
        case.expect(&to, expected, Tolerance::EXACT);
    }
    if format != Format::F32 {
        return case;
    }
    let (gradient, sums) = (normal(format, o * i * taps, 2), normal(format, o * up, 3));
    let expected: Vec<f32> = (0..o * i * taps)
        .map(|at| gradient[at] + sums[at / (i * taps) * up + at % taps * i + at / taps % i])
        .collect();
    let dw = case.state(format, gradient);
    let mut args = vec![dw.clone(), case.input(format, sums)];
    args.extend([taps, i, up].map(|n| Arg::U32(n as u32)));
    args.push(Arg::U64((o * i * taps) as u64));
    case.step("add_unpacked", launch::eights(o * i * taps), args);
    case.expect(&dw, expected, Tolerance::EXACT);
    case
}

fn inside(format: Format, b: usize, c: usize, area: usize) -> Case {
    let mut case = Case::new(format!("channels_inside {format:?} {b}x{c}x{area}"));
    let x = normal(format, b * c * area, 1);
    let expected: Vec<f32> = (0..x.len())
        .map(|at| x[(at / (c * area) * c + at % c) * area + at / c % area])
        .collect();
    let (y, count) = (case.output(format, x.len()), x.len());
    let args = vec![
        y.clone(),
        case.input(format, x),
        Arg::U32(c as u32),
        Arg::U32(area as u32),
        Arg::U64(count as u64),
    ];
    case.step(
        format!("channels_inside_{}", format.suffix()),
        launch::eights(count),
        args,
    );
    case.expect(&y, expected, Tolerance::EXACT);
    case
}
