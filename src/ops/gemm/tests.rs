//! Every kernel of this machine against a naive product in f64, in bf16 one of rounded operands, and the promises about bits.

use half::bf16;

use super::super::math;
use super::kernel::{Kernel, available};
use super::{Epilogue, MatMut, MatRef, PackedB, Product, Products, Right, Threads};

/// A matrix of random values in a wider buffer, with a gap at each end of a row or column.
struct Operand {
    values: Vec<f32>,
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

/// How a matrix lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    RowMajor,
    ColumnMajor,
    /// Neither stride is 1.
    Sparse,
}

const LIES: [Lie; 3] = [Lie::RowMajor, Lie::ColumnMajor, Lie::Sparse];

impl Operand {
    fn new(rows: usize, columns: usize, lie: Lie, seed: u32) -> Self {
        let (row_stride, column_stride) = match lie {
            Lie::RowMajor => (columns + 3, 1),
            Lie::ColumnMajor => (1, rows + 5),
            Lie::Sparse => (2 * columns + 7, 2),
        };
        let n = rows * row_stride + columns * column_stride + 1;
        Operand {
            values: noise(n, seed),
            rows,
            columns,
            row_stride,
            column_stride,
        }
    }

    fn view(&self) -> MatRef<'_> {
        MatRef::strided(
            &self.values,
            self.rows,
            self.columns,
            self.row_stride,
            self.column_stride,
        )
    }

    fn get(&self, i: usize, j: usize) -> f64 {
        self.values[i * self.row_stride + j * self.column_stride] as f64
    }
}

/// Uniform in [-1, 1) from a linear congruence (Knuth's MMIX constants).
fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed as u64 + 1;
    (0..n)
        .map(|_| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Writes a product into the middle of a buffer of sentinels and gives the m·n values back.
fn written(product: Product, m: usize, n: usize, old: &[f32]) -> Vec<f32> {
    const SENTINEL: f32 = -77.5;
    let stride = n + 9;
    let mut buffer = vec![SENTINEL; m * stride + 20];
    for (i, row) in old.chunks_exact(n.max(1)).enumerate() {
        buffer[10 + i * stride..][..n].copy_from_slice(row);
    }
    let end = buffer.len() - 10;
    product.write(MatMut::strided(&mut buffer[10..end], m, n, stride));
    let mut values = Vec::with_capacity(m * n);
    for (i, x) in buffer.iter().enumerate() {
        let inside = i >= 10 && (i - 10) / stride < m && (i - 10) % stride < n;
        if inside {
            values.push(*x);
        } else {
            assert_eq!(
                *x, SENTINEL,
                "something was written outside of a {m} x {n} matrix, at {i}"
            );
        }
    }
    values
}

fn with_kernel<'a>(a: MatRef<'a>, b: Right<'a>, kernel: &'static Kernel) -> Product<'a> {
    Product {
        kernel,
        ..Product::new(a, b)
    }
}

/// a·b in f64, of what the kernel multiplies, and the sum of magnitudes that bounds its error.
fn reference(kernel: &Kernel, a: &Operand, b: &Operand, i: usize, j: usize) -> (f64, f64) {
    let multiplied = |x: f64| match kernel.depth {
        1 => x,
        _ => bf16::from_f32(x as f32).to_f64(),
    };
    let products = (0..a.columns).map(|p| multiplied(a.get(i, p)) * multiplied(b.get(p, j)));
    products.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()))
}

fn check(kernel: &'static Kernel, [m, n, k]: [usize; 3], lies: [Lie; 2], alpha: f32, beta: f32) {
    let (a, b) = (Operand::new(m, k, lies[0], 1), Operand::new(k, n, lies[1], 2));
    let old = if beta == 0.0 {
        vec![f32::NAN; m * n]
    } else {
        noise(m * n, 3)
    };
    let packed = PackedB::with_kernel(&[b.view()], kernel);
    let product = |b| with_kernel(a.view(), b, kernel).alpha(alpha).beta(beta);
    let values = written(product(b.view().into()), m, n, &old);
    for i in 0..m {
        for j in 0..n {
            let (sum, size) = reference(kernel, &a, &b, i, j);
            let before = if beta == 0.0 {
                0.0
            } else {
                (beta * old[i * n + j]) as f64
            };
            let (expected, got) = (alpha as f64 * sum + before, values[i * n + j] as f64);
            // Each of k sums rounds by half a unit in the last place at most, of at most `size`; a random walk is √k.
            let tolerance = (alpha.abs() as f64 * size + before.abs()) * 6e-8 * (4.0 + (k as f64).sqrt());
            assert!(
                (expected - got).abs() <= tolerance,
                "{}: {m} x {n} x {k} {lies:?} at ({i}, {j}): {got}, not {expected}",
                kernel.name
            );
        }
    }
    let again = written(product((&packed).into()).threads(Threads::Caller), m, n, &old);
    assert_eq!(
        bits(&values),
        bits(&again),
        "{}: packed before or not, {m} x {n} x {k} {lies:?}",
        kernel.name
    );
}

#[test]
fn odd_shapes_and_all_strides() {
    let sizes = [1, 2, 5, 13, 14, 15, 16, 17, 31, 33, 47, 97];
    for kernel in available() {
        for (at, &m) in sizes.iter().enumerate() {
            for (offset, &n) in sizes.iter().enumerate() {
                let k = [0, 1, 3, 4, 7, 16, 61, 130][(at + offset) % 8];
                let a = LIES[(at + offset) % 3];
                let b = LIES[(at + 2 * offset) % 3];
                check(kernel, [m, n, k], [a, b], 1.0, 0.0);
            }
        }
        for a in LIES {
            for b in LIES {
                check(kernel, [29, 37, 53], [a, b], 0.75, 1.0);
                check(kernel, [16, 300, 41], [a, b], -2.0, 0.5);
                check(kernel, [150, 260, 33], [a, b], 1.0, 0.0);
            }
        }
    }
}

#[test]
fn several_chunks_of_k_and_several_blocks_of_rows() {
    for kernel in available() {
        check(kernel, [3, 5, 1601], [Lie::RowMajor, Lie::ColumnMajor], 1.0, 1.0);
        check(kernel, [16, 70, 3201], [Lie::ColumnMajor, Lie::RowMajor], 0.5, 0.0);
        check(kernel, [230, 40, 801], [Lie::RowMajor, Lie::RowMajor], 1.0, 2.0);
        check(kernel, [70, 290, 3333], [Lie::RowMajor, Lie::ColumnMajor], 1.0, 0.0);
    }
}

#[test]
fn empty_matrices() {
    for kernel in available() {
        for shape in [[0, 5, 3], [5, 0, 3], [0, 0, 0], [3, 3, 0]] {
            check(kernel, shape, [Lie::RowMajor, Lie::RowMajor], 1.0, 0.0);
            check(kernel, shape, [Lie::ColumnMajor, Lie::Sparse], 1.0, 1.0);
        }
    }
}

#[test]
fn whole_numbers_are_exact_on_every_kernel() {
    let (m, n, k) = (61, 100, 200);
    let whole = |n: usize, seed| noise(n, seed).iter().map(|x| (x * 8.0).trunc()).collect::<Vec<f32>>();
    let (a, b) = (whole(m * k, 1), whole(k * n, 2));
    for kernel in available() {
        let product = with_kernel(MatRef::row_major(&a, m, k), MatRef::row_major(&b, k, n).into(), kernel);
        let values = written(product, m, n, &[]);
        for (at, x) in values.iter().enumerate() {
            let (i, j) = (at / n, at % n);
            let expected: f32 = (0..k).map(|p| a[i * k + p] * b[p * n + j]).sum();
            assert_eq!(*x, expected, "{} at ({i}, {j})", kernel.name);
        }
    }
}

#[test]
fn epilogues_follow_the_last_chunk() {
    for kernel in available() {
        for [m, n, k] in [[37, 83, 19], [20, 45, 1700], [1, 1, 1], [15, 32, 0]] {
            let (a, b) = (
                Operand::new(m, k, Lie::RowMajor, 4),
                Operand::new(k, n, Lie::ColumnMajor, 5),
            );
            let (bias, old) = (noise(n, 6), noise(m * n, 7));
            let other = Operand::new(m, n, Lie::RowMajor, 8);
            let product = || with_kernel(a.view(), b.view().into(), kernel).alpha(0.5).beta(1.0);
            let plain = written(product(), m, n, &old);
            let with = |epilogue| written(product().epilogue(epilogue), m, n, &old);
            let expect = |what: &str, got: Vec<f32>, f: &dyn Fn(f32, usize, usize) -> f32| {
                for (at, (got, plain)) in got.iter().zip(&plain).enumerate() {
                    let expected = f(*plain, at / n, at % n);
                    assert_eq!(*got, expected, "{}: {what} at {at} of {m} x {n} x {k}", kernel.name);
                }
            };
            let add = |x: f32, i, j| x + other.get(i, j) as f32;
            expect("bias", with(Epilogue::default().bias(&bias)), &|x, _, j| x + bias[j]);
            expect("add", with(Epilogue::default().plus(other.view())), &add);
            let z = |i, j| other.get(i, j) as f32;
            let down = |x: f32, i, j| x * math::gelu_derivative(z(i, j));
            let backward = Epilogue::default().gelu_backward(other.view());
            expect("gelu_backward", with(backward), &down);
            let mut buffer = vec![-77.5; m * (n + 3)];
            let activation = MatMut::strided(&mut buffer, m, n, n + 3);
            let with_gelu = Epilogue::default().bias(&bias).gelu(activation);
            let argument = written(product().epilogue(with_gelu), m, n, &old);
            expect("gelu's argument", argument, &|x, _, j| x + bias[j]);
            for (at, got) in buffer.iter().enumerate() {
                let (i, j) = (at / (n + 3), at % (n + 3));
                let expected = match j < n {
                    true => math::gelu(plain[i * n + j] + bias[j]),
                    false => -77.5,
                };
                assert_eq!(*got, expected, "{}: GELU at ({i}, {j}) of {m} x {n} x {k}", kernel.name);
            }
            expect(
                "both",
                with(Epilogue::default().bias(&bias).plus(other.view())),
                &|x, i, j| add(x + bias[j], i, j),
            );
        }
    }
}

#[test]
fn what_is_not_finite_goes_where_it_belongs() {
    for kernel in available() {
        let (m, n, k) = (31, 50, 40);
        let mut a = noise(m * k, 1);
        let mut b = noise(k * n, 2);
        a[17 * k + 3] = f32::NAN;
        b[5 * n + 33] = f32::INFINITY;
        let product = with_kernel(MatRef::row_major(&a, m, k), MatRef::row_major(&b, k, n).into(), kernel);
        let values = written(product, m, n, &vec![f32::NAN; m * n]);
        for (at, x) in values.iter().enumerate() {
            let (i, j) = (at / n, at % n);
            match (i == 17, j == 33) {
                (true, _) => assert!(x.is_nan(), "{} at ({i}, {j}): {x}", kernel.name),
                (false, true) => assert!(x.is_infinite(), "{} at ({i}, {j}): {x}", kernel.name),
                (false, false) => assert!(x.is_finite(), "{} at ({i}, {j}): {x}", kernel.name),
            }
        }
    }
}

/// Pools of 1 to 5 threads and the caller alone; shapes that are divided by rows, by columns, and by both.
#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let pools: Vec<_> = (1..=5)
        .map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap())
        .collect();
    for products in [Products::F32, Products::Bf16] {
        for [m, n, k] in [[400, 65, 97], [16, 768, 1500], [90, 300, 65], [300, 200, 1700]] {
            let (a, b) = (
                Operand::new(m, k, Lie::ColumnMajor, 1),
                Operand::new(k, n, Lie::RowMajor, 2),
            );
            let (bias, old) = (noise(n, 3), noise(m * n, 4));
            let packed = PackedB::new(b.view(), products);
            let compute = |b: Right, threads| {
                let product = Product::new(a.view(), b).products(products);
                let product = product.beta(1.0).threads(threads);
                bits(&written(product.epilogue(Epilogue::default().bias(&bias)), m, n, &old))
            };
            let alone = compute(b.view().into(), Threads::Caller);
            for pool in &pools {
                assert!(
                    pool.install(|| compute(b.view().into(), Threads::Pool)) == alone,
                    "{products:?} {m} x {n} x {k}"
                );
                assert!(
                    pool.install(|| compute((&packed).into(), Threads::Pool)) == alone,
                    "{products:?} {m} x {n} x {k}, packed"
                );
            }
        }
    }
}

/// A row of a product does not know how many others there are, nor a column.
#[test]
fn the_place_in_a_matrix_does_not_change_a_bit() {
    let (m, n, k) = (64, 96, 900);
    let (a, b) = (noise(m * k, 1), noise(k * n, 2));
    for products in [Products::F32, Products::Bf16] {
        let whole = written(
            Product::new(MatRef::row_major(&a, m, k), MatRef::row_major(&b, k, n)).products(products),
            m,
            n,
            &[],
        );
        for (first, rows) in [(0, 1), (13, 2), (50, 14)] {
            let part = MatRef::row_major(&a[first * k..], rows, k);
            let columns = MatRef::row_major(&b, k, n).columns(7..90);
            let values = written(Product::new(part, columns).products(products), rows, 83, &[]);
            for (i, row) in values.chunks_exact(83).enumerate() {
                assert_eq!(bits(row), bits(&whole[(first + i) * n + 7..][..83]), "{products:?}");
            }
        }
    }
}

/// What becomes of single values on their way to a product in bf16: of A and of B, alone and in pairs.
#[test]
fn values_are_rounded_to_the_nearest_bf16() {
    const UNIT: f32 = 1.0 / 128.0;
    let table = [
        (1.0 + 0.5 * UNIT, 1.0),
        (1.0 + 1.5 * UNIT, 1.0 + 2.0 * UNIT),
        (1.0 + 0.501 * UNIT, 1.0 + UNIT),
        (-(1.0 + 0.75 * UNIT), -(1.0 + UNIT)),
        (f32::MIN_POSITIVE, f32::MIN_POSITIVE),
        (f32::MAX, f32::INFINITY),
        (-0.0, 0.0),
        (f32::NEG_INFINITY, f32::NEG_INFINITY),
    ];
    let with = |kernel: &'static Kernel, a: &[f32], b: &[f32]| {
        let k = a.len();
        let product = with_kernel(MatRef::row_major(a, 1, k), MatRef::row_major(b, k, 1).into(), kernel);
        written(product, 1, 1, &[])[0]
    };
    for kernel in available().into_iter().filter(|kernel| kernel.depth == 2) {
        for (x, rounded) in table {
            for k in [1, 2, 3, 9] {
                let mut values = vec![0.0; k];
                values[k - 1] = x;
                let ones = vec![1.0; k];
                assert_eq!(
                    with(kernel, &values, &ones),
                    rounded,
                    "{}: {x:e} of A at {k}",
                    kernel.name
                );
                assert_eq!(
                    with(kernel, &ones, &values),
                    rounded,
                    "{}: {x:e} of B at {k}",
                    kernel.name
                );
            }
        }
        let nan = f32::from_bits(0x7f80_0001);
        assert!(with(kernel, &[nan, 0.0], &[1.0, 1.0]).is_nan(), "{}", kernel.name);
        // The instruction takes it for 0, the portable product does not.
        let tiny = with(kernel, &[1e-40], &[1.0]);
        assert!(tiny == 0.0 || tiny == bf16::from_f32(1e-40).to_f32(), "{}", kernel.name);
    }
}

#[test]
#[should_panic(expected = "packed for another product")]
fn an_operand_packed_for_another_format_is_refused() {
    let values = [0.0; 4];
    let packed = PackedB::new(MatRef::row_major(&values, 1, 4), Products::Bf16);
    let mut c = [0.0; 4];
    Product::new(MatRef::row_major(&values[..1], 1, 1), &packed).write(MatMut::row_major(&mut c, 1, 4));
}

#[test]
#[should_panic(expected = "needs 12 values, not 11")]
fn views_are_checked() {
    MatRef::strided(&[0.0; 11], 3, 2, 5, 1);
}

#[test]
#[should_panic(expected = "columns of the left operand")]
fn shapes_are_checked() {
    Product::new(MatRef::row_major(&[0.0; 6], 2, 3), MatRef::row_major(&[0.0; 4], 2, 2));
}
