//! Owns a CA of the kit, made with another library than the product's: it certifies a collector that misbehaves on command,
//! and hosts that join it. Must not own what an agent should make of that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, SanType, SubjectPublicKeyInfo,
};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use crate::fake::lock;

/// A certificate is good from this long ago: two clocks are never the same.
const BEFORE: Duration = Duration::from_secs(1);

/// A CA.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
    /// Secrets of tokens, and the key that used each.
    tokens: Mutex<BTreeMap<String, Option<Vec<u8>>>>,
    life: Mutex<Duration>,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new() -> Result<Arc<Self>> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "a CA of the tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(Arc::new(Self {
            der: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
            tokens: Mutex::default(),
            life: Mutex::new(Duration::from_hours(24 * 30)),
        }))
    }

    /// PEM of its certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its certificate.
    pub const fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Certificates are good for so long from now on.
    pub fn give_for(&self, life: Duration) {
        *lock(&self.life) = life;
    }

    /// A token with which one host may join.
    pub fn token(&self) -> String {
        let mut tokens = lock(&self.tokens);
        // 43 characters of base64url whose last has no bits to spare are 32 bytes. One in 64 begins with a hyphen.
        let secret = format!("-{:0>41}A", tokens.len());
        tokens.insert(secret.clone(), None);
        format!("{secret}.{}", hex::encode(Sha256::digest(&self.der)))
    }

    /// How whoever has a certificate of this CA for these names answers: with the CA's own behind it.
    ///
    /// # Errors
    /// If it cannot be set up.
    pub fn server(&self, names: &[&str]) -> Result<Arc<ServerConfig>> {
        let (certificate, key) = self.certify_server(names)?;
        let chain = vec![certificate.der().clone(), self.der.clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        self.server_with(chain, key)
    }

    /// The same with a certificate that is a host's: what a stolen key of one can do.
    ///
    /// # Errors
    /// If it cannot be set up.
    pub fn server_of_a_host(&self, certificate: &str, key: &str) -> Result<Arc<ServerConfig>> {
        let certificate = pem_body(certificate).context("a certificate")?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pem_body(key).context("a key")?));
        self.server_with(vec![CertificateDer::from(certificate), self.der.clone()], key)
    }

    /// A certificate for a server of these names, and its key.
    ///
    /// # Errors
    /// If they cannot be made.
    pub fn certify_server(&self, names: &[&str]) -> Result<(Certificate, KeyPair)> {
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &self.issuer)?, key))
    }

    /// A certificate for a host, and its key.
    ///
    /// # Errors
    /// If they cannot be made.
    pub fn certify_host(&self, host: &str) -> Result<(Certificate, KeyPair)> {
        let mut params = self.params("host", host)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &self.issuer)?, key))
    }

    fn server_with(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Arc<ServerConfig>> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone())?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let verifier = verifier.allow_unauthenticated().build()?;
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(Arc::new(config.with_client_cert_verifier(verifier).with_single_cert(chain, key)?))
    }

    /// The answer to a host that wants to join: a status and a body.
    ///
    /// # Errors
    /// If what it sends is not as promised.
    pub fn enroll(&self, asked: &Value) -> Result<(u16, Value)> {
        let text = |key: &str| asked[key].as_str().with_context(|| format!("{key} in {asked}"));
        let csr = CertificateSigningRequestParams::from_pem(text("csr")?)?;
        let key = rcgen::PublicKeyData::der_bytes(&csr.public_key).to_vec();
        let mut tokens = lock(&self.tokens);
        match tokens.get_mut(text("token")?) {
            None => return Ok((403, json!({"code": "token_unknown", "detail": "this token is not known"}))),
            Some(Some(used)) if *used != key => {
                return Ok((403, json!({"code": "token_used", "detail": "this token was used"})));
            }
            Some(used) => *used = Some(key),
        }
        Ok((200, self.issue(&csr, text("host")?, text("receipt_key")?)?))
    }

    /// The answer to a host that renews its certificate.
    ///
    /// # Errors
    /// As [`Authority::enroll`].
    pub fn renew(&self, asked: &Value, host: &str, receipt_key: &str) -> Result<(u16, Value)> {
        let csr = CertificateSigningRequestParams::from_pem(asked["csr"].as_str().context("csr")?)?;
        Ok((200, self.issue(&csr, host, receipt_key)?))
    }

    fn issue(&self, csr: &CertificateSigningRequestParams, host: &str, receipt_key: &str) -> Result<Value> {
        let mut client = self.params("host", host)?;
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = client.signed_by(&csr.public_key, &self.issuer)?.pem();
        let receipt_key = SubjectPublicKeyInfo::from_pem(receipt_key)?;
        let receipt = self.params("receipt", host)?.signed_by(&receipt_key, &self.issuer)?.pem();
        Ok(json!({"host": host, "certificate": certificate, "ca": self.pem, "receipt_certificate": receipt}))
    }

    fn params(&self, kind: &str, host: &str) -> Result<CertificateParams> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://driftlock/{kind}/{host}").try_into()?)];
        params.not_before = OffsetDateTime::now_utc() - BEFORE;
        params.not_after = OffsetDateTime::now_utc() + *lock(&self.life);
        Ok(params)
    }
}

/// What a PEM text of one block holds.
pub(crate) fn pem_body(text: &str) -> Result<Vec<u8>> {
    use rustls::pki_types::pem::{SectionKind, from_buf};
    let (_kind, body): (SectionKind, Vec<u8>) =
        from_buf(&mut text.as_bytes()).map_err(|error| anyhow::anyhow!("{error:?}"))?.context("no PEM")?;
    Ok(body)
}
