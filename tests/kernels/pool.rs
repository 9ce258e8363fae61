//! `kernels/pool.cu` against `ops::pool`.

use dtrain::ops::launch;
use dtrain::ops::maps::Maps;
use dtrain::ops::pool;

use super::case::{Arg, Case, Format, Tolerance};
use super::values::{normal, tensor, values};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in Format::REAL {
        for shape in [[1, 1, 1, 1], [2, 5, 6, 3], [1, 8, 7, 16], [2, 3, 1, 40], [1, 2, 9, 264]] {
            cases.push(largest(format, shape, None));
            cases.push(mean(format, shape));
        }
        cases.push(largest(format, [2, 5, 6, 8], Some(3 * 8 + 5)));
        for shape in [[2, 5, 6, 8], [2, 5, 6, 3]] {
            cases.push(largest(format, shape, None).misaligned());
            cases.push(mean(format, shape).misaligned());
        }
    }
    cases
}

fn maps(values: &[f32], shape: [usize; 4]) -> Maps {
    Maps::new(tensor(values, &shape), 0).unwrap()
}

fn numbers(numbers: &[usize]) -> impl Iterator<Item = Arg> {
    numbers.iter().map(|n| Arg::U32(*n as u32))
}

/// Few different values, so that some are equal; one may be no number.
fn largest(format: Format, shape: [usize; 4], strange: Option<usize>) -> Case {
    let [b, h, w, c] = shape;
    let mut case = Case::new(format!("max_pool {format:?} {shape:?} {strange:?}"));
    let mut x: Vec<f32> = normal(Format::F32, b * h * w * c, 1)
        .iter()
        .map(|x| (2.0 * x).round())
        .collect();
    if let Some(strange) = strange {
        x[strange] = f32::NAN;
    }
    let of_x = maps(&x, shape);
    let (expected, places) = pool::max_pool(&of_x, 0).unwrap();
    let to = expected.shape();
    let (lines, pixels, count) = (to.lines, to.pixels, to.all_pixels() * c);
    let dy = normal(format, count, 2);
    let dx = pool::max_pool_backward(&maps(&dy, [b, lines, pixels, c]), &places, of_x.shape()).unwrap();
    let (y, where_from) = (case.output(format, count), case.output(Format::U8, count));
    let mut args = vec![y.clone(), where_from.clone(), case.input(format, x)];
    args.extend(numbers(&[b, lines, pixels, h, w, c]));
    case.step(
        format!("max_pool_{}", format.suffix()),
        launch::pixels(to.all_pixels(), c),
        args,
    );
    let back = case.output(format, b * h * w * c);
    let mut args = vec![back.clone(), case.input(format, dy), where_from];
    args.extend(numbers(&[b, lines, pixels, h, w, c]));
    case.step(
        format!("max_pool_backward_{}", format.suffix()),
        launch::pixels(b * h * w, c),
        args,
    );
    case.expect(&y, values(expected.values()), Tolerance::EXACT);
    case.expect(&back, values(dx.values()), Tolerance::arithmetic(0.0, format));
    case
}

fn mean(format: Format, shape: [usize; 4]) -> Case {
    let [b, h, w, c] = shape;
    let mut case = Case::new(format!("mean_pool {format:?} {shape:?}"));
    let (x, dy) = (normal(format, b * h * w * c, 1), normal(format, b * c, 2));
    let of_x = maps(&x, shape);
    let expected = values(&pool::mean_pool(&of_x).unwrap());
    let dx = pool::mean_pool_backward(&tensor(&dy, &[b, c]), of_x.shape()).unwrap();
    let (y, back) = (case.output(format, b * c), case.output(format, b * h * w * c));
    let mut args = vec![y.clone(), case.input(format, x)];
    args.extend(numbers(&[b, h * w, c]));
    case.step(format!("mean_pool_{}", format.suffix()), launch::pixels(b, c), args);
    let mut args = vec![back.clone(), case.input(format, dy)];
    args.extend(numbers(&[b, h * w, c]));
    case.step(
        format!("mean_pool_backward_{}", format.suffix()),
        launch::pixels(b * h * w, c),
        args,
    );
    case.expect(&y, expected, Tolerance::arithmetic(0.0, format));
    case.expect(&back, values(dx.values()), Tolerance::arithmetic(0.0, format));
    case
}
