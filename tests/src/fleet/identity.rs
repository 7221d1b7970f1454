//! Owns the keys of a simulated host, its joining, and how it connects from then on. Must not own connections.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use driftlock_common::enrolment::{ENROLL_PATH, EnrollRequest, EnrolmentToken, Issued};
use driftlock_common::path::to_base64;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SigningKey as _};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::wire::{Wire, request};
use crate::authority::pem_body;
use crate::http::Answer;

/// Whom every host of a fleet believes: shared, as everything is that they have in common.
#[derive(Clone, Debug)]
pub struct Trust {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
}

/// The two keys of a host.
#[derive(Debug)]
pub struct Keys {
    /// Of its certificate.
    pub key: KeyPair,
    /// With which it signs receipts.
    pub receipt: KeyPair,
}

/// A host that joined.
#[derive(Debug)]
pub struct Identity {
    /// Its keys.
    pub keys: Keys,
    /// What it was given.
    pub issued: Issued,
    /// How it connects.
    pub config: Arc<ClientConfig>,
}

impl Trust {
    /// Believes in the CAs of a PEM text.
    ///
    /// # Errors
    /// If it holds none.
    pub fn new(pem: &str) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(root.context("a certificate")?)?;
        }
        ensure!(!roots.is_empty(), "no CA in {pem:?}");
        Ok(Self { provider: Arc::new(ring::default_provider()), roots: Arc::new(roots) })
    }

    /// Connects without a certificate.
    ///
    /// # Errors
    /// If the library refuses.
    pub fn stranger(&self) -> Result<Arc<ClientConfig>> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider));
        let builder = builder.with_safe_default_protocol_versions()?;
        Ok(light(builder.with_root_certificates(Arc::clone(&self.roots)).with_no_client_auth()))
    }

    /// Connects with a certificate (PEM, those that lead to its CA behind it) and its key.
    ///
    /// # Errors
    /// If they do not belong together.
    pub fn host(&self, certificate: &str, key: &KeyPair) -> Result<Arc<ClientConfig>> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider));
        let builder = builder.with_safe_default_protocol_versions()?;
        let builder = builder.with_root_certificates(Arc::clone(&self.roots));
        Ok(light(builder.with_client_auth_cert(chain.context("a certificate")?, key)?))
    }
}

/// The collector gives out no tickets, so there is nothing to remember for each host.
fn light(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

impl Keys {
    /// New ones.
    ///
    /// # Errors
    /// If the library refuses.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok(Self { key, receipt: KeyPair::generate_for(&PKCS_ED25519)? })
    }

    /// What a host says to join.
    ///
    /// # Errors
    /// If the name is none, or the library refuses.
    pub fn asks(&self, host: &str, token: &EnrolmentToken) -> Result<EnrollRequest> {
        let csr = CertificateParams::default().serialize_request(&self.key)?.pem()?;
        let proof = self.receipt.sign(&pem_body(&csr)?)?;
        Ok(EnrollRequest {
            token: token.secret().to_owned(),
            host: host.parse().context("a name")?,
            csr,
            receipt_key: self.receipt.public_key_pem(),
            receipt_proof: to_base64(&proof),
        })
    }

    /// Joins over a connection without a certificate.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn join(self, wire: &mut Wire, trust: &Trust, host: &str, token: &EnrolmentToken) -> Result<Identity> {
        let answer = enroll(wire, &self.asks(host, token)?).await?;
        let issued: Issued = serde_json::from_value(answer.json()?)?;
        let config = trust.host(&issued.certificate, &self.key)?;
        Ok(Identity { keys: self, issued, config })
    }
}

/// The answer to who wants to join.
///
/// # Errors
/// If the connection ends.
pub async fn enroll(wire: &mut Wire, asked: &EnrollRequest) -> Result<Answer> {
    let headers = [("content-type", "application/json")];
    wire.ask(&request("POST", ENROLL_PATH, &headers, &serde_json::to_vec(asked)?)).await
}
