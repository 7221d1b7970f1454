//! Owns what host and collector say to each other when a host joins and when its certificate is renewed: paths, JSON,
//! names in certificates, and the token that an operator carries over. Must not own keys, or who may join.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::host_name::HostName;

/// Where a host joins: `POST` of an [`EnrollRequest`], without a client certificate.
pub const ENROLL_PATH: &str = "/v1/enroll";
/// Where its certificate is renewed: `POST` of a [`RenewRequest`], with the certificate that is in force.
pub const RENEW_PATH: &str = "/v1/renew";
/// The header that names the host of a request whose token speaks for several: a report token with a pattern.
pub const HOST_HEADER: &str = "driftlock-host";
/// The trust domain where no other was given.
pub const TRUST_DOMAIN: &str = "driftlock";
/// Random bytes of a secret.
pub const SECRET_BYTES: usize = 32;

/// What a host asks for. Of the request for a certificate (PKCS #10, RFC 2986) only its key and the proof of possession
/// count; whatever else it asks for is ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollRequest {
    /// The secret of the [`EnrolmentToken`], as it stands in it.
    pub token: String,
    /// How the host is to be called.
    pub host: String,
    /// PEM.
    pub csr: String,
    /// The key that signs receipts, apart from the one of the connection: PEM of an Ed25519 `SubjectPublicKeyInfo`.
    pub receipt_key: String,
    /// Base64: that key's signature over the DER of the CSR.
    pub receipt_proof: String,
}

/// A new certificate for the host that asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// PEM. Its key may be a new one.
    pub csr: String,
}

/// The answer to both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// How the host is called.
    pub host: HostName,
    /// PEM: the host's certificate, and what leads from it to one of `ca`.
    pub certificate: String,
    /// PEM: every CA in force. It replaces what the host believed before.
    pub ca: String,
    /// PEM: the certificate of the receipt key.
    pub receipt_certificate: String,
}

/// What an operator carries from the collector to a host, one word: `<secret>.<digest>`. The secret is base64url without
/// padding of [`SECRET_BYTES`] random bytes; the digest, in hexadecimal, is the SHA-256 of the DER of the CA certificate
/// that the collector's own certificate leads to, so that the host knows whom it tells the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolmentToken {
    /// The secret, as text.
    pub secret: String,
    /// SHA-256 of a CA certificate.
    pub ca: Digest,
}

/// Why a text is no [`EnrolmentToken`]. The text is not repeated: it may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an enrolment token: one word of 43 characters, a dot and 64 hexadecimal digits, as enroll-token prints it"
)]
pub struct EnrolmentTokenError;

/// The secret of these bytes, as text.
pub fn secret_text(bytes: &[u8; SECRET_BYTES]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The name of a host in the URI of its certificate: `spiffe://<trust domain>/host/<name>` (SPIFFE-ID, 2.).
pub fn host_uri(trust_domain: &str, host: &HostName) -> String {
    format!("spiffe://{trust_domain}/host/{host}")
}

/// The name in the URI of the certificate of a host's receipt key.
pub fn receipt_uri(trust_domain: &str, host: &HostName) -> String {
    format!("spiffe://{trust_domain}/receipt/{host}")
}

/// The host that a URI of a client certificate names, if it is one of this trust domain.
pub fn host_of_uri(trust_domain: &str, uri: &str) -> Option<HostName> {
    uri.strip_prefix("spiffe://")?.strip_prefix(trust_domain)?.strip_prefix("/host/")?.parse().ok()
}

impl FromStr for EnrolmentToken {
    type Err = EnrolmentTokenError;

    fn from_str(text: &str) -> Result<Self, EnrolmentTokenError> {
        let (secret, ca) = text.split_once('.').ok_or(EnrolmentTokenError)?;
        let bytes = URL_SAFE_NO_PAD.decode(secret).map_err(|_| EnrolmentTokenError)?;
        let ca = ca.parse().map_err(|_| EnrolmentTokenError)?;
        if bytes.len() == SECRET_BYTES { Ok(Self { secret: secret.to_owned(), ca }) } else { Err(EnrolmentTokenError) }
    }
}

impl fmt::Display for EnrolmentToken {
    /// With its secret: only for who is to have it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.secret, self.ca)
    }
}

impl fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "enrolment token for the CA {}", self.ca)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let token = EnrolmentToken { secret: secret_text(&[0xfb; SECRET_BYTES]), ca: Digest::sha256(b"ca") };
        let text = token.to_string();
        assert_eq!(text.len(), 43 + 1 + 64);
        assert_eq!(text.parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains(&token.secret), "a secret is shown");
        let secret = &token.secret;
        for bad in [
            "",
            ".",
            secret,
            &format!("{secret}."),
            &format!("{}.{}", &secret[1..], token.ca),
            &format!("{secret}=.{}", token.ca),
            &format!("{}.{}", secret.replace('-', "+"), token.ca),
            &format!("{text} "),
            &text.to_ascii_uppercase(),
        ] {
            assert_eq!(bad.parse::<EnrolmentToken>(), Err(EnrolmentTokenError), "{bad}");
        }
    }

    #[test]
    fn names_in_certificates() {
        let host: HostName = "web-1.example".parse().unwrap();
        let uri = host_uri("driftlock", &host);
        assert_eq!(uri, "spiffe://driftlock/host/web-1.example");
        assert_eq!(host_of_uri("driftlock", &uri), Some(host.clone()));
        for other in [
            receipt_uri("driftlock", &host),
            host_uri("driftlock.example", &host),
            "spiffe://driftlock/host/".to_owned(),
            "spiffe://driftlock/host/a/b".to_owned(),
            "spiffe://driftlock/host/a%2fb".to_owned(),
            "spiffe://driftlockx/host/a".to_owned(),
            "https://driftlock/host/a".to_owned(),
            "SPIFFE://driftlock/host/a".to_owned(),
        ] {
            assert_eq!(host_of_uri("driftlock", &other), None, "{other}");
        }
    }
}
