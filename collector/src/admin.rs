//! Owns what an operator can change while the collector runs: HTTP over a socket in the data directory, for who owns that
//! directory. Where no collector runs, the same is done to the directory itself ([`door`]). Must not own what is changed.
//!
//! A verb is a route here and a few lines in [`verb`]; further ones are added in the same way.

pub mod door;
mod socket;
pub mod verb;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use driftlock_common::host_name::{HostName, HostPattern};
use serde::{Deserialize, Serialize};

use crate::credential::{self, ListedCa, ListedToken};
use crate::error::ApiError;
use crate::identity::authority::{Authority, AuthorityError};
use crate::identity::{Identities, NotIssued};
use crate::store::Store;
use crate::store::identity::Scope;
use crate::tls::{Tls, TlsError};

pub use self::socket::listen;

/// The most labels of a token, and bytes of a key or value.
const MAX_LABELS: usize = 64;
const MAX_LABEL: usize = 256;
/// The longest that a token may be valid.
pub const MAX_TOKEN_TIME: Duration = Duration::from_hours(24 * 366);
/// The longest that a token for joining may be valid: until then a CA that it names stays in force.
pub const MAX_ENROLMENT_TIME: Duration = Duration::from_hours(24 * 30);

/// What verbs work on.
#[derive(Debug)]
pub struct Admin {
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// Who is who.
    pub identities: Arc<Identities>,
    /// What handshakes use; absent where none are made.
    pub tls: Option<Arc<Tls>>,
}

/// `POST /enroll-token`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MakeEnrolmentToken {
    /// For hosts of these names.
    pub host: HostPattern,
    /// Labels that the host gets.
    pub labels: BTreeMap<String, String>,
    /// Whether it may take the name of a host that is known.
    pub replace: bool,
    /// Seconds that it is valid.
    pub valid_s: u64,
}

/// `POST /tokens`.
#[derive(Debug, Serialize, Deserialize)]
pub struct MakeAccessToken {
    /// What it allows.
    #[serde(flatten)]
    pub scope: Scope,
    /// Seconds that it is valid.
    pub valid_s: u64,
}

/// A token that was made: shown here, and never again.
#[derive(Serialize, Deserialize)]
pub struct MadeToken {
    /// By which it is listed and ended.
    pub id: String,
    /// The token.
    pub token: String,
    /// RFC 3339.
    pub expires_at: String,
}

impl fmt::Debug for MadeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {} until {}", self.id, self.expires_at)
    }
}

/// `POST /revoke`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// The host.
    pub host: HostName,
    /// Takes a revocation back.
    pub lift: bool,
}

/// What became of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Revoked {
    /// Whether the host had enrolled; with `lift`, whether it was revoked.
    pub known: bool,
}

/// `POST /ca/retire`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetireCa {
    /// The beginning of its SHA-256.
    pub id: String,
    /// Also if hosts would be locked out.
    pub force: bool,
}

/// The verbs.
pub fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/enroll-token", post(make_enrolment_token))
        .route("/tokens", get(list_tokens).post(make_access_token))
        .route("/tokens/{id}", delete(end_token))
        .route("/revoke", post(revoke))
        .route("/ca", get(list_cas))
        .route("/ca/rotate", post(rotate_ca))
        .route("/ca/retire", post(retire_ca))
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "not_found", "this collector has no such verb"))
        .with_state(admin)
}

async fn make_enrolment_token(
    State(admin): State<Arc<Admin>>,
    Json(asked): Json<MakeEnrolmentToken>,
) -> Result<Json<MadeToken>, ApiError> {
    let MakeEnrolmentToken { host, labels, replace, valid_s } = asked;
    check_labels(&labels)?;
    let time = valid(valid_s, MAX_ENROLMENT_TIME)?;
    let (secret, token) = admin.identities.make_enrolment_token(host, labels, replace, time).await?;
    tracing::info!(pattern = %token.pattern, until = %token.expires_at, "an enrolment token was made");
    let (id, expires_at) = (credential::id(token.digest), token.expires_at.to_string());
    Ok(Json(MadeToken { id, token: secret.reveal().to_owned(), expires_at }))
}

async fn make_access_token(
    State(admin): State<Arc<Admin>>,
    Json(MakeAccessToken { scope, valid_s }): Json<MakeAccessToken>,
) -> Result<Json<MadeToken>, ApiError> {
    let time = valid(valid_s, MAX_TOKEN_TIME)?;
    let (secret, token) = admin.identities.make_access_token(scope, time).await?;
    tracing::info!(scope = ?token.scope, until = %token.expires_at, "a token was made");
    let (id, expires_at) = (credential::id(token.digest), token.expires_at.to_string());
    Ok(Json(MadeToken { id, token: secret.reveal().to_owned(), expires_at }))
}

async fn list_tokens(State(admin): State<Arc<Admin>>) -> Result<Json<Vec<ListedToken>>, ApiError> {
    Ok(Json(credential::tokens(&*admin.store, admin.identities.clock().now()).await?))
}

async fn end_token(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let found = if is_id { admin.identities.end_token(&id).await? } else { 0 };
    match found {
        1 => Ok(StatusCode::NO_CONTENT),
        0 => {
            Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_token", "no token has this id; `token list` shows them"))
        }
        _ => Err(ApiError::bad_request("ambiguous", "several tokens have an id that begins so: give more of it")),
    }
}

async fn revoke(
    State(admin): State<Arc<Admin>>,
    Json(Revoke { host, lift }): Json<Revoke>,
) -> Result<Json<Revoked>, ApiError> {
    let known = if lift { admin.identities.lift(&host).await? } else { admin.identities.revoke(&host).await? };
    tracing::info!(%host, lift, "revoked");
    Ok(Json(Revoked { known }))
}

async fn list_cas(State(admin): State<Arc<Admin>>) -> Result<Json<Vec<ListedCa>>, ApiError> {
    own(&admin)?;
    Ok(Json(credential::cas(&admin.identities)))
}

async fn rotate_ca(State(admin): State<Arc<Admin>>) -> Result<Json<Vec<ListedCa>>, ApiError> {
    let digest = own(&admin)?.rotate(admin.identities.clock().now())?;
    refresh(&admin)?;
    tracing::info!(ca = %digest, "a new CA is in force");
    list_cas(State(admin)).await
}

async fn retire_ca(
    State(admin): State<Arc<Admin>>,
    Json(RetireCa { id, force }): Json<RetireCa>,
) -> Result<Json<Vec<ListedCa>>, ApiError> {
    let authority = own(&admin)?;
    authority.find(&id)?;
    let newest = authority.in_force().last().map(|ca| ca.made_at());
    // Whoever has a valid certificate got it after the newest was there, and knows it.
    let safe_at = newest.unwrap_or_default().plus(admin.identities.lifetime());
    if !force && safe_at > admin.identities.clock().now() {
        let public = format!(
            "until {safe_at} hosts that have not renewed their certificate since the newest CA was made would be locked \
             out; --force retires it all the same"
        );
        return Err(ApiError::new(StatusCode::CONFLICT, "ca_in_use", public));
    }
    let digest = authority.retire(&id)?;
    refresh(&admin)?;
    tracing::info!(ca = %digest, "a CA is no longer in force");
    list_cas(State(admin)).await
}

fn own(admin: &Admin) -> Result<&Authority, ApiError> {
    Ok(admin.identities.authority().ok_or(NotIssued::Nobody)?)
}

fn refresh(admin: &Admin) -> Result<(), ApiError> {
    Ok(admin.tls.as_ref().map_or(Ok(()), |tls| tls.refresh())?)
}

fn valid(seconds: u64, most: Duration) -> Result<Duration, ApiError> {
    let time = Duration::from_secs(seconds);
    if time.is_zero() || time > most {
        let public = format!("a token of this kind is valid for 1 second to {} days", most.as_secs() / 86_400);
        return Err(ApiError::bad_request("time", public));
    }
    Ok(time)
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), ApiError> {
    let fits = |text: &String| text.len() <= MAX_LABEL && !text.chars().any(char::is_control);
    if labels.len() <= MAX_LABELS && labels.iter().all(|(key, value)| !key.is_empty() && fits(key) && fits(value)) {
        return Ok(());
    }
    let public = format!("at most {MAX_LABELS} labels of at most {MAX_LABEL} bytes without control characters");
    Err(ApiError::bad_request("labels", public))
}

impl From<AuthorityError> for ApiError {
    fn from(error: AuthorityError) -> Self {
        match error {
            AuthorityError::TooMany | AuthorityError::Newest => {
                Self::new(StatusCode::CONFLICT, "ca", error.to_string())
            }
            AuthorityError::Unknown => Self::new(StatusCode::NOT_FOUND, "ca", error.to_string()),
            error => NotIssued::Authority(error).into(),
        }
    }
}

impl From<TlsError> for ApiError {
    fn from(error: TlsError) -> Self {
        let public = "certificates cannot be made anew now";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "tls", public).because(crate::failure::chain(&error))
    }
}
