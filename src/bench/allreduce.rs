//! The sum over ranks, by size, in the columns of NVIDIA's nccl-tests: the bus bandwidth is the rate at which a ring of n ranks
//! moves data over each link, 2(n-1)/n times size over time.

use std::time::Instant;

use candle_core::{Device, Tensor};

use super::spread::Spread;
use super::{Figure, Report};
use crate::collective::Collective;
use crate::error::Result;

/// What is measured.
pub struct AllReduce {
    /// f32 values of the smallest and the largest sum; each size is `factor` times the one before it.
    pub least: usize,
    pub most: usize,
    pub factor: usize,
    /// Sizes besides these.
    pub also: Vec<usize>,
    pub rounds: usize,
}

impl AllReduce {
    /// Counts of values, ascending.
    fn sizes(&self) -> Vec<usize> {
        let mut sizes = self.also.clone();
        let mut size = self.least.max(1);
        while size <= self.most {
            sizes.push(size);
            size *= self.factor.max(2);
        }
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }
}

/// Every rank must call it; the report is the same on all, since a round takes as long as its slowest rank.
pub fn allreduce(what: &AllReduce, collective: &dyn Collective, device: &Device) -> Result<Report> {
    let mut report = Report::new(
        "allreduce",
        &[
            "size B",
            "count",
            "type",
            "redop",
            "time us",
            "algbw GB/s",
            "busbw GB/s",
            "#wrong",
        ],
    );
    let world = collective.world();
    report.setting("ranks", world);
    report.setting("engine", if device.is_cuda() { "NCCL" } else { "MPI" });
    report.setting("rounds", format!("{}, median [least-most]", what.rounds));
    for count in what.sizes() {
        let given: Vec<f32> = (0..count).map(|i| given(i, collective.rank())).collect();
        let (mut times, mut wrong) = (Vec::new(), 0);
        for round in 0..=what.rounds {
            let values = Tensor::from_slice(&given, count, device)?;
            device.synchronize()?;
            // Who waits long at the first sleeps now and then, and may come late; at the second all are awake.
            collective.barrier()?;
            collective.barrier()?;
            let begun = Instant::now();
            collective.sum_tensor(&values)?;
            device.synchronize()?;
            let mut slowest = vec![0.0; world];
            slowest[collective.rank()] = begun.elapsed().as_secs_f64();
            collective.sum_f64(&mut slowest)?;
            if round > 0 {
                times.push(slowest.into_iter().fold(0.0, f64::max));
            }
            let sums = values.to_vec1::<f32>()?;
            wrong += (0..count).filter(|&i| sums[i] != expected(i, world)).count();
        }
        let mut wrongs = [wrong as f64];
        collective.sum_f64(&mut wrongs)?;
        let bytes = 4 * count;
        let seconds = Spread::of(times);
        let bandwidth = 1e-9 * bytes as f64 / seconds.median;
        report.row(vec![
            Figure::Count(bytes as u64),
            Figure::Count(count as u64),
            Figure::Text("float".to_owned()),
            Figure::Text("sum".to_owned()),
            Figure::Spread(seconds.times(1e6), 1),
            Figure::Number(bandwidth, 2),
            Figure::Number(bandwidth * 2.0 * (world - 1) as f64 / world as f64, 2),
            Figure::Count(wrongs[0] as u64),
        ]);
    }
    Ok(report)
}

/// What rank `rank` gives at place `i`: whole numbers, so that sums are exact in any order.
fn given(i: usize, rank: usize) -> f32 {
    (i % 1009 + rank) as f32
}

fn expected(i: usize, world: usize) -> f32 {
    (world * (i % 1009) + world * (world - 1) / 2) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::Single;

    #[test]
    fn sizes_grow_by_the_factor() {
        let what = AllReduce {
            least: 1,
            most: 1000,
            factor: 10,
            also: vec![77, 100],
            rounds: 1,
        };
        assert_eq!(what.sizes(), [1, 10, 77, 100, 1000]);
    }

    #[test]
    fn sums_are_verified() {
        for world in 1..5 {
            let sum: f32 = (0..world).map(|rank| given(2000, rank)).sum();
            assert_eq!(sum, expected(2000, world));
        }
        let what = AllReduce {
            least: 8,
            most: 64,
            factor: 8,
            also: Vec::new(),
            rounds: 2,
        };
        let report = allreduce(&what, &Single, &Device::Cpu).unwrap();
        assert_eq!(report.table.rows.len(), 2);
        assert!(report.table.rows.iter().all(|row| row[7] == Figure::Count(0)));
    }
}
