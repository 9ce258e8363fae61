//! A checkpoint held against the tensors that a model has.

use super::LoadReport;
use super::report::{Mismatch, shortened};
use super::weights::Checkpoint;
use crate::error::{Error, Result};

/// A tensor of the model.
pub(super) struct Expected<'a> {
    pub name: &'a str,
    pub shape: &'a [usize],
}

/// A classifier that does not fit becomes new, a body that does not is an error. `model` is its name, for messages.
pub(super) fn fit(file: &Checkpoint, expected: &[Expected], model: &str) -> Result<LoadReport> {
    let mut report = LoadReport::default();
    for Expected { name, shape } in expected {
        match file.shape(name) {
            None => report.missing.push((*name).to_owned()),
            Some(in_file) if in_file != *shape => report.mismatched.push(Mismatch {
                name: (*name).to_owned(),
                in_file: in_file.to_vec(),
                in_model: shape.to_vec(),
            }),
            Some(_) => report.loaded += 1,
        }
    }
    let known: std::collections::HashSet<&str> = expected.iter().map(|expected| expected.name).collect();
    report.unexpected = file
        .names()
        .filter(|name| !known.contains(name))
        .map(str::to_owned)
        .collect();
    let is_head = |name: &str| name.starts_with("classifier.");
    let body_missing: Vec<String> = report.missing.iter().filter(|name| !is_head(name)).cloned().collect();
    if !body_missing.is_empty() {
        let what = format!(
            "{} tensors are missing: {}",
            body_missing.len(),
            shortened(&body_missing)
        );
        let fix = format!("give a {model} checkpoint whose config.json belongs to its weights");
        return Err(Error::model(file.path(), what, fix));
    }
    if let Some(wrong) = report.mismatched.iter().find(|mismatch| !is_head(&mismatch.name)) {
        let Mismatch {
            name,
            in_file,
            in_model,
        } = wrong;
        let what = format!("tensor {name} is {in_file:?} in the file, config.json makes it {in_model:?}");
        let fix = "correct config.json or choose another checkpoint";
        return Err(Error::model(file.path(), what, fix));
    }
    // A head that does not fit in one of its tensors is new in both.
    if !report.missing.is_empty() || !report.mismatched.is_empty() {
        let head = expected.iter().filter(|expected| is_head(expected.name));
        report.loaded -= head
            .clone()
            .filter(|expected| file.shape(expected.name) == Some(expected.shape))
            .count();
        report.new = head.map(|expected| expected.name.to_owned()).collect();
    }
    Ok(report)
}
