//! Owns what of a client's certificate counts: which host it names, when it was issued, until when it is valid. That it
//! leads to a CA in force is the handshake's. Must not own what is revoked.

use std::fmt;

use clap::ValueEnum;
use driftlock_common::enrolment::{HOST_PATH, RECEIPT_PATH, TRUST_DOMAIN, URI_SCHEME};
use driftlock_common::host_name::HostName;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::clock::Timestamp;

/// The first byte of a serial number that says when its certificate was issued.
const TIMED: u8 = 1;
/// Bytes of such a serial number: [`TIMED`], seven of the time, eight random ones.
const SERIAL: usize = 16;

/// How certificates name hosts.
#[derive(Clone, Debug)]
pub struct Naming {
    /// The trust domain of the URIs.
    pub trust_domain: String,
    /// Which name counts.
    pub rule: NameRule,
}

/// Which name of a client's certificate is the host's. There must be exactly one of the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NameRule {
    /// The URI `spiffe://<trust domain>/host/<name>`
    Spiffe,
    /// The DNS name
    Dns,
}

/// A serial number, which also says when the certificate was issued: to the millisecond, and never earlier than a
/// revocation before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serial([u8; SERIAL]);

/// What counts of a client's certificate.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// The host that it names.
    pub host: Result<HostName, NameError>,
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// When it was issued, if its serial number says so.
    pub issued_at: Option<Timestamp>,
    /// From when it is valid.
    pub not_before: Timestamp,
    /// Until when it is valid.
    pub not_after: Timestamp,
}

/// Why a certificate names no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It cannot be read.
    #[error("the client certificate cannot be read")]
    Malformed,
    /// None or several of the kind.
    #[error("the client certificate does not have exactly one URI, or DNS name, whichever counts here")]
    Number,
    /// Not a host's.
    #[error("the client certificate's name is none of a host in this trust domain")]
    Other,
}

impl Default for Naming {
    fn default() -> Self {
        Self { trust_domain: TRUST_DOMAIN.to_owned(), rule: NameRule::Spiffe }
    }
}

impl Naming {
    /// The URI of a host's certificate.
    pub fn host_uri(&self, host: &HostName) -> String {
        format!("{URI_SCHEME}{}{HOST_PATH}{host}", self.trust_domain)
    }

    /// The URI of the certificate of a host's receipt key.
    pub fn receipt_uri(&self, host: &HostName) -> String {
        format!("{URI_SCHEME}{}{RECEIPT_PATH}{host}", self.trust_domain)
    }

    fn host(&self, names: &[GeneralName]) -> Result<HostName, NameError> {
        let mut found = names.iter().filter_map(|name| match (name, self.rule) {
            (GeneralName::UniformResourceIdentifier(uri), NameRule::Spiffe) => Some(uri.as_str()),
            (GeneralName::DnsName(name), NameRule::Dns) => Some(name.as_str()),
            _ => None,
        });
        let (Some(name), None) = (found.next(), found.next()) else { return Err(NameError::Number) };
        let name = match self.rule {
            NameRule::Dns => Some(name),
            NameRule::Spiffe => name
                .strip_prefix(URI_SCHEME)
                .and_then(|rest| rest.strip_prefix(self.trust_domain.as_str()))
                .and_then(|rest| rest.strip_prefix(HOST_PATH)),
        };
        name.and_then(|name| name.parse().ok()).ok_or(NameError::Other)
    }
}

impl Serial {
    /// One for a certificate that is issued now.
    pub fn new(issued_at: Timestamp, random: [u8; 8]) -> Self {
        let mut bytes = [0; SERIAL];
        bytes[..8].copy_from_slice(&issued_at.millis().to_be_bytes());
        bytes[0] = TIMED;
        bytes[8..].copy_from_slice(&random);
        Self(bytes)
    }

    /// The bytes, big endian.
    pub const fn as_bytes(&self) -> &[u8; SERIAL] {
        &self.0
    }

    /// When the certificate was issued.
    pub fn issued_at(&self) -> Timestamp {
        let mut millis = [0; 8];
        millis[1..].copy_from_slice(&self.0[1..8]);
        Timestamp::from_millis(i64::from_be_bytes(millis))
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; SERIAL] = bytes.try_into().ok()?;
        (bytes[0] == TIMED).then_some(Self(bytes))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl ClientCertificate {
    /// Reads the DER of a certificate. One that cannot be read names no host, and is valid at no time.
    pub fn read(der: &[u8], naming: &Naming) -> Self {
        let Ok(certificate) = x509_cert::Certificate::from_der(der) else {
            let never = Timestamp::default();
            let host = Err(NameError::Malformed);
            return Self { host, serial: String::new(), issued_at: None, not_before: never, not_after: never };
        };
        let fields = certificate.tbs_certificate();
        let host = match fields.get_extension::<SubjectAltName>() {
            Ok(Some((_, SubjectAltName(names)))) => naming.host(&names),
            Ok(None) => Err(NameError::Number),
            Err(_) => Err(NameError::Malformed),
        };
        let serial = fields.serial_number().as_bytes();
        let time = |time: x509_cert::time::Time| {
            Timestamp::from_millis(i64::try_from(time.to_unix_duration().as_millis()).unwrap_or(i64::MAX))
        };
        Self {
            host,
            serial: hex::encode(serial),
            issued_at: Serial::read(serial).map(|serial| serial.issued_at()),
            not_before: time(fields.validity().not_before),
            not_after: time(fields.validity().not_after),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_cert::der::asn1::Ia5String;

    #[test]
    fn a_serial_number_says_when() {
        for millis in [0, 1, 1_764_495_000_123, 1 << 54] {
            let serial = Serial::new(Timestamp::from_millis(millis), [0xff; 8]);
            assert_eq!(serial.issued_at().millis(), millis);
            assert_eq!(Serial::read(serial.as_bytes()), Some(serial));
        }
        for other in [&[][..], &[1; 15], &[1; 17], &[2; 16]] {
            assert_eq!(Serial::read(other), None);
        }
    }

    #[test]
    fn exactly_one_name_counts() {
        let uri = |text: &str| GeneralName::UniformResourceIdentifier(Ia5String::new(text).unwrap());
        let dns = |text: &str| GeneralName::DnsName(Ia5String::new(text).unwrap());
        let spiffe = Naming::default();
        let by_dns = Naming { rule: NameRule::Dns, ..Naming::default() };
        let web: HostName = "web-1".parse().unwrap();
        assert_eq!(spiffe.host(&[uri(&spiffe.host_uri(&web))]), Ok(web.clone()));
        assert_eq!(spiffe.host(&[dns("other"), uri("spiffe://driftlock/host/web-1")]), Ok(web.clone()));
        assert_eq!(by_dns.host(&[uri("spiffe://driftlock/host/other"), dns("web-1")]), Ok(web.clone()));
        assert_eq!(spiffe.host(&[]), Err(NameError::Number));
        assert_eq!(spiffe.host(&[dns("web-1")]), Err(NameError::Number));
        assert_eq!(by_dns.host(&[dns("a"), dns("b")]), Err(NameError::Number));
        let both = [uri("spiffe://driftlock/host/a"), uri("spiffe://other/host/a")];
        assert_eq!(spiffe.host(&both), Err(NameError::Number));
        for other in [
            spiffe.receipt_uri(&web).as_str(),
            "spiffe://driftlock.example/host/web-1",
            "spiffe://driftloc/host/web-1",
            "spiffe://driftlock/host/",
            "spiffe://driftlock/host/a/b",
            "spiffe://driftlock/host/a%2fb",
            "spiffe://driftlock/host/../b",
            "SPIFFE://driftlock/host/a",
            "https://driftlock/host/a",
            "",
        ] {
            assert_eq!(spiffe.host(&[uri(other)]), Err(NameError::Other), "{other}");
        }
        assert_eq!(by_dns.host(&[dns("*.example")]), Err(NameError::Other));
    }

    #[test]
    fn what_is_no_certificate_names_nobody() {
        for der in [&[][..], b"x", &[0x30, 0x80], &[0x30, 0x03, 0x02, 0x01, 0x01]] {
            let read = ClientCertificate::read(der, &Naming::default());
            assert_eq!(read.host, Err(NameError::Malformed));
        }
    }
}
