//! What loading found: a diff between the file and the model, to be printed.

use std::fmt;

/// Names are those of files. Nothing that does not fit is dropped in silence.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadReport {
    /// Tensors that were read.
    pub loaded: usize,
    /// In the model, not in the file.
    pub missing: Vec<String>,
    /// In the file, not in the model.
    pub unexpected: Vec<String>,
    /// In both, with different shapes.
    pub mismatched: Vec<Mismatch>,
    /// Newly initialised.
    pub new: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    pub name: String,
    pub in_file: Vec<usize>,
    pub in_model: Vec<usize>,
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} tensors loaded", self.loaded)?;
        let mut list = |what: &str, names: &[String]| match names {
            [] => Ok(()),
            names => write!(f, "\n  {what}: {}", shortened(names)),
        };
        list("missing in the file", &self.missing)?;
        list("in the file but not used", &self.unexpected)?;
        for Mismatch {
            name,
            in_file,
            in_model,
        } in &self.mismatched
        {
            write!(
                f,
                "\n  other shape: {name} is {in_file:?} in the file, {in_model:?} in the model"
            )?;
        }
        match self.new.as_slice() {
            [] => Ok(()),
            names => write!(f, "\n  newly initialised: {}", shortened(names)),
        }
    }
}

/// The first few names, and how many more there are.
pub(super) fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 6;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_diff_names_everything() {
        let report = LoadReport {
            loaded: 198,
            missing: vec![],
            unexpected: (0..8).map(|i| format!("x{i}")).collect(),
            mismatched: vec![Mismatch {
                name: "classifier.weight".into(),
                in_file: vec![1000, 192],
                in_model: vec![5, 192],
            }],
            new: vec!["classifier.weight".into(), "classifier.bias".into()],
        };
        assert_eq!(
            report.to_string(),
            "198 tensors loaded\n  in the file but not used: x0, x1, x2, x3, x4, x5 and 2 more\n  other shape: \
             classifier.weight is [1000, 192] in the file, [5, 192] in the model\n  newly initialised: \
             classifier.weight, classifier.bias"
        );
    }
}
