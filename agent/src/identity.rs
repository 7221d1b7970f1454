//! Owns what a host is at its collector: the key and certificate with which it reports, whom it believes there, and the key
//! with which it signs receipts. Must not own what is reported.
//!
//! On disk, in `identity` within the state directory: `key.pem` and `certificate.pem`, `ca.pem` with the CAs that are
//! believed, `endpoint` with the collector's address, `receipt.key` with `receipt.pem`, and `token.sha256` of the token that
//! the host joined with. All of it is replaced together.

mod certificate;
mod directory;
mod exchange;
mod joining;
mod renewal;
mod request;

#[cfg(test)]
mod kit;
#[cfg(test)]
mod tests;

use driftlock_common::digest::Digest;
use driftlock_common::host_name::HostName;
use driftlock_common::trust::Timestamp;

pub use certificate::{Certificate, CertificateError};
pub use directory::{Change, Directory, IdentityError};
pub use exchange::ExchangeError;
pub use joining::{JoinError, Joined, Wish, enroll, renew};
pub use renewal::Renewal;

use crate::config::Endpoint;
use crate::http::Credential;

/// What a host is at its collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name there; `None` if its certificate does not say it as driftlock's do.
    pub host: Option<HostName>,
    /// Where the collector is, if the host joined one.
    pub endpoint: Option<Endpoint>,
    /// What it proves its name with.
    pub credential: Credential,
    /// PEM of the CAs that the collector is believed by; `None`: those of the system.
    pub authorities: Option<Vec<u8>>,
    /// Since when the certificate is good.
    pub from: Timestamp,
    /// Until when it is.
    pub until: Timestamp,
    /// SHA-256 of the secret of the token that the host joined with.
    pub token: Option<Digest>,
}

impl Identity {
    /// The name, or a word for it.
    pub fn name(&self) -> &str {
        self.host.as_ref().map_or("this host", HostName::as_str)
    }
}
