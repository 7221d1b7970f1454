//! Owns asking a collector for its findings, page after page. Must not own what a page holds.

use std::path::PathBuf;
use std::time::Duration;

use driftlock_common::exit::Exit;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, HeaderValue};

use super::{Each, Gone, page};
use crate::config::Endpoint;
use crate::failure::Failure;
use crate::http::{self, BuildError, Settings, TokenError, bearer, body, chain, explain};

/// Where findings are.
const FINDINGS_PATH: &str = "/v1/findings";
/// As many findings are asked for at once: the most that a collector gives.
const PAGE: usize = 1000;
/// The longest page, in bytes. Of one that is longer fewer findings are asked for.
const MAX_PAGE: usize = 64 * 1024 * 1024;
/// The most pages.
const MAX_PAGES: usize = 1_000_000;
const CONNECT: Duration = Duration::from_secs(10);
/// For a page.
const WHOLE: Duration = Duration::from_secs(60);

/// A collector that is asked.
#[derive(Clone, Debug)]
pub struct Collector {
    /// Where.
    pub endpoint: Endpoint,
    /// The file with the token for reading.
    pub token_file: Option<PathBuf>,
    /// Certificates that are believed, if not the system's.
    pub ca_file: Option<PathBuf>,
}

/// Why there are no findings.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No credential.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// No client.
    #[error(transparent)]
    Client(#[from] BuildError),
    /// No runtime for it.
    #[error("the HTTP client cannot be set up")]
    Runtime(#[source] std::io::Error),
    /// No answer.
    #[error("{0}: no answer: {1}")]
    Silent(String, String),
    /// An answer that is a refusal.
    #[error("{0}: {1}; name the collector's read token by --token-file")]
    Denied(String, String),
    /// Another answer than findings.
    #[error("{0}: {1}")]
    Status(String, String),
    /// An answer that is none.
    #[error("{0}: an answer that cannot be read: {1}")]
    Answer(String, String),
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        let exit = match &error {
            AskError::Token(TokenError::Read(path, _)) | AskError::Client(BuildError::Read(path, _))
                if !path.exists() =>
            {
                Exit::NoInput
            }
            AskError::Token(_) | AskError::Client(_) => Exit::Configuration,
            AskError::Runtime(_) => Exit::Io,
            AskError::Silent(..) | AskError::Status(..) => Exit::Unavailable,
            AskError::Denied(..) => Exit::Refused,
            AskError::Answer(..) => Exit::Malformed,
        };
        Self::new(exit, error)
    }
}

impl Collector {
    /// Hands over every finding that the collector has, open or resolved, the newest first.
    ///
    /// # Errors
    /// If it does not answer to the end.
    pub fn replay(&self, each: &mut Each<'_>) -> Result<Gone, AskError> {
        let roots = self.endpoint.roots(self.ca_file.as_ref());
        let socket = self.endpoint.socket().cloned();
        let client = http::client(&Settings { connect: CONNECT, whole: Some(WHOLE), roots, credential: None, socket })?;
        let token = self.token_file.as_deref().map(bearer).transpose()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AskError::Runtime)?;
        let answer = |why: &str| AskError::Answer(self.endpoint.to_string(), why.to_owned());
        let (mut gone, mut limit) = (Gone::default(), PAGE);
        for _ in 0..MAX_PAGES {
            let cursor = gone.next.clone();
            let Some(bytes) = runtime.block_on(self.ask(&client, token.as_ref(), limit, cursor.as_deref()))? else {
                if limit == 1 {
                    return Err(answer("one finding is too long"));
                }
                limit = limit.div_ceil(10);
                continue;
            };
            gone.append(page(&bytes, each).map_err(|why| answer(&why))?);
            match &gone.next {
                None => return Ok(gone),
                next if *next == cursor => return Err(answer("its next page is the same")),
                Some(_) => {}
            }
        }
        Err(answer("it has no end"))
    }

    /// A page; `None` if it is too long.
    async fn ask(
        &self,
        client: &reqwest::Client,
        token: Option<&HeaderValue>,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Option<Vec<u8>>, AskError> {
        let silent = |why| AskError::Silent(self.endpoint.to_string(), why);
        let mut url = self.endpoint.url(FINDINGS_PATH);
        url.query_pairs_mut()
            .append_pair("limit", &limit.to_string())
            .append_pair("cursor", cursor.unwrap_or_default());
        let mut request = client.get(url);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token.clone());
        }
        let response = request.send().await.map_err(|error| silent(chain(&error.without_url())))?;
        let status = response.status();
        let body = body(response, MAX_PAGE).await.map_err(silent)?;
        if status == StatusCode::OK {
            return Ok(body);
        }
        let why = explain(status, &body.unwrap_or_default());
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => AskError::Denied(self.endpoint.to_string(), why),
            _ => AskError::Status(self.endpoint.to_string(), why),
        })
    }
}
