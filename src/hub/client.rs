//! Requests: redirects, who gets to see the token, and patience with a network that has bad moments.

use std::thread::sleep;
use std::time::Duration;

use ureq::http::{HeaderMap, Method, Request, Response};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, AsSendBody, Body};

use super::refusal::{self, TokenSent, Trouble};
use super::settings::{Settings, Token};
use crate::error::{IoContext, Result};

/// Asks the Hub, and whatever servers it sends us on to.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<Token>,
    first_wait: Duration,
}

/// An answer of any status.
pub(super) struct Answer {
    pub status: u16,
    /// Of the last server.
    pub headers: HeaderMap,
    pub body: Body,
    /// Where the last server was asked.
    pub url: String,
}

/// How often a request is made that fails in a way that may pass, and one that reaches nobody.
const ATTEMPTS: u32 = 6;
const ATTEMPTS_AT_REACHING: u32 = 3;
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// A server may ask for longer.
const LONGEST_WAIT_ASKED: Duration = Duration::from_secs(310);
const CONNECTING: Duration = Duration::from_secs(15);
const COMMITTING: Duration = Duration::from_secs(600);
const MOST_REDIRECTS: usize = 8;
/// Answers that are read as a whole: listings, errors.
const LARGEST_TEXT: u64 = 256 << 20;

impl Client {
    pub fn new(settings: &Settings) -> Result<Client> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECTING))
            .timeout_recv_response(Some(settings.stall.max(Duration::from_secs(1)) * 4))
            .timeout_per_read(Some(settings.stall))
            .user_agent(concat!("dtrain/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &settings.certificates {
            let text = std::fs::read(path).at("read the certificates", path)?;
            let certificates: Vec<_> = parse_pem(&text)
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect();
            let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&certificates));
            config = config.tls_config(tls.build());
        }
        Ok(Client {
            agent: config.build().into(),
            endpoint: settings.endpoint.clone(),
            token: settings.token.clone(),
            first_wait: settings.first_wait,
        })
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub fn token_sent(&self) -> TokenSent {
        match self.token {
            Some(_) => TokenSent::Yes,
            None => TokenSent::No,
        }
    }

    /// One GET, redirects followed; `from`: the byte to begin at.
    pub fn get(&self, url: &str, from: u64) -> Result<Answer, Trouble> {
        let range = format!("bytes={from}-");
        // A compressed answer has no known length, and no part of it can be asked for.
        let headers = [("Accept-Encoding", "identity"), ("Range", range.as_str())];
        self.send(Method::GET, url, &headers[..1 + usize::from(from > 0)], || Ok(()))
    }

    /// The text of a GET. Errors: any status but 200, in the words of `refusal`.
    pub fn text(&self, url: &str) -> Result<(String, HeaderMap), Trouble> {
        self.get(url, 0)?.into_text()
    }

    /// One request, redirects followed; `body` makes its body anew for every server that it is sent on to.
    pub fn send<B: AsSendBody>(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Fn() -> std::io::Result<B>,
    ) -> Result<Answer, Trouble> {
        let mut url = url.to_owned();
        for _ in 0..=MOST_REDIRECTS {
            let mut request = Request::builder().method(method.clone()).uri(&url);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            if let Some(token) = self.token.as_ref().filter(|_| origin(&url) == origin(&self.endpoint)) {
                request = request.header("Authorization", token.header());
            }
            let body = body().map_err(|error| Trouble::from_ureq(&url, error.into()))?;
            let bad_address = |error: ureq::http::Error| Trouble::Final(refusal::bad_address(&url, &error.to_string()));
            let request = self.agent.configure_request(request.body(body).map_err(bad_address)?);
            // A commit is answered when it is done, which may take longer than the next piece of a file.
            let request = match method {
                Method::GET => request.build(),
                _ => request
                    .timeout_per_read(Some(COMMITTING))
                    .timeout_recv_response(Some(COMMITTING))
                    .build(),
            };
            let answer = self
                .agent
                .run(request)
                .map_err(|error| Trouble::from_ureq(&url, error))?;
            match next(&url, &answer) {
                Some(location) => url = location,
                None => return Ok(Answer::new(url, answer)),
            }
        }
        Err(Trouble::Final(refusal::bad_address(
            &url,
            "there is no end to its redirects",
        )))
    }

    /// Repeats `request` while its trouble may pass.
    pub fn persist<T>(&self, mut request: impl FnMut() -> Result<T, Trouble>) -> Result<T, Trouble> {
        let mut attempts = Attempts::new(self.first_wait);
        loop {
            match request() {
                Ok(done) => return Ok(done),
                Err(trouble) => attempts.after(trouble)?,
            }
        }
    }

    pub fn attempts(&self) -> Attempts {
        Attempts::new(self.first_wait)
    }
}

impl Answer {
    fn new(url: String, answer: Response<Body>) -> Answer {
        let (head, body) = answer.into_parts();
        Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
            url,
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body of an answer that says yes. Errors: one that says no.
    pub fn into_text(mut self) -> Result<(String, HeaderMap), Trouble> {
        if !(200..300).contains(&self.status) {
            return Err(self.into_trouble());
        }
        let text = self.body.with_config().limit(LARGEST_TEXT).read_to_string();
        Ok((
            text.map_err(|error| Trouble::from_ureq(&self.url, error))?,
            self.headers,
        ))
    }

    /// What the server says about why it does not do it.
    pub fn into_trouble(mut self) -> Trouble {
        let said = self
            .body
            .with_config()
            .limit(1 << 16)
            .read_to_string()
            .unwrap_or_default();
        Trouble::from_status(self.status, &self.url, &self.headers, &said)
    }
}

/// Counts the failures of one request, and waits between them.
pub(super) struct Attempts {
    made: u32,
    wait: Duration,
}

impl Attempts {
    fn new(first_wait: Duration) -> Attempts {
        Attempts {
            made: 0,
            wait: first_wait,
        }
    }

    /// After progress was made, failures count from the beginning.
    pub fn begin_anew(&mut self, client: &Client) {
        *self = client.attempts();
    }

    /// Waits before the next attempt. Errors: the trouble does not pass, or there were enough attempts.
    pub fn after(&mut self, trouble: Trouble) -> Result<(), Trouble> {
        self.made += 1;
        let (wait, most) = match &trouble {
            Trouble::Final(_) | Trouble::Denied { .. } => return Err(trouble),
            Trouble::Unreachable { .. } => (None, ATTEMPTS_AT_REACHING),
            Trouble::Passing { wait, .. } => (*wait, ATTEMPTS),
        };
        if self.made >= most || wait.is_some_and(|wait| wait > LONGEST_WAIT_ASKED) {
            return Err(trouble);
        }
        // Ranks and machines that failed together do not come back together.
        let spread = 1.0 + f64::from(std::process::id() % 64) / 256.0;
        sleep(wait.unwrap_or_else(|| self.wait.mul_f64(spread)));
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        Ok(())
    }
}

/// `scheme://host:port`
fn origin(url: &str) -> &str {
    let after_scheme = url.find("://").map_or(0, |at| at + 3);
    let end = url[after_scheme..].find('/').map_or(url.len(), |at| after_scheme + at);
    &url[..end]
}

/// Where an answer sends us on to.
fn next(url: &str, answer: &Response<Body>) -> Option<String> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = answer.headers().get("location")?.to_str().ok()?;
    match location {
        absolute if absolute.contains("://") => Some(absolute.to_owned()),
        path if path.starts_with('/') => Some(format!("{}{path}", origin(url))),
        _ => None,
    }
}

/// The absolute address of a link that may be relative to the endpoint.
pub(super) fn absolute(endpoint: &str, link: &str) -> String {
    match link.contains("://") {
        true => link.to_owned(),
        false => format!("{}{link}", origin(endpoint)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn a_token_is_for_one_origin_only() {
        let same = |a, b| origin(a) == origin(b);
        assert!(same("https://huggingface.co", "https://huggingface.co/api/models/x"));
        assert!(!same("https://huggingface.co", "https://huggingface.co.evil.com/api"));
        assert!(!same("https://huggingface.co", "http://huggingface.co/api"));
        assert!(!same("http://localhost:80", "http://localhost:81/x"));
    }

    #[test]
    fn trouble_ends_after_enough_attempts_and_at_once_when_it_is_final() {
        let passing = || Trouble::Passing {
            what: "busy".to_owned(),
            wait: Some(Duration::ZERO),
        };
        let mut attempts = Attempts::new(Duration::ZERO);
        let waits = (0..).take_while(|_| attempts.after(passing()).is_ok()).count();
        assert_eq!(waits as u32, ATTEMPTS - 1);
        let mut attempts = Attempts::new(Duration::ZERO);
        assert!(attempts.after(Trouble::Final(Error::usage("no", "never"))).is_err());
        let mut attempts = Attempts::new(Duration::ZERO);
        let hour = Trouble::Passing {
            what: "busy".to_owned(),
            wait: Some(Duration::from_secs(3600)),
        };
        assert!(attempts.after(hour).is_err());
    }
}
