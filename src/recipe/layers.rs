//! Layers of a recipe: defaults, a built-in, a user's file, flags; merged as TOML tables, lowest first, read once.
//!
//! Every layer remembers where it comes from, so that an error names the place of the offending value.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::Recipe;
use super::keys;
use super::validate::{self, Violation};
use crate::error::{Error, IoContext, Result};

/// The built-in recipes by name.
pub const BUILT_IN: &[(&str, &str)] = &[
    ("vit-lora", include_str!("vit-lora.toml")),
    ("image-classification", include_str!("image-classification.toml")),
    ("resnet50", include_str!("resnet50.toml")),
    ("demo-base", include_str!("demo-base.toml")),
];

const DEFAULTS: &str = include_str!("defaults.toml");

/// Some of a recipe's values, and who gave them.
#[derive(Clone, Debug)]
pub struct Layer {
    pub origin: Origin,
    pub values: Table,
}

/// Where a layer was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Defaults,
    BuiltIn(&'static str),
    File(PathBuf),
    Flags,
}

impl Layer {
    pub fn flags(values: Table) -> Self {
        Layer {
            origin: Origin::Flags,
            values,
        }
    }
}

/// The built-in recipe `name` on top of the defaults.
pub fn built_in(name: &str) -> Result<Recipe> {
    resolve(&named(name)?)
}

/// The layers of `--recipe NAME|FILE.toml`, lowest first: a file comes after whatever it extends.
pub fn named(name: &str) -> Result<Vec<Layer>> {
    let mut layers = Vec::new();
    collect(name, Path::new("."), &mut Vec::new(), &mut layers)?;
    layers.reverse();
    Ok(layers)
}

/// Merges `layers` (lowest first) over the defaults into one recipe whose values are all in range.
///
/// Errors: an unknown key, a value of the wrong type, a value out of range, with the layer that gave it.
pub fn resolve(layers: &[Layer]) -> Result<Recipe> {
    let mut merged = parse(DEFAULTS).expect("defaults.toml is TOML");
    let mut recipe = read(&merged).expect("defaults.toml is a recipe");
    for layer in layers {
        merge(&mut merged, layer)?;
        recipe = read(&merged).map_err(|e| wrong_type(&layer.origin, &e))?;
    }
    match validate::check(&recipe) {
        Ok(()) => Ok(recipe),
        Err(violation) => Err(out_of_range(layers, &violation)),
    }
}

/// `extends` chains from the top down: pushes `name`, then what it extends.
fn collect(name: &str, from: &Path, seen: &mut Vec<PathBuf>, layers: &mut Vec<Layer>) -> Result<()> {
    if let Some((name, text)) = BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
        layers.push(Layer {
            origin: Origin::BuiltIn(name),
            values: parse(text).expect("a built-in recipe is TOML"),
        });
        return Ok(());
    }
    if !name.ends_with(".toml") && !name.contains('/') {
        let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
        let fix = match keys::nearest(name, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`? A file's name ends in .toml"),
            None => format!("choose one of {}, or name a file that ends in .toml", names.join(", ")),
        };
        return Err(Error::usage(format!("there is no built-in recipe `{name}`"), fix));
    }
    let path = from.join(name);
    let text = std::fs::read_to_string(&path).at("read the recipe", &path)?;
    let path = path.canonicalize().at("find the recipe", &path)?;
    if seen.contains(&path) {
        let chain: Vec<String> = seen.iter().chain([&path]).map(|p| p.display().to_string()).collect();
        return Err(Error::usage(
            format!("recipes extend each other in a circle: {}", chain.join(" -> ")),
            "take one `extends` out",
        ));
    }
    seen.push(path.clone());
    let mut values = parse(&text).map_err(|e| {
        Error::usage(
            format!("recipe {} is not TOML: {}", path.display(), e.to_string().trim_end()),
            "write `key = value` lines; strings stand in quotes",
        )
    })?;
    let extends = values.remove("extends");
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    layers.push(Layer {
        origin: Origin::File(path.clone()),
        values,
    });
    match extends {
        None => Ok(()),
        Some(Value::String(base)) => collect(&base, &folder, seen, layers),
        Some(other) => Err(Error::usage(
            format!("recipe {}: `extends = {other}` is no name", path.display()),
            "give one recipe's name or file in quotes",
        )),
    }
}

/// Lays the values of `layer` over those of `merged`.
fn merge(merged: &mut Table, layer: &Layer) -> Result<()> {
    // `bf16 = true, fp16 = false` means bf16: what is switched off comes first.
    let mut pairs: Vec<_> = layer.values.iter().collect();
    pairs.sort_by_key(|(_, value)| value.as_bool() != Some(false));
    for (typed, value) in pairs {
        let (key, value) = keys::canonical(typed, value);
        if !keys::all().contains(&key.as_str()) {
            let fix = match keys::nearest(typed, keys::all().iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "`dtrain recipes vit-lora` shows the keys".to_owned(),
            };
            return Err(Error::usage(
                format!("{}: there is no key `{typed}`", layer.origin),
                fix,
            ));
        }
        for &lower in keys::replaced_by(&key) {
            if !layer.values.contains_key(lower) {
                match parse(DEFAULTS).ok().and_then(|mut defaults| defaults.remove(lower)) {
                    Some(default) => merged.insert(lower.to_owned(), default),
                    None => merged.remove(lower),
                };
            }
        }
        match value {
            Some(value) => merged.insert(key, value),
            None => merged.remove(&key),
        };
    }
    Ok(())
}

fn parse(text: &str) -> Result<Table, toml::de::Error> {
    text.parse()
}

fn read(merged: &Table) -> Result<Recipe, toml::de::Error> {
    merged.clone().try_into()
}

fn wrong_type(origin: &Origin, error: &toml::de::Error) -> Error {
    let text = error.to_string();
    let text = text.trim_end().replace('\n', " ");
    Error::usage(format!("{origin}: {text}"), "give the key a value of that kind")
}

fn out_of_range(layers: &[Layer], violation: &Violation) -> Error {
    let set_by = |key: &str| {
        let names_it = |layer: &&Layer| layer.values.iter().any(|(k, v)| keys::canonical(k, v).0 == key);
        layers.iter().rev().find(names_it).map(|layer| &layer.origin)
    };
    let key = violation.key;
    let what = match set_by(key) {
        Some(Origin::Flags) => format!("--{} {}: {}", key.replace('_', "-"), violation.value, violation.problem),
        Some(origin) => format!("{origin}: {key} = {}: {}", violation.value, violation.problem),
        None if violation.value.is_empty() => violation.problem.clone(),
        None => format!("{key} = {}: {}", violation.value, violation.problem),
    };
    Error::usage(what, violation.fix.clone())
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Defaults => write!(f, "the defaults"),
            Origin::BuiltIn(name) => write!(f, "recipe {name}"),
            Origin::File(path) => write!(f, "recipe {}", path.display()),
            Origin::Flags => write!(f, "command line"),
        }
    }
}
