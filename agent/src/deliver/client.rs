//! Owns the client of a collector: its credential, sending a batch, and reading what came back as a [`Reply`].
//! Must not own when to send, or what a reply leads to.

use std::fmt;
use std::time::Duration;

use driftlock_common::event::{Answer, BATCH_MEDIA_TYPE, EVENTS_PATH};
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use time::OffsetDateTime;

use super::Reply;
use crate::config::Report;
use crate::http::{self, BuildError, Roots, Settings, TokenError, bearer, body, chain, explain, parse_retry_after};

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
    url: Url,
    token: Option<HeaderValue>,
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
    /// The client for the configured collector; `None` if there is none.
    ///
    /// # Errors
    /// If the credential or the certificates cannot be used.
    pub fn new(report: &Report, timeouts: Timeouts) -> Result<Option<Self>, ClientError> {
        let Some(endpoint) = &report.endpoint else { return Ok(None) };
        let token = report.token_file.as_deref().map(bearer).transpose()?;
        let http = http::client(&settings(report, timeouts))?;
        Ok(Some(Self { http, url: endpoint.url(EVENTS_PATH), token }))
    }

    /// Sends a JSON array of events.
    pub async fn send(&self, json: Vec<u8>) -> Reply {
        let body = match zstd::bulk::compress(&json, ZSTD_LEVEL) {
            Ok(body) => body,
            Err(error) => return retry(format!("cannot compress: {error}")),
        };
        let mut request = self
            .http
            .post(self.url.clone())
            .header(CONTENT_TYPE, BATCH_MEDIA_TYPE)
            .header(CONTENT_ENCODING, "zstd")
            .body(body);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.clone());
        }
        match request.send().await {
            Ok(response) => read(response).await,
            Err(error) => retry(chain(&error.without_url())),
        }
    }
}

fn settings(report: &Report, timeouts: Timeouts) -> Settings {
    let roots = report.endpoint.as_ref().map_or(Roots::Nobody, |endpoint| endpoint.roots(report.ca_file.as_ref()));
    let socket = report.endpoint.as_ref().and_then(|endpoint| endpoint.socket()).cloned();
    Settings { connect: timeouts.connect, whole: Some(timeouts.whole), roots, socket }
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
