//! Owns what a host and a collector say to each other when the host joins, and when it renews its certificate: a token
//! that is handed over by a person, and two exchanges in JSON. Must not own certificates, keys, or who may join.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::host_name::HostName;

/// Where a host joins.
pub const ENROLL_PATH: &str = "/v1/enroll";
/// Where it renews its certificate, with the one that it has.
pub const RENEW_PATH: &str = "/v1/renew";
/// Of the URI in a certificate (SPIFFE-ID section 2): `spiffe://<trust domain>/host/<name>`.
pub const URI_SCHEME: &str = "spiffe://";
/// What stands before the name in the URI of a host's certificate.
pub const HOST_PATH: &str = "/host/";
/// What stands before the name in the URI of the certificate of a host's receipt key.
pub const RECEIPT_PATH: &str = "/receipt/";
/// The trust domain where no other was given.
pub const TRUST_DOMAIN: &str = "driftlock";
/// The header that names the host of a request whose bearer token speaks for several.
pub const HOST_HEADER: &str = "driftlock-host";
/// Random bytes of a token's secret.
pub const SECRET_BYTES: usize = 32;

/// What a person takes from the collector to a host: `<secret>.<SHA-256 of the CA's certificate>`, the first in base64url
/// without padding, the second in hexadecimal digits. The host presents the secret to nobody but who has that CA.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolmentToken {
    secret: String,
    authority: Digest,
}

/// Why a text is no token. It is never quoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an enrolment token, which is one word of two parts with a dot between, as driftlock-collector prints it")]
pub struct TokenError;

/// What a host says to join.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollRequest {
    /// The secret of the token.
    pub token: String,
    /// As what it wants to be known.
    pub host: HostName,
    /// Its request for a certificate (PKCS#10), as PEM.
    pub csr: String,
    /// The key with which it signs receipts (SubjectPublicKeyInfo, Ed25519), as PEM.
    pub receipt_key: String,
    /// That it has that key: its signature over the DER of `csr`, in base64.
    pub receipt_proof: String,
}

/// What a host says to renew its certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// Its request for a certificate (PKCS#10), as PEM.
    pub csr: String,
}

/// What the collector gives to a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// As what it is known.
    pub host: HostName,
    /// Its certificate and those that lead from it to the CA, as PEM.
    pub certificate: String,
    /// The certificates of every CA that is in force, as PEM.
    pub ca: String,
    /// That of its receipt key, as PEM.
    pub receipt_certificate: String,
}

// === impl EnrolmentToken ===

impl EnrolmentToken {
    /// One of random bytes, for the CA whose certificate has this SHA-256.
    pub fn new(secret: &[u8; SECRET_BYTES], authority: Digest) -> Self {
        Self { secret: URL_SAFE_NO_PAD.encode(secret), authority }
    }

    /// What is presented to the collector.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// SHA-256 of the CA's certificate (DER).
    pub const fn authority(&self) -> Digest {
        self.authority
    }
}

impl FromStr for EnrolmentToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let (secret, authority) = text.split_once('.').ok_or(TokenError)?;
        let bytes = URL_SAFE_NO_PAD.decode(secret).map_err(|_| TokenError)?;
        let authority = authority.parse().map_err(|_| TokenError)?;
        if bytes.len() == SECRET_BYTES { Ok(Self { secret: secret.to_owned(), authority }) } else { Err(TokenError) }
    }
}

impl fmt::Display for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.secret, self.authority)
    }
}

impl fmt::Debug for EnrolmentToken {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a token for the CA {}", self.authority)
    }
}

impl fmt::Debug for EnrollRequest {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrollRequest").field("host", &self.host).field("csr", &self.csr).finish_non_exhaustive()
    }
}

/// The name in the URI of a certificate, of whatever trust domain; `None` if the URI is none of a host.
pub fn host_of_uri(uri: &str) -> Option<HostName> {
    let (domain, name) = uri.strip_prefix(URI_SCHEME)?.split_once(HOST_PATH)?;
    if domain.is_empty() || domain.contains('/') { None } else { name.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_word_that_was_printed() {
        let authority = Digest::sha256(b"ca");
        let token = EnrolmentToken::new(&[0xfb; SECRET_BYTES], authority);
        let text = token.to_string();
        assert_eq!(text, format!("{}.{authority}", "-_v7".repeat(10) + "-_s"));
        assert_eq!(text.parse::<EnrolmentToken>(), Ok(token.clone()));
        assert_eq!((token.secret().len(), token.authority()), (43, authority));
        assert!(!format!("{token:?}").contains(token.secret()));
    }

    #[test]
    fn what_is_no_token() {
        let good = EnrolmentToken::new(&[1; SECRET_BYTES], Digest::sha256(b"ca")).to_string();
        let (secret, authority) = good.split_once('.').unwrap();
        for text in [
            "",
            ".",
            secret,
            authority,
            &format!("{secret}."),
            &format!(".{authority}"),
            &format!("{secret}={authority}"),
            &format!("{secret}=.{authority}"),
            &format!("{}.{authority}", &secret[1..]),
            &format!("A{secret}.{authority}"),
            &format!("{secret}.{}", &authority[1..]),
            &format!("{secret}.{authority}0"),
            &format!("{secret}.{authority}."),
            &format!(" {good}"),
            &format!("{good}\n"),
        ] {
            assert_eq!(text.parse::<EnrolmentToken>(), Err(TokenError), "{text:?}");
        }
    }

    #[test]
    fn the_name_of_a_host_stands_in_its_uri() {
        let name = |uri| host_of_uri(uri).map(|name| name.to_string());
        assert_eq!(name("spiffe://driftlock/host/web-1.example"), Some("web-1.example".to_owned()));
        assert_eq!(name("spiffe://prod.example/host/a"), Some("a".to_owned()));
        for uri in [
            "spiffe://driftlock/receipt/web-1",
            "spiffe:///host/web-1",
            "spiffe://a/b/host/web-1",
            "spiffe://driftlock/host/",
            "spiffe://driftlock/host/a/b",
            "spiffe://driftlock/host/a b",
            "https://driftlock/host/web-1",
            "driftlock/host/web-1",
            "",
        ] {
            assert_eq!(name(uri), None, "{uri}");
        }
    }
}
