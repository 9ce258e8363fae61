//! Speed of the f32 product on the shapes of a ViT training step, against the `gemm` crate in the same run.
//!
//!     cargo run --release --example matmul [-- THREADS [NAME]]
//!
//! Columns are GFLOP/s: best and median of rounds in which the candidates take turns, so that whatever else the machine
//! does meets all of them alike. `packed` has its right operand laid out beforehand, as frozen weights are. Values are
//! compared, too.

use std::time::{Duration, Instant};

use dtrain::ops::gemm::{self as product, MatMut, MatRef, PackedB, Product, Products, Threads};

/// c[m,n] = a[m,k]·b[k,n]; a transposed operand lies in memory as [k,m] or [n,k].
struct Case {
    name: &'static str,
    m: usize,
    n: usize,
    k: usize,
    a: Lie,
    b: Lie,
    /// Products side by side, as the heads of attention; each is computed by one thread.
    count: usize,
    /// Distance of the operands' rows, where they are parts of wider ones.
    stride: Option<usize>,
}

#[derive(Clone, Copy, PartialEq)]
enum Lie {
    Plain,
    Transposed,
}
use Lie::{Plain, Transposed};

const fn case(name: &'static str, [m, n, k]: [usize; 3], a: Lie, b: Lie) -> Case {
    Case {
        name,
        m,
        n,
        k,
        a,
        b,
        count: 1,
        stride: None,
    }
}

const fn heads(name: &'static str, [m, n, k]: [usize; 3], a: Lie, b: Lie) -> Case {
    Case {
        count: 12,
        stride: Some(2304),
        ..case(name, [m, n, k], a, b)
    }
}

/// Images a micro-batch times tokens an image.
const ROWS: usize = 16 * 197;

const CASES: &[Case] = &[
    case("base qkv", [ROWS, 2304, 768], Plain, Transposed),
    case("base projection", [ROWS, 768, 768], Plain, Transposed),
    case("base mlp up", [ROWS, 3072, 768], Plain, Transposed),
    case("base mlp down", [ROWS, 768, 3072], Plain, Transposed),
    case("base d qkv", [ROWS, 768, 2304], Plain, Plain),
    case("base d mlp down", [ROWS, 3072, 768], Plain, Plain),
    case("base d mlp up", [ROWS, 768, 3072], Plain, Plain),
    case("base dw mlp up", [3072, 768, ROWS], Transposed, Plain),
    case("base dw projection", [768, 768, ROWS], Transposed, Plain),
    case("tiny qkv", [2 * ROWS, 576, 192], Plain, Transposed),
    case("tiny projection", [2 * ROWS, 192, 192], Plain, Transposed),
    case("tiny mlp up", [2 * ROWS, 768, 192], Plain, Transposed),
    case("tiny mlp down", [2 * ROWS, 192, 768], Plain, Transposed),
    case("tiny d qkv", [2 * ROWS, 192, 576], Plain, Plain),
    case("lora x·At", [ROWS, 16, 768], Plain, Transposed),
    case("lora u·Bt", [ROWS, 768, 16], Plain, Transposed),
    case("lora dy·B", [ROWS, 16, 768], Plain, Plain),
    case("lora dB=dyt·u", [768, 16, ROWS], Transposed, Plain),
    case("lora dA=dut·x", [16, 768, ROWS], Transposed, Plain),
    case("lora tiny x·At", [2 * ROWS, 16, 192], Plain, Transposed),
    case("lora tiny dA", [16, 192, 2 * ROWS], Transposed, Plain),
    case("cls rows", [16, 768, 768], Plain, Transposed),
    case("one image", [197, 768, 768], Plain, Transposed),
    heads("heads q·kt", [197, 197, 64], Plain, Transposed),
    heads("heads p·v", [197, 64, 197], Plain, Plain),
    heads("heads pt·do", [197, 64, 197], Transposed, Plain),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let threads: Vec<usize> = match arguments.first().map(|a| a.parse()) {
        Some(Ok(threads)) => vec![threads],
        Some(Err(_)) => fail("the first argument is a number of threads, the second a part of a case's name"),
        None => vec![1, 2],
    };
    let name = arguments.get(1).map_or("", |a| a.as_str());
    for threads in threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let Ok(pool) = pool else { fail("no threads to be had") };
        println!(
            "\n{threads} thread(s), {}, GFLOP/s, best (median)",
            product::instructions(Products::F32)
        );
        println!(
            "{:<20} {:>5} {:>5} {:>5}  {:>13} {:>13} {:>13}  {:>7} {:>6}",
            "product", "m", "n", "k", "packed", "view", "gemm crate", "packed/", "view/"
        );
        pool.install(|| {
            for case in CASES.iter().filter(|case| case.name.contains(name)) {
                measure(case);
            }
        });
    }
}

fn fail(message: &str) -> ! {
    eprintln!("{message}");
    std::process::exit(2)
}

/// The operands of a case: buffers and, for each of its products, where they start.
struct Operands {
    a: Vec<f32>,
    b: Vec<f32>,
    a_strides: (usize, usize),
    b_strides: (usize, usize),
    /// From one product to the next.
    shift: usize,
}

impl Operands {
    fn new(case: &Case) -> Self {
        let strides = |rows: usize, columns: usize, lie| match lie {
            Plain => (
                if columns == 64 {
                    case.stride.unwrap_or(64)
                } else {
                    columns
                },
                1,
            ),
            Transposed => (1, if rows == 64 { case.stride.unwrap_or(64) } else { rows }),
        };
        let (a_strides, b_strides) = (strides(case.m, case.k, case.a), strides(case.k, case.n, case.b));
        let span = |rows: usize, columns: usize, strides: (usize, usize)| {
            (rows - 1) * strides.0 + (columns - 1) * strides.1 + 1
        };
        let values = |n: usize| (0..n).map(|i| ((i * 37) % 1009) as f32 / 504.0 - 1.0).collect();
        let shift = if case.count > 1 { 64 } else { 0 };
        let more = shift * case.count;
        Operands {
            a: values(span(case.m, case.k, a_strides) + more),
            b: values(span(case.k, case.n, b_strides) + more),
            a_strides,
            b_strides,
            shift,
        }
    }

    fn a(&self, case: &Case, i: usize) -> MatRef<'_> {
        MatRef::strided(
            &self.a[i * self.shift..],
            case.m,
            case.k,
            self.a_strides.0,
            self.a_strides.1,
        )
    }

    fn b(&self, case: &Case, i: usize) -> MatRef<'_> {
        MatRef::strided(
            &self.b[i * self.shift..],
            case.k,
            case.n,
            self.b_strides.0,
            self.b_strides.1,
        )
    }
}

fn measure(case: &Case) {
    let operands = Operands::new(case);
    let packed: Vec<PackedB> = (0..case.count)
        .map(|i| PackedB::new(operands.b(case, i), Products::F32))
        .collect();
    let size = case.m * case.n;
    let mut results = vec![vec![0f32; size * case.count]; 3];
    let who = if case.count > 1 { Threads::Caller } else { Threads::Pool };
    let mut run = |candidate: usize| {
        let results = &mut results[candidate];
        let one = |(i, c): (usize, &mut [f32])| match candidate {
            0 | 1 => {
                let a = operands.a(case, i);
                let product = match candidate {
                    0 => Product::new(a, &packed[i]),
                    _ => Product::new(a, operands.b(case, i)),
                };
                product.threads(who).write(MatMut::row_major(c, case.m, case.n));
            }
            _ => crate_product(case, &operands, i, c),
        };
        if case.count > 1 {
            use rayon::prelude::*;
            results.par_chunks_mut(size).enumerate().for_each(one);
        } else {
            one((0, results));
        }
    };
    (0..3).for_each(&mut run);
    let flops = 2.0 * (case.m * case.n * case.k * case.count) as f64;
    let mut times = vec![Vec::new(); 3];
    let began = Instant::now();
    while times[0].len() < 7 || began.elapsed() < Duration::from_millis(700) && times[0].len() < 2000 {
        for (candidate, times) in times.iter_mut().enumerate() {
            let start = Instant::now();
            run(candidate);
            times.push(start.elapsed().as_secs_f64());
        }
    }
    compare(case, &results);
    let rates: Vec<(f64, f64)> = times
        .iter_mut()
        .map(|times| {
            times.sort_by(f64::total_cmp);
            (flops / times[0] / 1e9, flops / times[times.len() / 2] / 1e9)
        })
        .collect();
    let cell = |(best, median): (f64, f64)| format!("{best:.1} ({median:.1})");
    println!(
        "{:<20} {:>5} {:>5} {:>5}  {:>13} {:>13} {:>13}  {:>7.2} {:>6.2}",
        case.name,
        case.m,
        case.n,
        case.k,
        cell(rates[0]),
        cell(rates[1]),
        cell(rates[2]),
        rates[0].1 / rates[2].1,
        rates[1].1 / rates[2].1
    );
}

fn crate_product(case: &Case, operands: &Operands, i: usize, c: &mut [f32]) {
    let parallelism = match case.count {
        1 => gemm::Parallelism::Rayon(0),
        _ => gemm::Parallelism::None,
    };
    let (a, b) = (&operands.a[i * operands.shift..], &operands.b[i * operands.shift..]);
    // SAFETY: the same slices and strides that `MatRef` has checked; c holds m·n values.
    unsafe {
        gemm::gemm(
            case.m,
            case.n,
            case.k,
            c.as_mut_ptr(),
            1,
            case.n as isize,
            false,
            a.as_ptr(),
            operands.a_strides.1 as isize,
            operands.a_strides.0 as isize,
            b.as_ptr(),
            operands.b_strides.1 as isize,
            operands.b_strides.0 as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        )
    }
}

fn compare(case: &Case, results: &[Vec<f32>]) {
    for (at, (packed, other)) in results[0].iter().zip(&results[2]).enumerate() {
        let tolerance = 1e-6 * (case.k as f32) + 1e-5;
        assert!(
            (packed - other).abs() <= tolerance,
            "{}: {packed} and {other} at {at}",
            case.name
        );
    }
    assert!(results[0] == results[1], "{}: packed and not packed differ", case.name);
}
