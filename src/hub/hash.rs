//! What the Hub calls files by: the SHA-256 of large ones, git's name of small ones.

use std::fmt::Write;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

/// A hash in the making, of the kind that a name asks for.
pub(super) struct Hasher(Context);

impl Hasher {
    /// For checking a file of `size` bytes against its name. None: the name is no hash that we know.
    pub fn for_name(name: &str, size: u64) -> Option<Hasher> {
        let hex = name.bytes().all(|byte| byte.is_ascii_hexdigit());
        match name.len() {
            40 if hex => Some(Hasher::of_git(size)),
            64 if hex => Some(Hasher(Context::new(&SHA256))),
            _ => None,
        }
    }

    pub fn sha256() -> Hasher {
        Hasher(Context::new(&SHA256))
    }

    /// Git hashes a file behind a header with its size.
    fn of_git(size: u64) -> Hasher {
        let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        context.update(format!("blob {size}\0").as_bytes());
        Hasher(context)
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Lower-case hexadecimal digits.
    pub fn finish(self) -> String {
        let mut text = String::new();
        for byte in self.0.finish().as_ref() {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git_and_sha256sum() {
        let name_of = |name: &str, bytes: &[u8]| {
            let mut hasher = Hasher::for_name(name, bytes.len() as u64)?;
            bytes.chunks(2).for_each(|part| hasher.update(part));
            Some(hasher.finish())
        };
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        assert_eq!(name_of(git, b"hello\n").as_deref(), Some(git));
        let sha = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(name_of(sha, b"hello\n").as_deref(), Some(sha));
        assert_eq!(name_of("W/abc", b""), None);
    }
}
