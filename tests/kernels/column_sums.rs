//! `kernels/column_sums.cu` against `ops::reduce`.

use dtrain::ops::launch::{self, RowSums};
use dtrain::ops::reduce;

use super::case::{Arg, Case, Format, Tolerance};
use super::values::{normal, tensor, values};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in Format::REAL {
        for (n, d) in [(0, 8), (1, 1), (63, 5), (64, 24), (65, 257), (300, 72)] {
            cases.push(case(format, n, d));
        }
        cases.push(case(format, 70, 16).misaligned());
    }
    cases
}

fn case(format: Format, n: usize, d: usize) -> Case {
    let mut case = Case::new(format!("column_sums {format:?} {n}x{d}"));
    let (x, sums) = (normal(format, n * d, 1), normal(Format::F32, d, 2));
    let expected = tensor(&sums, &[d]);
    reduce::add_column_sums(&expected, &tensor(&x, &[n, d])).unwrap();
    let RowSums { launch, rows, parts } = RowSums::new(n, d);
    let partial = case.output(Format::F32, parts as usize * d);
    let (x, sums) = (case.input(format, x), case.state(Format::F32, sums));
    let (rows, n, d) = (Arg::U32(rows), Arg::U32(n as u32), d as u32);
    case.step(
        format!("column_sums_partial_{}", format.suffix()),
        launch,
        vec![partial.clone(), x, rows, n, Arg::U32(d)],
    );
    case.step(
        "column_sums_finish",
        launch::columns(d as usize),
        vec![sums.clone(), partial, Arg::U32(parts), Arg::U32(d)],
    );
    // Up to 300 values of size 1 in another order.
    case.expect(
        &sums,
        values(&expected),
        Tolerance {
            absolute: 2e-5,
            relative: 0.0,
        },
    );
    case
}
