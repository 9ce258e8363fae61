//! `dtrain recipes [NAME]`: the list of built-in recipes, or one with all its values.

use crate::error::Result;
use crate::recipe::{BUILT_IN, Layer, named, resolve};

/// What is printed: without a name the list, with one (or a TOML file) the resolved recipe as TOML.
pub fn show(name: Option<&str>) -> Result<String> {
    match name {
        None => Ok(BUILT_IN.iter().map(|(name, text)| line(name, text)).collect()),
        Some(name) => {
            let mut layers = named(name)?;
            // A file that leaves model or dataset to the command line can be looked at, too.
            layers.insert(0, placeholders());
            resolve(&layers).map(|recipe| recipe.to_toml())
        }
    }
}

/// A recipe's name and the first line of its comment.
fn line(name: &str, text: &str) -> String {
    let about = text.lines().next().unwrap_or_default().trim_start_matches('#').trim();
    format!("{name:<12} {about}\n")
}

fn placeholders() -> Layer {
    let mut values = toml::Table::new();
    for key in ["model", "dataset"] {
        values.insert(key.to_owned(), "(not named)".into());
    }
    Layer::flags(values)
}
