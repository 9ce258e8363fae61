//! Sums over a row in a fixed order that vectorises: sixteen lanes, four at a time, then a tree.
//!
//! A compiler may not reorder a sum of floats by itself; this order is ours, so it is the same on every machine.

const WIDTH: usize = 64;

#[inline(always)]
pub(crate) fn sum(row: &[f32]) -> f32 {
    fold(row, |total, x| total + x)
}

#[inline(always)]
pub(crate) fn sum_of_squared_differences(row: &[f32], centre: f32) -> f32 {
    fold(row, |total, x| {
        let difference = x - centre;
        difference.mul_add(difference, total)
    })
}

#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; WIDTH];
    let (a_blocks, a_rest) = a.as_chunks::<WIDTH>();
    let (b_blocks, b_rest) = b[..a.len()].as_chunks::<WIDTH>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..WIDTH {
            lanes[lane] = a[lane].mul_add(b[lane], lanes[lane]);
        }
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[lane] = a.mul_add(*b, lanes[lane]);
    }
    tree(lanes, |a, b| a + b)
}

#[inline(always)]
fn fold(row: &[f32], add: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; WIDTH];
    let (blocks, rest) = row.as_chunks::<WIDTH>();
    for block in blocks {
        for lane in 0..WIDTH {
            lanes[lane] = add(lanes[lane], block[lane]);
        }
    }
    for (lane, x) in rest.iter().enumerate() {
        lanes[lane] = add(lanes[lane], *x);
    }
    tree(lanes, |a, b| a + b)
}

#[inline(always)]
fn tree(mut lanes: [f32; WIDTH], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = WIDTH;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] = join(lanes[lane], lanes[lane + width]);
        }
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_add_up_exactly_at_every_length() {
        for n in [0, 1, 63, 64, 65, 197, 768] {
            let row: Vec<f32> = (0..n).map(|i| (i % 17) as f32 - 8.0).collect();
            assert_eq!(sum(&row), row.iter().sum::<f32>());
            assert_eq!(dot(&row, &row), row.iter().map(|x| x * x).sum::<f32>());
            let around_two: f32 = row.iter().map(|x| (x - 2.0) * (x - 2.0)).sum();
            assert_eq!(sum_of_squared_differences(&row, 2.0), around_two);
        }
    }
}
