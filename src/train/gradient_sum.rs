//! The sum of gradients over ranks, begun while the backward pass still makes the rest of them.
//!
//! Gradients become final from the back of the flat buffer to its front, since the lowest layers come first. A large buffer is
//! summed in ranges as they become final, one of small adapters in one call. Where ranges begin follows from the buffer's
//! length alone, so every rank asks for the same sums in the same order, whatever its backward pass told, or did not.

use std::ops::Range;

use candle_core::Tensor;

use crate::collective::Collective;
use crate::error::Result;

pub struct GradientSum<'a> {
    collective: &'a dyn Collective,
    gradients: &'a Tensor,
    /// Not asked for yet; the last one comes first.
    ranges: Vec<Range<usize>>,
}

/// 32 MB: long enough that a sum's latency is nothing, short enough that the last one, which nothing hides, is short.
const VALUES: usize = 8 << 20;

impl<'a> GradientSum<'a> {
    pub fn new(collective: &'a dyn Collective, gradients: &'a Tensor) -> Self {
        GradientSum::in_ranges_of(VALUES, collective, gradients)
    }

    fn in_ranges_of(values: usize, collective: &'a dyn Collective, gradients: &'a Tensor) -> Self {
        let n = gradients.elem_count();
        let all = match collective.sums_overlap() {
            true => values,
            false => n.max(1),
        };
        GradientSum {
            collective,
            gradients,
            ranges: ranges(n, all),
        }
    }

    /// Is anything summed before everything is final?
    pub fn is_in_ranges(&self) -> bool {
        self.ranges.len() > 1
    }

    /// Everything from `start` on is final.
    pub fn is_final_from(&mut self, start: usize) -> Result<()> {
        while self.ranges.len() > 1 && self.ranges.last().is_some_and(|range| range.start >= start) {
            self.begin_last()?;
        }
        Ok(())
    }

    /// Everything is final; what is asked for from now on comes after the sums.
    pub fn finish(mut self) -> Result<()> {
        while !self.ranges.is_empty() {
            self.begin_last()?;
        }
        self.collective.join_sums()
    }

    fn begin_last(&mut self) -> Result<()> {
        match self.ranges.pop() {
            Some(range) => self
                .collective
                .begin_sum(&self.gradients.narrow(0, range.start, range.len())?),
            None => Ok(()),
        }
    }
}

/// 0..n in ranges of so many values, of which the first may be longer.
fn ranges(n: usize, values: usize) -> Vec<Range<usize>> {
    let count = (n / values).max(1);
    let first = n - (count - 1) * values;
    let starts = (0..count).map(|i| if i == 0 { 0 } else { first + (i - 1) * values });
    starts
        .map(|start| match start {
            0 => 0..first,
            start => start..start + values,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    use crate::collective::{LocalRank, Single};
    use crate::ops::storage::{tensor, values};

    /// Doubles what it is given, as if another rank held the same, and notes how much that was.
    struct Twins {
        lengths: Mutex<Vec<usize>>,
        overlap: bool,
    }

    impl Collective for Twins {
        fn rank(&self) -> usize {
            0
        }
        fn world(&self) -> usize {
            2
        }
        fn local(&self) -> LocalRank {
            Single.local()
        }
        fn sum_f32(&self, values: &mut [f32]) -> Result<()> {
            self.lengths.lock().unwrap().push(values.len());
            values.iter_mut().for_each(|value| *value *= 2.0);
            Ok(())
        }
        fn sums_overlap(&self) -> bool {
            self.overlap
        }
        fn sum_f64(&self, _: &mut [f64]) -> Result<()> {
            Ok(())
        }
        fn broadcast(&self, _: &mut [u8], _: usize) -> Result<()> {
            Ok(())
        }
        fn barrier(&self) -> Result<()> {
            Ok(())
        }
        fn abort(&self, code: i32) -> ! {
            Single.abort(code)
        }
    }

    #[test]
    fn ranges_cover_everything_once() {
        for (n, values) in [(0, 4), (1, 4), (4, 4), (7, 4), (8, 4), (11, 4), (12, 4), (100, 7)] {
            let all = ranges(n, values);
            assert_eq!(all.first().unwrap().start, 0);
            assert_eq!(all.last().unwrap().end, n);
            assert!(
                all.windows(2)
                    .all(|pair| pair[0].end == pair[1].start && pair[1].len() == values)
            );
        }
    }

    /// Ranks that were told differently, or nothing, ask for the same sums, and every value is summed once, when it is final.
    #[test]
    fn what_is_told_changes_nothing_but_the_time() {
        let given: Vec<f32> = (0..10).map(|i| i as f32).collect();
        for told in [&[][..], &[9, 6, 5, 2, 0], &[0], &[10, 4]] {
            let twins = Twins {
                lengths: Mutex::default(),
                overlap: true,
            };
            let gradients = tensor(given.clone(), 10).unwrap();
            let mut sum = GradientSum::in_ranges_of(3, &twins, &gradients);
            for &start in told {
                sum.is_final_from(start).unwrap();
                let now = values(&gradients).unwrap();
                assert!((0..start).all(|i| now[i] == given[i]), "from {start}");
            }
            sum.finish().unwrap();
            assert_eq!(*twins.lengths.lock().unwrap(), [3, 3, 4]);
            let doubled: Vec<f32> = given.iter().map(|x| 2.0 * x).collect();
            assert_eq!(values(&gradients).unwrap()[..], doubled);
        }
        let twins = Twins {
            lengths: Mutex::default(),
            overlap: false,
        };
        let gradients = tensor(given, 10).unwrap();
        let mut sum = GradientSum::in_ranges_of(3, &twins, &gradients);
        sum.is_final_from(0).unwrap();
        assert!(twins.lengths.lock().unwrap().is_empty());
        sum.finish().unwrap();
        assert_eq!(*twins.lengths.lock().unwrap(), [10]);
    }
}
