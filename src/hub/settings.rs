//! The environment variables that huggingface_hub listens to, read once.

use std::path::PathBuf;
use std::time::Duration;

/// How the Hub is reached, and where its files are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Without a slash at the end.
    pub endpoint: String,
    /// Directory of `models--org--name` folders.
    pub cache: PathBuf,
    pub token: Option<Token>,
    /// Nothing is asked of the network.
    pub offline: bool,
    pub quiet: bool,
    /// File of certificates (PEM) to trust instead of the usual authorities.
    pub certificates: Option<PathBuf>,
    /// How long nothing may come before a connection counts as broken.
    pub stall: Duration,
    /// The wait before the first repetition of a request; later ones double.
    pub first_wait: Duration,
}

/// A secret: it prints as dots.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

const ENDPOINT: &str = "https://huggingface.co";
const STALL: Duration = Duration::from_secs(30);
const FIRST_WAIT: Duration = Duration::from_millis(250);

impl Settings {
    /// Those of this process.
    pub fn of_this_process() -> Settings {
        Settings::read(&|name| std::env::var(name).ok())
    }

    /// `variable` looks a variable up. Empty ones count as absent.
    pub fn read(variable: &dyn Fn(&str) -> Option<String>) -> Settings {
        let get = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let first = |names: &[&str]| names.iter().find_map(|name| get(name));
        let yes = |name: &str| get(name).is_some_and(|value| is_yes(&value));
        let user = PathBuf::from(get("HOME").unwrap_or_else(|| ".".to_owned()));
        let path = |text: String| expand(&text, &user);
        let home = match (get("HF_HOME"), get("XDG_CACHE_HOME")) {
            (Some(home), _) => path(home),
            (None, Some(caches)) => path(caches).join("huggingface"),
            (None, None) => user.join(".cache/huggingface"),
        };
        let implicit = !yes("HF_HUB_DISABLE_IMPLICIT_TOKEN");
        let in_file = || {
            let file = get("HF_TOKEN_PATH").map_or_else(|| home.join("token"), path);
            std::fs::read_to_string(file).ok()
        };
        let token = first(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]).or_else(in_file);
        Settings {
            endpoint: get("HF_ENDPOINT").map_or(ENDPOINT.to_owned(), |url| url.trim().trim_end_matches('/').to_owned()),
            cache: first(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]).map_or_else(|| home.join("hub"), path),
            token: token.filter(|_| implicit).and_then(|text| Token::new(&text)),
            offline: yes("HF_HUB_OFFLINE") || yes("TRANSFORMERS_OFFLINE"),
            quiet: yes("HF_HUB_DISABLE_PROGRESS_BARS"),
            certificates: first(&["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"]).map(path),
            stall: get("HF_HUB_DOWNLOAD_TIMEOUT")
                .and_then(|seconds| seconds.trim().parse().ok())
                .filter(|seconds| *seconds > 0)
                .map_or(STALL, Duration::from_secs),
            first_wait: FIRST_WAIT,
        }
    }
}

impl Token {
    /// None if there is nothing but space.
    pub fn new(text: &str) -> Option<Token> {
        let text = text.trim();
        (!text.is_empty()).then(|| Token(text.to_owned()))
    }

    /// The value of the header `Authorization`.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token(…)")
    }
}

fn is_yes(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.trim().to_ascii_lowercase().as_str())
}

/// `~/x` below the user's home.
fn expand(text: &str, user: &std::path::Path) -> PathBuf {
    match text.strip_prefix("~/") {
        Some(rest) => user.join(rest),
        None => PathBuf::from(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Settings {
        Settings::read(&|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let cache = |variables: &[(&str, &str)]| with(variables).cache.display().to_string();
        assert_eq!(cache(&[("HOME", "/h")]), "/h/.cache/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), "/x/huggingface/hub");
        assert_eq!(
            cache(&[("HOME", "/h"), ("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "/x")]),
            "/h/hf/hub"
        );
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")]), "/c");
    }

    #[test]
    fn tokens_come_from_the_environment_or_a_file_and_are_not_printed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "hf_of_the_file\n").unwrap();
        let home = dir.path().to_str().unwrap();
        let token = |variables: &[(&str, &str)]| with(variables).token.map(|token| token.header());
        assert_eq!(token(&[("HF_HOME", home)]).as_deref(), Some("Bearer hf_of_the_file"));
        assert_eq!(
            token(&[("HF_HOME", home), ("HF_TOKEN", "hf_x")]).as_deref(),
            Some("Bearer hf_x")
        );
        assert_eq!(
            token(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]),
            None
        );
        assert_eq!(token(&[("HF_HOME", "/nowhere/at/all")]), None);
        let printed = format!("{:?}", with(&[("HF_TOKEN", "hf_secret")]));
        assert!(!printed.contains("hf_secret"), "{printed}");
    }

    #[test]
    fn switches_are_read_as_python_reads_them() {
        assert!(with(&[("HF_HUB_OFFLINE", "1")]).offline && with(&[("TRANSFORMERS_OFFLINE", "yes")]).offline);
        assert!(!with(&[("HF_HUB_OFFLINE", "0")]).offline && !with(&[]).offline);
        assert_eq!(with(&[("HF_ENDPOINT", "http://mirror/")]).endpoint, "http://mirror");
        assert_eq!(with(&[]).endpoint, ENDPOINT);
    }
}
