//! Owns how a verb reaches what it changes: over the socket of the collector that runs, or by opening the data directory
//! where none does. The verb does not see which. Must not own any verb.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode, header};
use driftlock_common::exit::Exit;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tower::ServiceExt as _;

use super::{Admin, router, socket};
use crate::clock::Clock;
use crate::failure::Failure;
use crate::identity::authority::Authority;
use crate::identity::certificate::Naming;
use crate::identity::{Identities, Issuing, LIFETIME};
use crate::store::StoreError;
use crate::store::sqlite::{Limits, SqliteStore};

/// The longest answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// How often to try where a collector has the directory and does not answer yet: it is starting or ending.
const TRIES: u32 = 50;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// A way to what is administered.
#[derive(Debug)]
pub enum Door {
    /// A collector runs.
    Running(http1::SendRequest<Body>),
    /// None does: the verbs over the data directory itself, which is held as long as this is.
    Direct(Router),
}

impl Door {
    /// Finds the way to a data directory.
    ///
    /// # Errors
    /// If it is somebody else's, cannot be opened, or its collector does not answer.
    pub async fn open(data: &Path) -> Result<Self, Failure> {
        check_owner(data)?;
        for _ in 0..TRIES {
            match SqliteStore::open(data, Limits::default()) {
                Ok(store) => return Self::direct(data, store).await,
                Err(StoreError::InUse(_)) => {}
                Err(error) => return Err(error.into()),
            }
            if let Ok(stream) = socket::connect(data).await {
                let unavailable = |error| Failure::new(Exit::Unavailable, anyhow::Error::new(error));
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(unavailable)?;
                tokio::spawn(connection);
                return Ok(Self::Running(sender));
            }
            tokio::time::sleep(PAUSE).await;
        }
        let error = anyhow!("{}: a collector uses this directory and does not answer", data.display());
        Err(Failure::new(Exit::Unavailable, error))
    }

    async fn direct(data: &Path, store: SqliteStore) -> Result<Self, Failure> {
        let store = Arc::new(store);
        let clock = Clock::system();
        let authority = Authority::open(data, clock.now())?;
        let issuing = Issuing::Own { authority, lifetime: LIFETIME };
        let identities =
            Arc::new(Identities::load(Arc::<SqliteStore>::clone(&store), clock, Naming::default(), issuing).await?);
        Ok(Self::Direct(router(Arc::new(Admin { store, identities, tls: None }))))
    }

    /// Asks, and reads the answer.
    ///
    /// # Errors
    /// If it is refused, with the sentence of the refusal.
    pub async fn ask<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let bug = |error: anyhow::Error| Failure::new(Exit::Bug, error);
        let body = serde_json::to_vec(body).map_err(|error| bug(error.into()))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "driftlock-collector")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .map_err(|error| bug(error.into()))?;
        let cut_off = |error: anyhow::Error| Failure::new(Exit::Unavailable, error.context("the collector's answer"));
        let response = match self {
            Self::Running(sender) => {
                let response = sender.send_request(request).await.map_err(|error| cut_off(error.into()))?;
                response.map(Body::new)
            }
            Self::Direct(router) => match router.clone().oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
        };
        let status = response.status();
        let body = to_bytes(response.into_body(), MAX_ANSWER).await.map_err(|error| cut_off(error.into()))?;
        if status.is_success() {
            let body = if body.is_empty() { &b"null"[..] } else { &body };
            return serde_json::from_slice(body).map_err(|error| cut_off(error.into()));
        }
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let why = problem["detail"].as_str().unwrap_or("refused without a reason").to_owned();
        Err(Failure::new(exit_of(status), anyhow!(why)))
    }
}

/// The data of another user is not touched: what would be made there its collector could not read.
fn check_owner(data: &Path) -> Result<(), Failure> {
    let found = match fs::metadata(data) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            let exit = if error.kind() == io::ErrorKind::PermissionDenied { Exit::Refused } else { Exit::Io };
            return Err(Failure::new(exit, anyhow::Error::new(error).context(data.display().to_string())));
        }
    };
    let own = rustix::process::geteuid().as_raw();
    if found.uid() == own {
        return Ok(());
    }
    let error = anyhow!(
        "{}: belongs to user {}, this is user {own}; run it as that user, as by setpriv or runuser",
        data.display(),
        found.uid()
    );
    Err(Failure::new(Exit::Refused, error))
}

fn exit_of(status: StatusCode) -> Exit {
    match status {
        StatusCode::CONFLICT | StatusCode::FORBIDDEN => Exit::Refused,
        status if status.is_client_error() => Exit::Usage,
        _ => Exit::Io,
    }
}
