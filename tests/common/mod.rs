//! What several test programs share: where the reference material lies.

use std::path::{Path, PathBuf};

/// A file or folder of the reference material (`DTRAIN_SHARED`, else `shared` beside the checkout).
///
/// None where there is none, after saying so: a fresh clone by itself has no reference material. When `DTRAIN_SHARED` is
/// set, something missing there is a failure.
#[allow(dead_code)]
pub fn shared(path: &str) -> Option<PathBuf> {
    let set = std::env::var_os("DTRAIN_SHARED").map(PathBuf::from);
    let must_exist = set.is_some();
    let root = set.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    let full = root.join(path);
    if full.exists() {
        return Some(full);
    }
    assert!(!must_exist, "{} is missing", full.display());
    eprintln!("SKIPPED: no reference material at {}", full.display());
    None
}
