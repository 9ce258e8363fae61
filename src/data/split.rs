//! Which rows of which splits: `train[:10%]+validation[-500:]`, and the sizes of a held-out part.
//!
//! The rules are those of datasets' `ReadInstruction` (5.2.0, by comparison): percentages round to the closest row with
//! ties to even, negative bounds count from the end, bounds beyond the end are cut. Files are none of this file's matter.

use std::ops::Range;

use crate::error::{Error, Result};

/// One summand of a split specification.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// As typed: aliases are the caller's matter.
    pub split: String,
    from: Option<i64>,
    to: Option<i64>,
    unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Unit {
    Rows,
    /// Hundredths of the split, rounded to the closest row.
    Percent,
    /// Hundredths of the split, each of them ⌊rows / 100⌋ rows.
    WholePercent,
}

/// How much of a dataset is held out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TestSize {
    /// 0 < fraction < 1, rounded up to whole rows.
    Fraction(f64),
    /// 0 < rows < rows of the dataset.
    Rows(usize),
}

impl Slice {
    /// Reads `a[from:to]+b[from%:to%]`.
    pub fn parse_sum(text: &str) -> Result<Vec<Slice>> {
        text.split('+').map(|part| Slice::parse(part.trim(), text)).collect()
    }

    fn parse(part: &str, whole: &str) -> Result<Slice> {
        let wrong = |what: String| {
            Error::usage(
                format!("split `{whole}`: {what}"),
                "write it like train, train[:5000], train[10%:20%], train[-500:] or train+validation",
            )
        };
        let name_end = part.find(['[', '(']).unwrap_or(part.len());
        let (split, mut rest) = part.split_at(name_end);
        if !is_split_name(split) {
            return Err(wrong(format!("`{split}` is not the name of a split")));
        }
        let mut slice = Slice {
            split: split.to_owned(),
            from: None,
            to: None,
            unit: Unit::Rows,
        };
        if let Some(after) = rest.strip_prefix('[') {
            let (inside, after) = after
                .split_once(']')
                .ok_or_else(|| wrong(format!("`{part}` has no closing bracket")))?;
            let (from, to) = inside
                .split_once(':')
                .ok_or_else(|| wrong(format!("`[{inside}]` has no colon")))?;
            let (from, to) = (bound(from).map_err(&wrong)?, bound(to).map_err(&wrong)?);
            let percent = [from, to].iter().flatten().any(|bound| bound.percent);
            if percent {
                slice.unit = Unit::Percent;
                if let Some(beyond) = [from, to].iter().flatten().find(|bound| bound.value.abs() > 100) {
                    return Err(wrong(format!("{}% is not between -100% and 100%", beyond.value)));
                }
            }
            (slice.from, slice.to) = (from.map(|bound| bound.value), to.map(|bound| bound.value));
            rest = after;
        }
        match rest {
            "" => {}
            "(closest)" if slice.unit == Unit::Percent => {}
            "(pct1_dropremainder)" if slice.unit == Unit::Percent => slice.unit = Unit::WholePercent,
            _ => {
                return Err(wrong(format!(
                    "`{rest}` after `{}` means nothing",
                    part.trim_end_matches(rest)
                )));
            }
        }
        Ok(slice)
    }

    /// How many rows of the split must be known to tell which the slice takes; None: all of them.
    pub fn rows_needed(&self) -> Option<usize> {
        match (self.unit, self.from.unwrap_or(0), self.to) {
            (Unit::Rows, from, Some(to)) if 0 <= from && from < to => usize::try_from(to).ok(),
            _ => None,
        }
    }

    /// The rows that the slice takes of a split of `rows` rows; may be empty.
    pub fn range(&self, rows: usize) -> Result<Range<usize>> {
        if self.unit == Unit::WholePercent && rows < 100 {
            return Err(Error::usage(
                format!(
                    "split `{}` has {rows} rows: pct1_dropremainder leaves none of fewer than 100",
                    self.split
                ),
                "leave (pct1_dropremainder) out",
            ));
        }
        let total = rows as i64;
        let row = |bound: i64| {
            let signed = match self.unit {
                Unit::Rows => bound,
                Unit::Percent => ((bound * total) as f64 / 100.0).round_ties_even() as i64,
                Unit::WholePercent => bound * (total / 100),
            };
            let from_start = if signed < 0 { total + signed } else { signed };
            from_start.clamp(0, total) as usize
        };
        let from = self.from.map_or(0, row);
        let to = self.to.map_or(rows, row);
        Ok(from..to.max(from))
    }
}

impl TestSize {
    /// Below 1 a fraction, otherwise a whole number of rows: the two meanings that one flag has.
    pub fn from_number(size: f64) -> Result<TestSize> {
        if size > 0.0 && size < 1.0 {
            return Ok(TestSize::Fraction(size));
        }
        if size >= 1.0 && size.fract() == 0.0 && size < u32::MAX as f64 {
            return Ok(TestSize::Rows(size as usize));
        }
        Err(Error::usage(
            format!("test size {size} is neither a fraction between 0 and 1 nor a number of rows"),
            "give for example --test-size 0.1 or --test-size 500",
        ))
    }

    /// Rows held out of `rows`; both parts get at least one.
    pub fn rows_of(self, rows: usize) -> Result<usize> {
        let fits = match self {
            TestSize::Fraction(fraction) => fraction > 0.0 && fraction < 1.0,
            TestSize::Rows(test) => test > 0 && test < rows,
        };
        let test = match self {
            TestSize::Fraction(fraction) => (fraction * rows as f64).ceil() as usize,
            TestSize::Rows(test) => test,
        };
        if fits && test > 0 && test < rows {
            return Ok(test);
        }
        let given = match self {
            TestSize::Fraction(fraction) => fraction.to_string(),
            TestSize::Rows(test) => test.to_string(),
        };
        Err(Error::usage(
            format!("test size {given} of {rows} rows leaves nothing to train on, or nothing to test with"),
            format!(
                "give a fraction between 0 and 1, or a number of rows from 1 to {}",
                rows.saturating_sub(1)
            ),
        ))
    }
}

/// Letters, digits and underscores in parts joined by dots or hyphens.
fn is_split_name(name: &str) -> bool {
    name.split(['.', '-'])
        .all(|part| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_'))
}

#[derive(Clone, Copy)]
struct Bound {
    value: i64,
    percent: bool,
}

/// `-5_000`, `20%` or nothing.
fn bound(text: &str) -> Result<Option<Bound>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let (number, percent) = match text.strip_suffix('%') {
        Some(number) => (number, true),
        None => (text, false),
    };
    let (negative, digits) = match number.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, number),
    };
    let well_formed = digits
        .split('_')
        .all(|group| !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit()));
    let value: i64 = match digits.replace('_', "").parse::<i64>() {
        Ok(value) if well_formed => value,
        _ => return Err(format!("`{text}` is not a row number or a percentage")),
    };
    Ok(Some(Bound {
        value: if negative { -value } else { value },
        percent,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(text: &str, rows: usize) -> Result<Vec<Range<usize>>> {
        Slice::parse_sum(text)?.iter().map(|slice| slice.range(rows)).collect()
    }

    /// Expected values: `datasets.arrow_reader.ReadInstruction.from_spec(..).to_absolute(..)` of datasets 5.2.0.
    #[test]
    fn slices_are_those_of_datasets() {
        type Row<'a> = (&'a str, usize, &'a [(usize, usize)]);
        let table: &[Row] = &[
            ("train", 800, &[(0, 800)]),
            ("train", 5, &[(0, 5)]),
            ("train[:5000]", 800, &[(0, 800)]),
            ("train[:5000]", 5, &[(0, 5)]),
            ("train[5_0:1_00]", 800, &[(50, 100)]),
            ("train[5_0:1_00]", 5, &[(5, 5)]),
            ("train[10%:20%]", 350, &[(35, 70)]),
            ("train[10%:20%]", 10, &[(1, 2)]),
            ("train[10%:20%]", 75750, &[(7575, 15150)]),
            ("train[:10%]+train[-5%:]", 350, &[(0, 35), (332, 350)]),
            ("train[:10%]+train[-5%:]", 10, &[(0, 1), (0, 10)]),
            ("train[:10%]+train[-5%:]", 75750, &[(0, 7575), (71962, 75750)]),
            ("train[-7:]", 800, &[(793, 800)]),
            ("train[-7:]", 5, &[(0, 5)]),
            ("train[:-7]", 800, &[(0, 793)]),
            ("train[:-7]", 5, &[(0, 0)]),
            ("train[-2000:-10]", 800, &[(0, 790)]),
            ("train[-2000:-10]", 5, &[(0, 0)]),
            ("train[20:10]", 800, &[(20, 10)]),
            ("train[20:10]", 5, &[(5, 5)]),
            ("train[700:900]", 800, &[(700, 800)]),
            ("train[700:900]", 5, &[(5, 5)]),
            ("train[10:20%]", 350, &[(35, 70)]),
            ("train[10:20%]", 10, &[(1, 2)]),
            ("train[10:20%]", 75750, &[(7575, 15150)]),
            ("train[33%:66%]", 350, &[(116, 231)]),
            ("train[33%:66%]", 10, &[(3, 7)]),
            ("train[33%:66%]", 75750, &[(24998, 49995)]),
            ("train[:-33%]", 350, &[(0, 234)]),
            ("train[:-33%]", 10, &[(0, 7)]),
            ("train[:-33%]", 75750, &[(0, 50752)]),
            ("train[-1%:]", 350, &[(346, 350)]),
            ("train[-1%:]", 10, &[(0, 10)]),
            ("train[-1%:]", 75750, &[(74992, 75750)]),
            ("train[:1%]", 350, &[(0, 4)]),
            ("train[:1%]", 10, &[(0, 0)]),
            ("train[:1%]", 75750, &[(0, 758)]),
            ("train[:100%]", 350, &[(0, 350)]),
            ("train[:100%]", 10, &[(0, 10)]),
            ("train[:100%]", 75750, &[(0, 75750)]),
            ("train[-100%:]", 350, &[(0, 350)]),
            ("train[-100%:]", 10, &[(0, 10)]),
            ("train[-100%:]", 75750, &[(0, 75750)]),
            ("train[:50%](pct1_dropremainder)", 350, &[(0, 150)]),
            ("train[:50%](pct1_dropremainder)", 75750, &[(0, 37850)]),
            ("train[13%:57%](closest)", 350, &[(46, 200)]),
            ("train[13%:57%](closest)", 10, &[(1, 6)]),
            ("train[13%:57%](closest)", 75750, &[(9848, 43178)]),
            ("train[0:0]", 800, &[(0, 0)]),
            ("train[0:0]", 5, &[(0, 0)]),
            ("train[:0%]", 350, &[(0, 0)]),
            ("train[:0%]", 10, &[(0, 0)]),
            ("train[:0%]", 75750, &[(0, 0)]),
        ];
        for &(text, rows, expected) in table {
            let got = ranges(text, rows).unwrap();
            // datasets lets an end lie before its start; both mean no row.
            let expected: Vec<_> = expected.iter().map(|&(from, to)| from..to.max(from)).collect();
            assert_eq!(got, expected, "{text} of {rows}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "+",
            "train+",
            "train[",
            "train[5]",
            "train[:5",
            "train[:5]x",
            "train[a:]",
            "train[:1.5%]",
            "train[:_]",
            "train[:5__0]",
            "train[:_5]",
            "train[:101%]",
            "train[-101%:]",
            "train[:5](closest)",
            "train(closest)",
            "train[:5%](nearest)",
            "tr ain",
            "train[:99999999999999999999]",
            "train[--5:]",
            "train[:+5]",
        ] {
            let error = ranges(text, 1000).expect_err(text);
            assert!(error.to_string().contains("to do:"), "{error}");
        }
        assert!(ranges("train[:50%](pct1_dropremainder)", 99).is_err());
    }

    #[test]
    fn test_sizes_round_up_and_leave_something_on_both_sides() {
        assert_eq!(TestSize::Fraction(0.1).rows_of(5000).unwrap(), 500);
        assert_eq!(TestSize::Fraction(0.15).rows_of(1099).unwrap(), 165);
        assert_eq!(TestSize::Fraction(1e-9).rows_of(2).unwrap(), 1);
        assert_eq!(TestSize::Rows(9).rows_of(10).unwrap(), 9);
        for (size, rows) in [
            (TestSize::Fraction(0.0), 10),
            (TestSize::Fraction(1.0), 10),
            (TestSize::Fraction(-0.5), 10),
            (TestSize::Fraction(f64::NAN), 10),
            (TestSize::Fraction(0.5), 1),
            (TestSize::Fraction(0.95), 10),
            (TestSize::Rows(0), 10),
            (TestSize::Rows(10), 10),
            (TestSize::Rows(1), 0),
        ] {
            let error = size.rows_of(rows).expect_err("nothing left");
            assert!(error.to_string().contains("to do:"), "{size:?} of {rows}: {error}");
        }
        assert_eq!(TestSize::from_number(0.25).unwrap(), TestSize::Fraction(0.25));
        assert_eq!(TestSize::from_number(500.0).unwrap(), TestSize::Rows(500));
        for size in [0.0, -1.0, 1.5, f64::NAN, f64::INFINITY] {
            assert!(TestSize::from_number(size).is_err(), "{size}");
        }
    }
}
