//! Owns the client of a collector: its credential, sending a batch, and reading what came back as a [`Reply`].
//! Must not own when to send, or what a reply leads to.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use driftlock_common::event::{Answer, BATCH_MEDIA_TYPE, EVENTS_PATH};
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use time::OffsetDateTime;

use super::Reply;
use crate::config::{Endpoint, Report};
use crate::http::{self, BuildError, Roots, Settings, chain, parse_retry_after};

/// The longest answer, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;
/// The most words of a refusal that are shown.
const MAX_WHY: usize = 200;
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
    /// A file cannot be read.
    #[error("{}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// It holds no usable credential.
    #[error("{} does not hold a token of printable characters", .0.display())]
    Token(PathBuf),
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
        let token = match &report.token_file {
            None => None,
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| ClientError::Read(path.clone(), error))?;
                let mut value = HeaderValue::try_from(format!("Bearer {}", text.trim()))
                    .ok()
                    .filter(|_| !text.trim().is_empty())
                    .ok_or_else(|| ClientError::Token(path.clone()))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
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
    let encrypted = report.endpoint.as_ref().is_some_and(Endpoint::is_https);
    let roots = match &report.ca_file {
        Some(path) => Roots::File(path.clone()),
        None if encrypted => Roots::System,
        None => Roots::Nobody,
    };
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
    let body = match body(response).await {
        Ok(body) => body,
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

async fn body(mut response: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(body),
            Ok(Some(chunk)) if body.len() + chunk.len() > MAX_ANSWER => {
                return Err("an answer of more than 1 MiB".to_owned());
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Err(error) => return Err(chain(&error.without_url())),
        }
    }
}

/// The status, and the first words of what came with it.
fn explain(status: StatusCode, body: &[u8]) -> String {
    let words: String = String::from_utf8_lossy(body).chars().take(MAX_WHY).flat_map(char::escape_default).collect();
    if words.is_empty() { status.to_string() } else { format!("{status}: {words}") }
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
