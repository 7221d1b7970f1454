//! Owns asking an agent at its socket. Must not own what is done with the answer.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use driftlock_common::exit::Exit;
use driftlock_common::status::{Status, Ticket, Tickets, Waited};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::listener::Short;
use super::{MAX_ANSWER, MAX_WAIT_S, PlaceError};
use crate::failure::Failure;
use crate::http::{self, BuildError, Roots, Settings};

/// For a connection, and for an answer that has nothing to wait for.
const PATIENCE: Duration = Duration::from_secs(10);

/// The way to one agent.
#[derive(Debug)]
pub struct Client {
    client: reqwest::Client,
    path: PathBuf,
    /// The directory of the socket, by which it is found.
    _directory: Option<OwnedFd>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no agent to be asked.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// Nobody listens.
    #[error("no agent is running: nobody answers at {}", .0.display())]
    Nobody(PathBuf),
    /// The socket is not for this user.
    #[error("{} may be asked by the agent's user, its group and root only", .0.display())]
    Denied(PathBuf),
    /// The agent refuses: why.
    #[error("{0}")]
    Refused(String),
    /// The agent does not know the target: why.
    #[error("{0}")]
    Unknown(String),
    /// The connection broke, or nothing came for too long.
    #[error("no answer at {}: {}", .0.display(), .1)]
    Silent(PathBuf, String),
    /// What answers is no agent that this program understands.
    #[error("what answers at {} is no agent of this version: {}", .0.display(), .1)]
    Strange(PathBuf, String),
    /// The means to ask.
    #[error(transparent)]
    Build(#[from] BuildError),
}

#[derive(Deserialize)]
struct Problem {
    error: String,
}

impl Client {
    /// Prepares to ask the agent whose socket is at `path`. Nobody has to be there yet.
    ///
    /// # Errors
    /// If the means to ask cannot be had, or the way to the socket is not open to this user.
    pub fn new(path: &Path) -> Result<Self, AskError> {
        let (directory, short) = match Short::of(path) {
            Ok((directory, short)) => (Some(directory), short),
            // Whoever may search it need not read it.
            Err(_) => (None, path.to_owned()),
        };
        let (roots, socket) = (Roots::Nobody, Some(short));
        let settings = Settings { connect: PATIENCE, whole: None, roots, credential: None, socket };
        Ok(Self { client: http::client(&settings)?, path: path.to_owned(), _directory: directory })
    }

    /// What the agent knows of itself.
    ///
    /// # Errors
    /// If there is no such answer.
    pub async fn status(&self) -> Result<Status, AskError> {
        self.ask(Method::GET, "/v1/status", &[], PATIENCE).await
    }

    /// Makes it look at a target, or at all.
    ///
    /// # Errors
    /// If there is no such answer.
    pub async fn rescan(&self, target: Option<&str>) -> Result<Tickets, AskError> {
        let query: Vec<(&str, &str)> = target.map(|target| ("target", target)).into_iter().collect();
        self.ask(Method::POST, "/v1/rescan", &query, PATIENCE).await
    }

    /// Waits for a look later than `ticket`, at most `limit` or [`MAX_WAIT_S`].
    ///
    /// # Errors
    /// If there is no such answer.
    pub async fn wait(
        &self,
        target: &str,
        ticket: &Ticket,
        manifest: Option<&str>,
        limit: Duration,
    ) -> Result<Waited, AskError> {
        let seconds = limit.as_secs().min(MAX_WAIT_S);
        let (after, timeout) = (ticket.after.to_string(), seconds.to_string());
        let mut query = vec![("target", target), ("run", &ticket.run), ("after", &after), ("timeout_s", &timeout)];
        query.extend(manifest.map(|manifest| ("manifest", manifest)));
        self.ask(Method::GET, "/v1/wait", &query, PATIENCE + Duration::from_secs(seconds)).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        patience: Duration,
    ) -> Result<T, AskError> {
        let (status, body) = match tokio::time::timeout(patience, self.exchange(method, path, query)).await {
            Ok(answer) => answer?,
            Err(_) => return Err(AskError::Silent(self.path.clone(), format!("nothing for {patience:?}"))),
        };
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|error| self.strange(error.to_string()));
        }
        match (status, serde_json::from_slice::<Problem>(&body)) {
            (StatusCode::NOT_FOUND, Ok(problem)) if !query.is_empty() => Err(AskError::Unknown(problem.error)),
            (_, Ok(problem)) => Err(AskError::Refused(problem.error)),
            (_, Err(_)) => Err(self.strange(status.to_string())),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<(StatusCode, Vec<u8>), AskError> {
        let words: Vec<String> = query.iter().map(|(key, value)| format!("{key}={}", encoded(value))).collect();
        let mark = if words.is_empty() { "" } else { "?" };
        // The name goes into a header alone: where the request goes is the socket.
        let url = format!("http://agent{path}{mark}{}", words.join("&"));
        let sent = self.client.request(method, url).send().await;
        let response = sent.map_err(|error| self.unsent(&error))?;
        let status = response.status();
        match http::body(response, MAX_ANSWER).await {
            Ok(Some(body)) => Ok((status, body)),
            Ok(None) => Err(self.strange("an answer without end".to_owned())),
            Err(why) => Err(AskError::Silent(self.path.clone(), why)),
        }
    }

    fn unsent(&self, error: &reqwest::Error) -> AskError {
        let path = self.path.clone();
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        let (mut last, mut nonsense) = (String::new(), false);
        while let Some(error) = cause {
            match error.downcast_ref::<io::Error>().map(io::Error::kind) {
                Some(io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::ConnectionRefused) => {
                    return AskError::Nobody(path);
                }
                Some(io::ErrorKind::PermissionDenied) => return AskError::Denied(path),
                _ => {}
            }
            nonsense |= error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse);
            last = error.to_string();
            cause = error.source();
        }
        if nonsense { self.strange(last) } else { AskError::Silent(path, last) }
    }

    fn strange(&self, why: String) -> AskError {
        AskError::Strange(self.path.clone(), why)
    }
}

fn encoded(value: &str) -> impl std::fmt::Display + '_ {
    percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC)
}

impl AskError {
    /// Whether the agent may only be away for a moment, as while it is started anew.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Nobody(_) | Self::Silent(..) | Self::Refused(_))
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        let exit = match &error {
            AskError::Place(PlaceError::NoneInMemory | PlaceError::Off) => Exit::Unavailable,
            AskError::Nobody(_) | AskError::Silent(..) | AskError::Refused(_) => Exit::Unavailable,
            AskError::Place(PlaceError::Several(_)) | AskError::Unknown(_) => Exit::Usage,
            AskError::Denied(_) => Exit::Refused,
            AskError::Strange(..) => Exit::Malformed,
            AskError::Build(_) => Exit::Io,
        };
        Self::new(exit, error)
    }
}
