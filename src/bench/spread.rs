//! Repeated measurements of one thing.

/// The median of some rounds, and the extremes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    /// Of at least one value. The median of an even number of values is the mean of the two in the middle.
    pub fn of(mut values: Vec<f64>) -> Spread {
        assert!(!values.is_empty(), "a spread of nothing");
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            1 => values[middle],
            _ => 0.5 * (values[middle - 1] + values[middle]),
        };
        Spread {
            median,
            least: values[0],
            most: values[values.len() - 1],
        }
    }

    /// Of a quantity that is `scale` / this one: images per second out of seconds.
    pub fn rate(self, scale: f64) -> Spread {
        Spread {
            median: scale / self.median,
            least: scale / self.most,
            most: scale / self.least,
        }
    }

    pub fn times(self, factor: f64) -> Spread {
        Spread {
            median: self.median * factor,
            least: self.least * factor,
            most: self.most * factor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_lies_in_the_middle() {
        let odd = Spread::of(vec![3.0, 1.0, 10.0]);
        assert_eq!((odd.median, odd.least, odd.most), (3.0, 1.0, 10.0));
        assert_eq!(Spread::of(vec![4.0, 1.0]).median, 2.5);
        let rate = odd.rate(30.0);
        assert_eq!((rate.median, rate.least, rate.most), (10.0, 3.0, 30.0));
    }
}
