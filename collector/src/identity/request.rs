//! Owns requests for certificates (PKCS #10, RFC 2986): whether who asks has the key. What else a request asks for (names,
//! to be a CA, anything) is not looked at. Must not own what is issued.

use driftlock_common::trust::{PublicKey, Scheme};
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::pem::{LineEnding, PemLabel as _, decode_vec};
use x509_cert::der::{Decode as _, DecodePem as _, Encode as _, EncodePem as _};
use x509_cert::request::CertReq;
use x509_cert::spki::SubjectPublicKeyInfoOwned;

/// The longest request, in bytes of PEM. One for a P-256 key takes a thirtieth of it.
pub const MAX_REQUEST: usize = 16 * 1024;

/// ecdsa-with-SHA256 (RFC 5758, 3.2).
const ECDSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");

/// A request whose sender has the private key.
#[derive(Debug)]
pub struct CertificateRequest {
    key: SubjectKey,
    der: Vec<u8>,
}

/// A public key as it stands in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectKey {
    pub(super) bits: Vec<u8>,
    pub(super) scheme: Scheme,
}

/// Why a request is none. Nothing of it is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// More than [`MAX_REQUEST`] bytes.
    #[error("the request is longer than any for a P-256 key")]
    TooLong,
    /// Neither PEM nor DER of a request.
    #[error("not a certificate request in PEM")]
    Malformed,
    /// Another kind of key.
    #[error("the request's key is not on P-256, or not usable")]
    Key,
    /// Not signed by its own key.
    #[error("the request is not signed by its own key with ECDSA and SHA-256")]
    Signature,
}

impl CertificateRequest {
    /// Reads a request, and verifies its signature.
    ///
    /// # Errors
    /// If it is none for a P-256 key, or was not signed by that key.
    pub fn read(pem: &str) -> Result<Self, RequestError> {
        if pem.len() > MAX_REQUEST {
            return Err(RequestError::TooLong);
        }
        let malformed = |_| RequestError::Malformed;
        let (label, der) = decode_vec(pem.trim_ascii().as_bytes()).map_err(|_| RequestError::Malformed)?;
        if label != CertReq::PEM_LABEL {
            return Err(RequestError::Malformed);
        }
        let request = CertReq::from_der(&der).map_err(malformed)?;
        let signed = request.info.to_der().map_err(malformed)?;
        let key = request.info.public_key.to_pem(LineEnding::LF).map_err(malformed)?;
        let key = PublicKey::from_pem(&key).map_err(|_| RequestError::Key)?;
        if key.scheme() != Scheme::EcdsaP256 {
            return Err(RequestError::Key);
        }
        let signature = request.signature.as_bytes().ok_or(RequestError::Malformed)?;
        if request.algorithm.oid != ECDSA_WITH_SHA256 || !key.verifies(&signed, signature) {
            return Err(RequestError::Signature);
        }
        Ok(Self { key: SubjectKey::of(&key).ok_or(RequestError::Key)?, der })
    }

    /// Whose key it is for.
    pub const fn key(&self) -> &SubjectKey {
        &self.key
    }

    /// The request's bytes.
    pub fn der(&self) -> &[u8] {
        &self.der
    }
}

impl SubjectKey {
    /// A key as it stands in a certificate.
    pub fn of(key: &PublicKey) -> Option<Self> {
        let info = SubjectPublicKeyInfoOwned::from_pem(key.to_pem()).ok()?;
        Some(Self { bits: info.subject_public_key.as_bytes()?.to_vec(), scheme: key.scheme() })
    }

    /// The key that a certificate is for.
    pub fn of_certificate(der: &[u8]) -> Option<Vec<u8>> {
        let certificate = x509_cert::Certificate::from_der(der).ok()?;
        Some(certificate.tbs_certificate().subject_public_key_info().subject_public_key.as_bytes()?.to_vec())
    }
}
