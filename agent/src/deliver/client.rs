//! Owns the client of a collector: its credential, sending a batch, and reading what came back as a [`Reply`]. An identity is
//! the credential wherever the connection is encrypted, a token elsewhere and where there is no identity.
//! Must not own when to send, or what a reply leads to.

use std::fmt;
use std::time::Duration;

use driftlock_common::enrolment::HOST_HEADER;
use driftlock_common::event::{Answer, BATCH_MEDIA_TYPE, EVENTS_PATH};
use driftlock_common::host_name::HostName;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, StatusCode};
use time::OffsetDateTime;

use super::Reply;
use crate::config::{Endpoint, Report};
use crate::http::{self, BuildError, Roots, Settings, TokenError, bearer, body, chain, explain, parse_retry_after};
use crate::identity::Identity;

/// The longest answer, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;
/// Batches are repetitive; more than this gains little.
const ZSTD_LEVEL: i32 = 3;

/// How long to wait for the collector.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// For everything from the first byte sent to the last one read.
    pub whole: Duration,
}

/// Sends batches to one collector.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Endpoint,
    token: Option<HeaderValue>,
    /// Whom a token speaks for that may speak for several.
    host: Option<HostName>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no credential.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Build(BuildError),
    /// The library refuses.
    #[error(
        "the HTTPS client cannot be set up; if the system has no certificates, name a file of them in report.ca_file"
    )]
    Library(#[source] reqwest::Error),
}

impl From<BuildError> for ClientError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Refused(error) => Self::Library(error),
            error => Self::Build(error),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), whole: Duration::from_secs(30) }
    }
}

impl Client {
    /// The client for the configured collector, else for the one that the host joined; `None` if there is neither.
    ///
    /// # Errors
    /// If the credential or the certificates cannot be used.
    pub fn new(report: &Report, identity: Option<&Identity>, timeouts: Timeouts) -> Result<Option<Self>, ClientError> {
        let joined = identity.and_then(|identity| identity.endpoint.as_ref());
        let Some(endpoint) = report.endpoint.as_ref().or(joined) else { return Ok(None) };
        let identity = identity.filter(|_| endpoint.is_encrypted());
        let token = report.token_file.as_deref().filter(|_| identity.is_none()).map(bearer).transpose()?;
        let authorities = identity.and_then(|identity| identity.authorities.clone()).map(Roots::Pem);
        let settings = Settings {
            connect: timeouts.connect,
            whole: Some(timeouts.whole),
            roots: match (&report.ca_file, authorities) {
                (None, Some(authorities)) => authorities,
                (ca_file, _) => endpoint.roots(ca_file.as_ref()),
            },
            credential: identity.map(|identity| identity.credential.clone()),
            socket: endpoint.socket().cloned(),
        };
        Ok(Some(Self { http: http::client(&settings)?, endpoint: endpoint.clone(), token, host: None }))
    }

    /// The same, naming the host where a token is the credential: it may speak for several. What a certificate says counts
    /// alone.
    #[must_use]
    pub fn for_host(self, host: Option<HostName>) -> Self {
        Self { host, ..self }
    }

    /// Where it sends.
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A request to this path, with the credential.
    pub fn post(&self, path: &str) -> RequestBuilder {
        self.with_credential(self.http.post(self.endpoint.url(path)))
    }

    /// A request for what is at this path, with the credential.
    pub fn get(&self, path: &str) -> RequestBuilder {
        self.with_credential(self.http.get(self.endpoint.url(path)))
    }

    /// A request that puts something at this path, with the credential.
    pub fn put(&self, path: &str) -> RequestBuilder {
        self.with_credential(self.http.put(self.endpoint.url(path)))
    }

    fn with_credential(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.token {
            Some(token) => {
                let request = request.header(AUTHORIZATION, token.clone());
                self.host.iter().fold(request, |request, host| request.header(HOST_HEADER, host.as_str()))
            }
            None => request,
        }
    }

    /// Sends a JSON array of events.
    pub async fn send(&self, json: Vec<u8>) -> Reply {
        let body = match zstd::bulk::compress(&json, ZSTD_LEVEL) {
            Ok(body) => body,
            Err(error) => return retry(format!("cannot compress: {error}")),
        };
        let request = self.post(EVENTS_PATH).header(CONTENT_TYPE, BATCH_MEDIA_TYPE).header(CONTENT_ENCODING, "zstd");
        match request.body(body).send().await {
            Ok(response) => read(response).await,
            Err(error) => retry(chain(&error.without_url())),
        }
    }
}

async fn read(response: Response) -> Reply {
    let status = response.status();
    let after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| parse_retry_after(value, OffsetDateTime::now_utc()));
    let body = match body(response, MAX_ANSWER).await {
        Ok(Some(body)) => body,
        Ok(None) => return retry("an answer of more than 1 MiB".to_owned()),
        Err(why) => return retry(why),
    };
    if status.is_success() {
        return match serde_json::from_slice::<Answer>(&body) {
            Ok(answer) => Reply::Answered(answer),
            Err(_) => retry(format!("{status}, with an answer that cannot be understood")),
        };
    }
    let why = explain(status, &body);
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => Reply::TooLarge,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Reply::Refused { why },
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Reply::Retry { why, after },
        _ if status.is_client_error() => Reply::Rejected { why },
        _ => Reply::Retry { why, after },
    }
}

const fn retry(why: String) -> Reply {
    Reply::Retry { why, after: None }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(_) => f.write_str("answered"),
            Self::TooLarge => f.write_str("too large"),
            Self::Retry { why, .. } | Self::Rejected { why } | Self::Refused { why } => f.write_str(why),
        }
    }
}
