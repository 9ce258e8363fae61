//! Why a request failed, and what to do about it.

use std::time::Duration;

use ureq::http::HeaderMap;

use super::name::Repository;
use crate::error::Error;

/// A failed request.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It may go away: a server in need, a broken connection.
    Passing {
        what: String,
        /// As long as the server asks us to wait.
        wait: Option<Duration>,
    },
    /// Nobody was reached.
    Unreachable { what: String },
    /// The server does not give it to us.
    Denied { denial: Denial, what: String },
    /// Asking again gives the same.
    Final(Error),
}

/// What a refusal means; the words are made where the repository's name is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denial {
    /// No token, a wrong one, or no such repository: the Hub does not tell strangers which.
    Unauthorized,
    /// Its owner wants terms to be accepted first.
    Gated,
    Forbidden,
    NoRepository,
    NoRevision,
    NoFile,
}

const TOKEN: &str = "`hf auth login`, or HF_TOKEN=hf_… (https://huggingface.co/settings/tokens)";

impl Trouble {
    pub fn from_ureq(url: &str, error: ureq::Error) -> Trouble {
        use std::io::ErrorKind::*;
        let what = format!("{}: {error}", shown(url));
        match error {
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => Trouble::Unreachable { what },
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => Trouble::Unreachable { what },
            ureq::Error::Io(io)
                if matches!(
                    io.kind(),
                    ConnectionRefused | HostUnreachable | NetworkUnreachable | NotFound
                ) =>
            {
                Trouble::Unreachable { what }
            }
            ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::Protocol(_) => {
                Trouble::Passing { what, wait: None }
            }
            _ => Trouble::Final(Error::hub(
                what,
                "check HF_ENDPOINT and HTTPS_PROXY; behind a proxy that decrypts, name its certificates in SSL_CERT_FILE",
            )),
        }
    }

    /// For any status that is no success. `said`: the body of the answer.
    pub fn from_status(status: u16, url: &str, headers: &HeaderMap, said: &str) -> Trouble {
        let what = format!("{} answers {status}{}", shown(url), quoted(headers, said));
        if matches!(status, 408 | 429 | 500..) {
            return Trouble::Passing {
                what,
                wait: wait_asked(headers),
            };
        }
        match denial(status, headers) {
            Some(denial) => Trouble::Denied { denial, what },
            None => Trouble::Final(Error::hub(what, "this is unexpected: check HF_ENDPOINT, or report it")),
        }
    }

    /// The error that a person reads. `with_token`: whether one was sent.
    pub fn about(self, repository: &Repository, with_token: TokenSent) -> Error {
        let page = || format!("https://huggingface.co/{}", repository.page());
        match self {
            Trouble::Final(error) => error,
            Trouble::Unreachable { what } => Error::hub(
                format!("{repository} cannot be reached: {what}"),
                "check the network, HF_ENDPOINT and HTTPS_PROXY; if it is in the cache already, set HF_HUB_OFFLINE=1; a \
                 local directory needs no network: check its spelling",
            ),
            Trouble::Passing { what, .. } => Error::hub(
                format!("{repository}: it fails again and again: {what}"),
                "start again later: what was downloaded so far is kept",
            ),
            Trouble::Denied { denial, what } => {
                let (meaning, fix) = match (denial, with_token) {
                    (Denial::Gated, TokenSent::Yes) => (
                        "is gated, and the token's owner was not let in yet",
                        format!("accept its terms at {}", page()),
                    ),
                    (Denial::Gated, TokenSent::No) => (
                        "is gated",
                        format!("accept its terms at {}, then log in: {TOKEN}", page()),
                    ),
                    (Denial::Unauthorized, TokenSent::Yes) => (
                        "does not open: the token is not valid",
                        format!("log in again: {TOKEN}"),
                    ),
                    (Denial::Unauthorized | Denial::NoRepository, TokenSent::No) => (
                        "does not exist, or is private",
                        format!("check the spelling; if it is private, log in: {TOKEN}"),
                    ),
                    (Denial::NoRepository, TokenSent::Yes) => (
                        "does not exist, or the token may not see it",
                        "check the spelling, and whose token it is".to_owned(),
                    ),
                    (Denial::Forbidden, _) => (
                        "is forbidden to this token",
                        "take a token with the right to do this (https://huggingface.co/settings/tokens)".to_owned(),
                    ),
                    (Denial::NoRevision, _) => (
                        "has no such revision",
                        format!("choose a branch, tag or commit of {}/commits/main", page()),
                    ),
                    (Denial::NoFile, _) => ("does not have that file", format!("look at {}/tree/main", page())),
                };
                Error::hub(format!("{repository} {meaning} ({what})"), fix)
            }
        }
    }
}

/// Whether a request carried a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenSent {
    Yes,
    No,
}

pub(super) fn bad_address(url: &str, why: &str) -> Error {
    Error::hub(format!("cannot ask {}: {why}", shown(url)), "check HF_ENDPOINT")
}

/// The Hub names the reason in a header; other servers have only the status.
fn denial(status: u16, headers: &HeaderMap) -> Option<Denial> {
    let code = headers.get("x-error-code").and_then(|code| code.to_str().ok());
    match (code, status) {
        (Some("GatedRepo"), _) => Some(Denial::Gated),
        (Some("RepoNotFound"), _) => Some(Denial::NoRepository),
        (Some("RevisionNotFound"), _) => Some(Denial::NoRevision),
        (Some("EntryNotFound"), _) => Some(Denial::NoFile),
        (_, 401) => Some(Denial::Unauthorized),
        (_, 403) => Some(Denial::Forbidden),
        (_, 404) => Some(Denial::NoRepository),
        _ => None,
    }
}

/// `Retry-After` in seconds, or the seconds until a limit is reset, as the Hub's `RateLimit: "api";r=0;t=55` has them.
fn wait_asked(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let of_limit = || {
        let limit = text("ratelimit")?;
        limit.split(';').find_map(|part| part.trim().strip_prefix("t="))
    };
    let seconds = text("retry-after").or_else(of_limit)?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

/// What the server said, in one short line.
fn quoted(headers: &HeaderMap, said: &str) -> String {
    let header = headers.get("x-error-message").and_then(|message| message.to_str().ok());
    let json: Option<serde_json::Value> = serde_json::from_str(said).ok();
    let in_json = json.as_ref().and_then(|json| json["error"].as_str());
    let text = header.or(in_json).unwrap_or_default();
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(200)
        .collect();
    match line.trim() {
        "" => String::new(),
        line => format!(": {line}"),
    }
}

/// An address without what follows `?`: servers that files are kept at put signatures there.
fn shown(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
}

#[cfg(test)]
mod tests {
    use super::super::name::Kind;
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        let repository = Repository::new(Kind::Model, "org/name", None);
        let cases = [
            (401, "GatedRepo", TokenSent::No, "accept its terms"),
            (403, "GatedRepo", TokenSent::Yes, "accept its terms"),
            (401, "", TokenSent::No, "check the spelling"),
            (401, "", TokenSent::Yes, "log in again"),
            (404, "RepoNotFound", TokenSent::No, "check the spelling"),
            (404, "", TokenSent::Yes, "whose token"),
            (404, "RevisionNotFound", TokenSent::No, "choose a branch"),
            (404, "EntryNotFound", TokenSent::No, "tree/main"),
            (403, "", TokenSent::Yes, "a token with the right"),
        ];
        for (status, code, token, remedy) in cases {
            let headers = headers(&[("x-error-code", code)]);
            let trouble = Trouble::from_status(
                status,
                "https://hub/api?secret=1",
                &headers,
                r#"{"error":"its reason"}"#,
            );
            let text = trouble.about(&repository, token).to_string();
            assert!(text.contains("model org/name") && text.contains(remedy), "{text}");
            assert!(text.contains("its reason") && !text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn servers_say_how_long_to_wait() {
        let wait = |pairs: &[(&'static str, &str)]| match Trouble::from_status(429, "u", &headers(pairs), "") {
            Trouble::Passing { wait, .. } => wait,
            other => panic!("{other:?}"),
        };
        assert_eq!(wait(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(
            wait(&[("ratelimit", "\"api\";r=0;t=55")]),
            Some(Duration::from_secs(55))
        );
        assert_eq!(wait(&[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")]), None);
        assert_eq!(wait(&[]), None);
    }
}
