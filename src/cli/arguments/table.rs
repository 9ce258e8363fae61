//! Typed flags as a layer of a recipe.

use super::Values;
use crate::error::{Error, Result};

impl Values {
    /// What was typed, as a table of recipe keys.
    pub(super) fn table(&self) -> Result<toml::Table> {
        let mut table = toml::Table::try_from(self)
            .map_err(|e| Error::usage(format!("a flag's value is no text: {e}"), "use names in UTF-8"))?;
        // Trainer's way to say "do not resume".
        if let Some(toml::Value::String(from)) = table.get("resume_from_checkpoint") {
            match from.to_ascii_lowercase().as_str() {
                "true" => drop(table.insert("resume_from_checkpoint".to_owned(), "true".into())),
                "false" | "none" => drop(table.remove("resume_from_checkpoint")),
                _ => (),
            }
        }
        Ok(table)
    }
}
