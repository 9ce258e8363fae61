//! What is said of a value that is out of range, and the ranges that occur.

use std::fmt::Display;

/// A value that no run can be made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub key: &'static str,
    /// As it would be typed; empty: nothing was given.
    pub value: String,
    pub problem: String,
    pub fix: String,
}

pub enum Below {
    One,
    OneOrEqual,
}

pub fn at_least_1(key: &'static str, value: u64) -> Result<(), Violation> {
    match value {
        0 => Err(violation(key, value, "out of range", "give a whole number from 1")),
        _ => Ok(()),
    }
}

pub fn above_0(key: &'static str, value: f64) -> Result<(), Violation> {
    match value > 0.0 && value.is_finite() {
        true => Ok(()),
        false => Err(violation(key, value, "out of range", "give a number above 0")),
    }
}

pub fn from_0(key: &'static str, value: f64) -> Result<(), Violation> {
    match value >= 0.0 && value.is_finite() {
        true => Ok(()),
        false => Err(violation(key, value, "out of range", "give a number from 0")),
    }
}

pub fn within(key: &'static str, value: f64, low: f64, high: Below) -> Result<(), Violation> {
    let (inside, range) = match high {
        Below::One => (value < 1.0, "below 1"),
        Below::OneOrEqual => (value <= 1.0, "to 1"),
    };
    match value >= low && inside {
        true => Ok(()),
        false => Err(violation(
            key,
            value,
            "out of range",
            &format!("give a number from {low} {range}"),
        )),
    }
}

pub fn violation(key: &'static str, value: impl Display, problem: &str, fix: &str) -> Violation {
    Violation {
        key,
        value: value.to_string(),
        problem: problem.to_owned(),
        fix: fix.to_owned(),
    }
}
