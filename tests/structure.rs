//! The shape of the source tree: who may import whom, where unsafe code may stand, how files are made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Top to bottom: a module imports only from those after it. ARCHITECTURE.md has the reasons.
const LAYERS: [&str; 14] = [
    "cli",
    "bench",
    "train",
    "report",
    "data",
    "model",
    "nn",
    "optim",
    "hub",
    "collective",
    "ops",
    "recipe",
    "rng",
    "error",
];
/// `lib` for the allocator's settings alone.
const UNSAFE_ALLOWED: [&str; 3] = ["ops", "collective", "lib"];
const LONGEST_FILE: usize = 300;
/// Files that still have to be divided: none may join them.
const TOO_LONG: [&str; 4] = [
    "model/build.rs",
    "ops/attention.rs",
    "collective/nccl.rs",
    "ops/cuda/cublaslt.rs",
];

struct SourceFile {
    /// Relative to src/.
    path: PathBuf,
    text: String,
    /// The text without comments and without what stands in strings.
    code: String,
}

impl SourceFile {
    /// The module at the top of the crate that the file belongs to.
    fn layer(&self) -> String {
        let first = self.path.components().next().unwrap();
        Path::new(first.as_os_str())
            .file_stem()
            .unwrap()
            .to_string_lossy()
            .into_owned()
    }

    /// Number of names in the file's module path below `crate`.
    fn depth(&self) -> usize {
        let names = self.path.components().count();
        names - usize::from(self.path.file_stem().unwrap() == "mod")
    }
}

#[test]
fn imports_go_downward_only() {
    let mut wrong = Vec::new();
    for file in sources() {
        let layer = file.layer();
        let place = |name: &str| LAYERS.iter().position(|l| *l == name);
        let from = match layer.as_str() {
            // These two stand above all layers.
            "lib" | "main" => continue,
            _ => place(&layer).unwrap_or_else(|| panic!("{}: add `{layer}` to LAYERS", file.path.display())),
        };
        for name in imported_layers(&file.code, file.depth()) {
            if place(&name).is_some_and(|to| to < from) {
                wrong.push(format!("{} imports {name}", file.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that go upward:\n{}", wrong.join("\n"));
}

#[test]
fn the_import_reader_sees_every_form() {
    let code = "use crate::{ops::x, nn::{a, b}, error::Result}; fn f() { crate::train::g() } use super::super::cli::z;";
    let mut names = imported_layers(code, 2);
    names.sort();
    assert_eq!(names, ["cli", "error", "nn", "ops", "train"]);
    assert!(imported_layers("use super::cli::z; use super::super::other;", 2).is_empty());
    assert_eq!(
        strip("a /* x /* y */ z */ \"unsafe\" 'u' r#\"b\"# // c\nd 'life")
            .split_whitespace()
            .count(),
        6
    );
}

#[test]
fn unsafe_code_stands_only_where_it_may() {
    let mut wrong = Vec::new();
    for file in sources() {
        let has_unsafe = words(&file.code).any(|word| word == "unsafe");
        if has_unsafe && !UNSAFE_ALLOWED.contains(&file.layer().as_str()) {
            wrong.push(file.path.display().to_string());
        }
    }
    assert!(
        wrong.is_empty(),
        "unsafe code outside {UNSAFE_ALLOWED:?}:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<String> = rust_files(&root())
        .into_iter()
        .filter(|path| !std::fs::read_to_string(path).unwrap().starts_with("//! "))
        .map(|path| path.display().to_string())
        .collect();
    assert!(silent.is_empty(), "files without `//!` on top:\n{}", silent.join("\n"));
}

#[test]
fn a_file_is_one_idea() {
    let mut long = BTreeMap::new();
    for file in sources() {
        // Tests beside the code do not count: they are a second reading of the same idea.
        if file.path.ends_with("tests.rs") || TOO_LONG.contains(&file.path.to_str().unwrap()) {
            continue;
        }
        let lines = file.text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        if lines > LONGEST_FILE {
            long.insert(file.path.clone(), lines);
        }
    }
    assert!(long.is_empty(), "files of more than {LONGEST_FILE} lines: {long:#?}");
}

#[test]
fn names_say_what_things_are() {
    let vague = ["util", "helper", "manager", "misc"];
    let mut wrong = Vec::new();
    for file in sources() {
        let path = file.path.display().to_string();
        if vague.iter().any(|v| path.contains(v)) {
            wrong.push(path.clone());
        }
        let mut previous = "";
        for word in words(&file.code) {
            let named = ["struct", "enum", "trait", "mod", "type", "fn"].contains(&previous);
            if named
                && vague
                    .iter()
                    .any(|v| word.to_lowercase().ends_with(v) || word.to_lowercase() == format!("{v}s"))
            {
                wrong.push(format!("{path}: {previous} {word}"));
            }
            previous = word;
        }
    }
    assert!(wrong.is_empty(), "names that say nothing:\n{}", wrong.join("\n"));
}

/// Layers that `code` names after `crate::`, within `use crate::{..}`, or after as many `super::` as lead to the crate.
fn imported_layers(code: &str, depth: usize) -> Vec<String> {
    let compact: String = code
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace(" ::", "::")
        .replace(":: ", "::");
    let mut names = Vec::new();
    for (at, _) in compact.match_indices("crate::") {
        if compact[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &compact[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => names.extend(first_names(group)),
            None => names.extend(words(rest).next().map(str::to_owned)),
        }
    }
    let climb = "super::".repeat(depth);
    for (at, _) in compact.match_indices(&climb) {
        let name = words(&compact[at + climb.len()..]).next().unwrap_or_default();
        if LAYERS.contains(&name) && !compact[..at].ends_with("super::") {
            names.push(name.to_owned());
        }
    }
    names
}

/// The first name of each path in `a::b, c::{d, e}, f}`.
fn first_names(group: &str) -> Vec<String> {
    let (mut depth, mut expects, mut names) = (0, true, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expects = true,
            c if expects && (c.is_alphabetic() || c == '_') => {
                names.push(words(&group[at..]).next().unwrap().to_owned());
                expects = false;
            }
            _ => (),
        }
    }
    names
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<SourceFile> {
    let src = root().join("src");
    let files = rust_files(&src);
    assert!(files.len() > 10, "no sources at {}", src.display());
    files
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            SourceFile {
                code: strip(&text),
                path: path.strip_prefix(&src).unwrap().to_owned(),
                text,
            }
        })
        .collect()
}

/// All .rs files of the package below `folder`; hidden folders and build results are left out.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" && name != "work" && name != "shared" {
            files.extend(rust_files(&path));
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Rust code with comments taken out and literals emptied.
fn strip(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let (mut out, mut i) = (String::new(), 0);
    let starts = |i: usize, what: &str| what.chars().enumerate().all(|(k, c)| bytes.get(i + k) == Some(&c));
    while i < bytes.len() {
        if starts(i, "//") {
            while i < bytes.len() && bytes[i] != '\n' {
                i += 1;
            }
        } else if starts(i, "/*") {
            let mut depth = 0;
            while i < bytes.len() {
                if starts(i, "/*") {
                    (depth, i) = (depth + 1, i + 2);
                } else if starts(i, "*/") {
                    (depth, i) = (depth - 1, i + 2);
                    if depth == 0 {
                        break;
                    }
                } else {
                    i += 1;
                }
            }
        } else if let Some(hashes) = raw_string_at(&bytes, i) {
            let end: String = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            i += 2 + hashes;
            while i < bytes.len() && !starts(i, &end) {
                i += 1;
            }
            i += 1 + hashes;
            out.push_str("\"\"");
        } else if bytes[i] == '"' {
            i += 1;
            while i < bytes.len() && bytes[i] != '"' {
                i += 1 + usize::from(bytes[i] == '\\');
            }
            i += 1;
            out.push_str("\"\"");
        } else if bytes[i] == '\'' && (bytes.get(i + 1) == Some(&'\\') || bytes.get(i + 2) == Some(&'\'')) {
            // A character; anything else after a quote is a lifetime.
            i += 2 + usize::from(bytes[i + 1] == '\\');
            while i < bytes.len() && bytes[i] != '\'' {
                i += 1;
            }
            i += 1;
            out.push_str("''");
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    out
}

/// Number of `#` of the raw string that begins at `i`.
fn raw_string_at(text: &[char], i: usize) -> Option<usize> {
    if text[i] != 'r' || i > 0 && (text[i - 1].is_alphanumeric() && text[i - 1] != 'b' || text[i - 1] == '_') {
        return None;
    }
    let hashes = text[i + 1..].iter().take_while(|c| **c == '#').count();
    (text.get(i + 1 + hashes) == Some(&'"')).then_some(hashes)
}
