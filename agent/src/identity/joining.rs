//! Owns how a host gets its identity: it joins with a token, and renews what it has. The key is on disk before anybody is
//! asked, so that who is asked again, after whatever went wrong, is asked the same. Must not own files, or the exchange.

use std::future::Future;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use driftlock_common::digest::Digest;
use driftlock_common::enrolment::{ENROLL_PATH, EnrollRequest, EnrolmentToken, Issued, RENEW_PATH, RenewRequest};
use driftlock_common::exit::Exit;
use driftlock_common::host_name::HostName;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::directory::Origin;
use super::exchange::{self, ExchangeError};
use super::request::Request;
use super::{Change, Directory, Identity, IdentityError};
use crate::config::Endpoint;
use crate::deliver::Client;
use crate::failure::Failure;
use crate::http::{self, BuildError, Roots, Settings};

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// For everything from the first byte sent to the last one read.
const WHOLE: Duration = Duration::from_secs(30);

/// What a host wants to be.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Where the collector is; encrypted.
    pub endpoint: Endpoint,
    /// What lets it in.
    pub token: EnrolmentToken,
    /// As what it wants to be known.
    pub host: HostName,
}

/// How a host came to its identity.
#[derive(Clone, Debug)]
pub enum Joined {
    /// By this.
    Now(Identity),
    /// With the same token, some time ago: whoever asked then did not hear the answer.
    Before(Identity),
}

/// Why it has none, or still the one before.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Files.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The way to the collector.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The exchange.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// A request that cannot be written.
    #[error("the request for a certificate cannot be made: {0}")]
    Request(x509_cert::der::Error),
    /// The process is ending.
    #[error("interrupted")]
    Interrupted,
}

/// Joins a collector with a token, unless this host did so with the same token before.
///
/// # Errors
/// If there is no identity after it but the one that there was before.
pub async fn enroll(directory: Directory, wish: Wish) -> Result<Joined, JoinError> {
    let token = Digest::sha256(wish.token.secret().as_bytes());
    let begin = move || -> Result<Result<Change, Identity>, IdentityError> {
        let locked = directory.lock()?;
        match locked.directory().load()? {
            Some(identity) if identity.token == Some(token) => Ok(Err(identity)),
            _ => locked.begin().map(Ok),
        }
    };
    let change = match blocking(begin).await? {
        Ok(change) => change,
        Err(identity) => return Ok(Joined::Before(identity)),
    };
    let request = Request::by(change.key()).map_err(JoinError::Request)?;
    let settings = Settings {
        connect: CONNECT,
        whole: Some(WHOLE),
        roots: Roots::Pinned(wish.token.authority()),
        credential: None,
        socket: None,
    };
    let asked = http::client(&settings)?.post(wish.endpoint.url(ENROLL_PATH));
    let json = json(&EnrollRequest {
        token: wish.token.secret().to_owned(),
        host: wish.host,
        csr: request.to_pem(),
        receipt_key: change.receipt_key().public().to_pem(),
        receipt_proof: STANDARD.encode(change.receipt_key().sign(&request.der)),
    });
    let origin = Origin { endpoint: Some(wish.endpoint), token: Some(token) };
    keep(change, exchange::ask(asked, json), origin).await.map(Joined::Now)
}

/// Renews the identity that a host has; its name stays.
///
/// # Errors
/// If there is no other identity after it.
pub async fn renew(directory: Directory, client: Client) -> Result<Identity, JoinError> {
    let begin = move || {
        let locked = directory.lock()?;
        let origin = locked.directory().load()?.map(|identity| Origin::of(&identity)).unwrap_or_default();
        Ok((locked.begin()?, origin))
    };
    let (change, origin) = blocking(begin).await?;
    let request = Request::by(change.key()).map_err(JoinError::Request)?;
    let json = json(&RenewRequest { csr: request.to_pem() });
    keep(change, exchange::ask(client.post(RENEW_PATH), json), origin).await
}

async fn keep(
    change: Change,
    asked: impl Future<Output = Result<Issued, ExchangeError>>,
    origin: Origin,
) -> Result<Identity, JoinError> {
    let issued = asked.await?;
    blocking(move || change.keep(&issued, &origin)).await
}

/// Files are waited for elsewhere.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IdentityError> + Send + 'static,
) -> Result<T, JoinError> {
    match spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        // A panic ends the process.
        Err(_) => Err(JoinError::Interrupted),
    }
}

fn json(of: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(of).expect("strings")
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        let exit = match error {
            JoinError::Identity(error) => return error.into(),
            JoinError::Exchange(ExchangeError::Unavailable { .. } | ExchangeError::Unknown(_)) => Exit::Unavailable,
            JoinError::Exchange(ExchangeError::Distrusted(_) | ExchangeError::Refused(_)) => Exit::Refused,
            JoinError::Build(_) | JoinError::Request(_) | JoinError::Interrupted => Exit::Bug,
        };
        Self::new(exit, error)
    }
}
