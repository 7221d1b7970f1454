//! Owns asking for a certificate: PKCS#10 (RFC 2986), for a key of P-256. Without a name: what a host is called is the
//! collector's to say. Must not own the key.

use driftlock_common::trust::PrivateKey;
use x509_cert::attr::Attributes;
use x509_cert::der::asn1::BitString;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{self, Decode as _, Encode as _};
use x509_cert::name::Name;
use x509_cert::request::{CertReq, CertReqInfo, Version};
use x509_cert::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// ecdsa-with-SHA256 (RFC 5758 section 3.2).
const ECDSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
/// Characters in a line of PEM (RFC 7468 section 2).
const LINE: usize = 64;

/// A request, signed by the key that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// As it is signed over.
    pub(super) der: Vec<u8>,
}

impl Request {
    /// One for this key, of P-256.
    ///
    /// # Errors
    /// If it is a key that cannot be written.
    pub(super) fn by(key: &PrivateKey) -> Result<Self, der::Error> {
        let info = CertReqInfo {
            version: Version::V1,
            subject: Name::default(),
            public_key: SubjectPublicKeyInfo::from_der(&key.public().to_der())?,
            attributes: Attributes::default(),
        };
        let signature = BitString::from_bytes(&key.sign(&info.to_der()?))?;
        let algorithm = AlgorithmIdentifier { oid: ECDSA_WITH_SHA256, parameters: None };
        Ok(Self { der: CertReq { info, algorithm, signature }.to_der()? })
    }

    /// As PEM.
    pub(super) fn to_pem(&self) -> String {
        let text = STANDARD.encode(&self.der);
        let mut pem = String::from("-----BEGIN CERTIFICATE REQUEST-----\n");
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (line, more) = rest.split_at(rest.len().min(LINE));
            pem.push_str(line);
            pem.push('\n');
            rest = more;
        }
        pem.push_str("-----END CERTIFICATE REQUEST-----\n");
        pem
    }
}
