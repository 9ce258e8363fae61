//! Layers of a recipe: defaults, a built-in, a user's file, flags; merged as TOML tables, read once.
use super::Recipe;
use crate::error::Result;

/// The built-in recipes by name.
pub const BUILT_IN: &[(&str, &str)] = &[("vit-lora", include_str!("vit-lora.toml"))];

/// The built-in recipe `name` on top of the defaults.
pub fn built_in(_name: &str) -> Result<Recipe> {
    todo!()
}

/// Merges `layers` (lowest first) into one recipe.
pub fn resolve(_layers: &[toml::Table]) -> Result<Recipe> {
    todo!()
}
