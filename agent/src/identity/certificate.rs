//! Owns what is read of a host's own certificate. Nothing is verified here: those to whom it is shown do that.

use driftlock_common::enrolment::host_of_uri;
use driftlock_common::host_name::HostName;
use driftlock_common::trust::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::time::Time;

/// What is read of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Since when it is good.
    pub from: Timestamp,
    /// Until when it is.
    pub until: Timestamp,
    /// The name in its URI, if it has one as driftlock's have.
    pub host: Option<HostName>,
    /// Whose it is: the public key, DER of SubjectPublicKeyInfo.
    pub key: Vec<u8>,
}

/// Why it cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the PEM of an X.509 certificate")]
pub struct CertificateError;

impl Certificate {
    /// Reads the first certificate of a PEM text.
    ///
    /// # Errors
    /// If there is none, or it is none.
    pub fn of_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        let der = CertificateDer::from_pem_slice(pem).map_err(|_| CertificateError)?;
        let certificate = x509_cert::Certificate::from_der(&der).map_err(|_| CertificateError)?;
        let certificate = certificate.tbs_certificate();
        let names = certificate.get_extension::<SubjectAltName>().map_err(|_| CertificateError)?;
        let host = names.iter().flat_map(|(_critical, names)| &names.0).find_map(|name| match name {
            GeneralName::UniformResourceIdentifier(uri) => host_of_uri(uri.as_str()),
            _ => None,
        });
        let validity = certificate.validity();
        let key = certificate.subject_public_key_info().to_der().map_err(|_| CertificateError)?;
        Ok(Self { from: at(validity.not_before), until: at(validity.not_after), host, key })
    }
}

fn at(time: Time) -> Timestamp {
    Timestamp::from_unix(i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX))
}
