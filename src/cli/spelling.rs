//! Flags as people spell them: underscores are hyphens, and some of Hugging Face's names are ours.

use std::ffi::OsString;

use crate::recipe::ALIASES;

/// `--learning_rate=1e-3` becomes `--learning-rate=1e-3`; values and what follows a bare `--` stay as they are.
pub fn normalise(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut flags_end = false;
    arguments
        .map(|argument| {
            let Some(text) = argument.to_str() else { return argument };
            flags_end |= text == "--";
            match text.strip_prefix("--") {
                Some(flag) if !flags_end => flag_of(flag).into(),
                _ => argument,
            }
        })
        .collect()
}

fn flag_of(flag: &str) -> String {
    let (name, value) = match flag.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (flag, None),
    };
    let key = name.replace('-', "_");
    let key = ALIASES
        .iter()
        .find(|(alias, _)| *alias == key)
        .map_or(key.as_str(), |(_, key)| key);
    let name = key.replace('_', "-");
    match value {
        Some(value) => format!("--{name}={value}"),
        None => format!("--{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn underscores_and_hugging_faces_names_become_ours() {
        let typed = [
            "--learning_rate=1e-3",
            "--model_name_or_path",
            "a_b",
            "-n_o",
            "--",
            "--as_is",
        ];
        let normal = normalise(typed.iter().map(OsString::from));
        let expected = ["--learning-rate=1e-3", "--model", "a_b", "-n_o", "--", "--as_is"];
        assert_eq!(normal, expected.map(OsString::from));
    }

    #[test]
    fn a_value_keeps_its_underscores() {
        let normal = normalise([OsString::from("--label_column_name=coarse_label=1")].into_iter());
        assert_eq!(normal, ["--label-column-name=coarse_label=1"]);
    }
}
