//! Owns a CA under test, which gives what a collector gives. Must not own what a host should make of it.

use std::path::Path;
use std::time::Duration;

use driftlock_common::enrolment::Issued;
use driftlock_common::trust::PublicKey;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType, SubjectPublicKeyInfo};
use time::OffsetDateTime;

use super::Identity;
use super::directory::{Change, Directory, Origin};

/// A CA.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// PEM of its certificate.
    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate of `key`, for `uri`, good from an hour ago.
    pub(super) fn certify(&self, key: &PublicKey, uri: &str, life: Duration) -> String {
        let mut params = CertificateParams::new([]).unwrap();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.not_before = OffsetDateTime::now_utc() - Duration::from_hours(1);
        params.not_after = params.not_before + life;
        let key = SubjectPublicKeyInfo::from_der(&key.to_der()).unwrap();
        params.signed_by(&key, &self.issuer).unwrap().pem()
    }

    /// What a host of this name is given that has begun a change.
    pub(super) fn issue(&self, change: &Change, host: &str) -> Issued {
        let month = Duration::from_hours(24 * 30);
        Issued {
            host: host.parse().unwrap(),
            certificate: self.certify(change.key().public(), &format!("spiffe://driftlock/host/{host}"), month),
            ca: self.pem.clone(),
            receipt_certificate: self.certify(
                change.receipt_key().public(),
                &format!("spiffe://driftlock/receipt/{host}"),
                month,
            ),
        }
    }

    /// Lets the host of a state directory join.
    pub(super) fn join(&self, state_dir: &Path, host: &str) -> Identity {
        let change = Directory::of(state_dir).lock().unwrap().begin().unwrap();
        let issued = self.issue(&change, host);
        change.keep(&issued, &Origin::default()).unwrap()
    }
}
