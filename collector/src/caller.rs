//! Owns the identity of a request: the host that its credential speaks for. It is made here alone, for each request anew,
//! so that what was revoked does not go on over a connection that is open. Must not own what the host may do.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, StatusCode};
use driftlock_common::enrolment::HOST_HEADER;
use driftlock_common::host_name::HostName;

use crate::app::AppState;
use crate::auth::bearer;
use crate::error::ApiError;
use crate::identity::Refused;
use crate::identity::certificate::ClientCertificate;
use crate::listener::Place;

/// Who sent a request, if it speaks for a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The host. Whatever a body says of one is its agent's claim.
    pub host: HostName,
    /// How that is known.
    pub via: Via,
}

/// How a caller is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// By a client certificate.
    Certificate {
        /// Its serial number, in hexadecimal.
        serial: String,
    },
    /// By a bearer token.
    Token,
}

/// The connection that a request came over: an extension of each request. Requests without one came over none, in tests.
#[derive(Clone, Debug)]
pub struct Connection {
    /// From where.
    pub address: IpAddr,
    /// Whether what is said cannot be read on the way.
    pub is_tls: bool,
    /// Whose certificate the handshake verified.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// Held as long as nobody is known to be at the other end.
    pub(crate) unknown: Arc<Mutex<Option<Place>>>,
}

impl Connection {
    /// A credential was accepted over it: it no longer counts among those of strangers.
    pub fn is_known(&self) {
        let held = self.unknown.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(held);
    }
}

impl Caller {
    /// Who sent a request. A certificate wins over a token.
    ///
    /// # Errors
    /// 401 if there is no credential or it does not count, 403 if it is not for this.
    pub fn of(state: &AppState, extensions: &Extensions, headers: &HeaderMap) -> Result<Self, ApiError> {
        let connection = extensions.get::<Connection>();
        let caller = match connection.and_then(|connection| connection.certificate.as_ref()) {
            Some(certificate) => {
                let host = state.identities.host_of_certificate(certificate)?;
                Self { host, via: Via::Certificate { serial: certificate.serial.clone() } }
            }
            None => Self { host: host_of_token(state, headers)?, via: Via::Token },
        };
        if let Some(connection) = connection {
            connection.is_known();
        }
        Ok(caller)
    }
}

fn host_of_token(state: &AppState, headers: &HeaderMap) -> Result<HostName, ApiError> {
    let token = bearer(headers).ok_or(Refused::Missing)?;
    if let Some(host) = state.tokens().host_of(token) {
        state.identities.may_use_token(host)?;
        return Ok(host.clone());
    }
    let mut named = headers.get_all(HOST_HEADER).iter();
    let named = match (named.next(), named.next()) {
        (None, _) => None,
        (Some(name), None) => Some(name.to_str().ok().and_then(|name| name.parse().ok()).ok_or(Refused::OtherHost)?),
        (Some(_), Some(_)) => return Err(Refused::OtherHost.into()),
    };
    Ok(state.identities.host_of_token(token, named)?)
}

impl FromRequestParts<Arc<AppState>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<AppState>) -> Result<Self, ApiError> {
        Self::of(state, &parts.extensions, &parts.headers)
    }
}

impl From<Refused> for ApiError {
    fn from(why: Refused) -> Self {
        let public = why.to_string();
        match why {
            Refused::Missing => Self::unauthorized("Bearer realm=\"driftlock\"", public),
            Refused::Token => Self::unauthorized("Bearer realm=\"driftlock\", error=\"invalid_token\"", public),
            Refused::Scope(_) => Self::new(StatusCode::FORBIDDEN, "scope", public),
            Refused::Unnamed => Self::bad_request("host_not_named", public),
            Refused::OtherHost => Self::new(StatusCode::FORBIDDEN, "other_host", public),
            Refused::Enrolled => Self::new(StatusCode::FORBIDDEN, "enrolled", public),
            Refused::Revoked => Self::new(StatusCode::FORBIDDEN, "revoked", public),
            Refused::Time => Self::new(StatusCode::FORBIDDEN, "certificate_time", public),
            Refused::Name(_) => Self::new(StatusCode::FORBIDDEN, "certificate_name", public),
        }
    }
}
