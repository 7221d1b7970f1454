//! Owns the collector's own CAs: their files, which are in force, what they issue. Must not own who gets a certificate.
//!
//! Several may be in force at once. What clients have is issued by the newest, the collector's own certificate by the
//! oldest: a host learns of a new CA whenever it gets a certificate, so once each has renewed the old one can go.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use driftlock_common::digest::Digest;
use driftlock_common::trust::Scheme;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use x509_cert::der::pem::LineEnding;
use x509_cert::der::{Decode as _, EncodePem as _};

use super::certificate::Serial;
use super::request::SubjectKey;
use crate::clock::Timestamp;

/// How long a CA is valid.
const CA_LIFETIME: Duration = Duration::from_hours(24 * 365 * 10);
/// When the newest has less than this left, another is made.
const CA_RENEWED: Duration = Duration::from_hours(24 * 365);
/// How long the collector's own certificate is valid. It is made anew after a third of it.
pub const SERVER_LIFETIME: Duration = Duration::from_hours(24 * 90);
/// How long the certificate of a receipt key is valid; it is made anew with each of the host's.
const RECEIPT_LIFETIME: Duration = Duration::from_hours(24 * 365);
/// The most by which certificates are valid before they are made, for clocks that are behind.
const SKEW: Duration = Duration::from_mins(5);
/// Document signing (RFC 9336): what a receipt key's certificate is for, so that no server takes it for a client's.
const DOCUMENT_SIGNING: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 36];
/// The largest file of a CA.
const MAX_FILE: u64 = 64 * 1024;
/// The most CAs in force at once.
const MAX_IN_FORCE: usize = 8;

/// Below the data directory.
const DIRECTORY: &str = "ca";
/// Below that: certificates of CAs that are no longer in force, by which old receipts can be verified.
const RETIRED: &str = "retired";

/// The CAs of a data directory.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
    /// The oldest first, never empty.
    in_force: RwLock<Arc<Vec<Ca>>>,
}

/// One CA.
pub struct Ca {
    file: PathBuf,
    digest: Digest,
    der: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    made_at: Timestamp,
    expires_at: Timestamp,
}

/// A certificate that was issued, and its key if that was made with it.
#[derive(Debug)]
pub struct ServerCertificate {
    /// The certificate and its CA's.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// Until when it is valid.
    pub expires_at: Timestamp,
}

/// What a client's certificate is to say.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// Whose key.
    pub key: &'a SubjectKey,
    /// The one name.
    pub uri: &'a str,
    /// From when.
    pub issued_at: Timestamp,
    /// Until when, if its CA is valid for as long.
    pub expires_at: Timestamp,
}

/// Why there is no CA, or it issues nothing.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file or directory cannot be read or written.
    #[error("{}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// Others may read a key.
    #[error("{}: holds a key, and others than its owner can read it; chmod 600", .0.display())]
    Exposed(PathBuf),
    /// Not as it was written.
    #[error("{}: not the key and the certificate of a CA", .0.display())]
    Damaged(PathBuf),
    /// The library refuses.
    #[error("a certificate cannot be made: {0}")]
    Signing(rcgen::Error),
    /// Not a name that a certificate can have.
    #[error("{}: not a DNS name or address", .0.escape_default())]
    Name(String),
    /// No random bytes.
    #[error("no random bytes: {0}")]
    Random(getrandom::Error),
    /// `MAX_IN_FORCE`.
    #[error("{MAX_IN_FORCE} CAs are in force already; retire one first")]
    TooMany,
    /// No CA in force has this digest.
    #[error("no CA in force has an id that begins so, or several have")]
    Unknown,
    /// Without it none would be in force.
    #[error("this is the newest CA: rotate first")]
    Newest,
}

impl rcgen::PublicKeyData for SubjectKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        match self.scheme {
            Scheme::Ed25519 => &rcgen::PKCS_ED25519,
            Scheme::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        }
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CA {} until {}", self.digest, self.expires_at)
    }
}

impl Ca {
    /// SHA-256 of its certificate.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Its certificate.
    pub const fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The same as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// When it was made.
    pub const fn made_at(&self) -> Timestamp {
        self.made_at
    }

    /// Until when it is valid.
    pub const fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    fn make(directory: &Path, now: Timestamp) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Signing)?;
        let serial = serial(now)?;
        // A name of its own, so that whoever looks for the issuer of a certificate finds one.
        let mut params = parameters(&format!("driftlock CA {}", hex::encode(&serial.as_bytes()[8..])));
        params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
        params.not_before = date(now.minus(SKEW));
        params.not_after = date(now.plus(CA_LIFETIME));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(AuthorityError::Signing)?;
        let file = directory.join(format!("{}.pem", Digest::sha256(certificate.der())));
        let text = format!("{}{}", key.serialize_pem(), certificate.pem());
        write_new(directory, &file, &text)?;
        Self::read(&file)
    }

    /// Reads what [`Ca::make`] wrote.
    fn read(path: &Path) -> Result<Self, AuthorityError> {
        let fail = |error| AuthorityError::File(path.to_owned(), error);
        let damaged = || AuthorityError::Damaged(path.to_owned());
        let file = File::open(path).map_err(fail)?;
        if file.metadata().map_err(fail)?.mode() & 0o077 != 0 {
            return Err(AuthorityError::Exposed(path.to_owned()));
        }
        let mut text = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut text).map_err(fail)?;
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| damaged())?;
        let key = KeyPair::try_from(&key).map_err(|_| damaged())?;
        let der = CertificateDer::from_pem_slice(&text).map_err(|_| damaged())?;
        if SubjectKey::of_certificate(&der).is_none_or(|bits| bits != key.der_bytes()) {
            return Err(damaged());
        }
        let certificate = x509_cert::Certificate::from_der(&der).map_err(|_| damaged())?;
        let fields = certificate.tbs_certificate();
        let name = fields.subject().common_name().ok().flatten().ok_or_else(damaged)?;
        let mut params = parameters(&name.value());
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let time = |time: x509_cert::time::Time| {
            Timestamp::from_millis(i64::try_from(time.to_unix_duration().as_millis()).unwrap_or(i64::MAX))
        };
        let validity = fields.validity();
        Ok(Self {
            file: path.to_owned(),
            digest: Digest::sha256(&der),
            pem: certificate.to_pem(LineEnding::LF).map_err(|_| damaged())?,
            der,
            issuer: Issuer::new(params, key),
            made_at: time(validity.not_before).plus(SKEW),
            expires_at: time(validity.not_after),
        })
    }
}

impl Authority {
    /// Opens the CAs of a data directory, making the first if there is none.
    ///
    /// # Errors
    /// If a file cannot be read or made, or is not as it was written.
    pub fn open(data: &Path, now: Timestamp) -> Result<Self, AuthorityError> {
        let directory = data.join(DIRECTORY);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|error| AuthorityError::File(directory.clone(), error))?;
        let authority = Self { directory, in_force: RwLock::default() };
        authority.reload()?;
        authority.keep_up(now)?;
        Ok(authority)
    }

    fn reload(&self) -> Result<(), AuthorityError> {
        let fail = |error| AuthorityError::File(self.directory.clone(), error);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if path.extension().is_some_and(|extension| extension == "pem") {
                found.push(Ca::read(&path)?);
            }
        }
        found.sort_by_key(|ca| (ca.made_at, ca.digest));
        *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(found);
        Ok(())
    }

    /// Makes the first CA, or another long before the newest ends. Gives whether it did.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn keep_up(&self, now: Timestamp) -> Result<bool, AuthorityError> {
        let has_time = |ca: &Ca| ca.expires_at > now.plus(CA_RENEWED);
        if self.in_force().last().is_some_and(has_time) {
            return Ok(false);
        }
        self.rotate(now)?;
        Ok(true)
    }

    /// Puts a new CA in force beside those that are.
    ///
    /// # Errors
    /// If it cannot be made, or there are too many.
    pub fn rotate(&self, now: Timestamp) -> Result<Digest, AuthorityError> {
        if self.in_force().len() >= MAX_IN_FORCE {
            return Err(AuthorityError::TooMany);
        }
        // Later than the others, whatever the clock says: the newest issues.
        let now = self.in_force().last().map_or(now, |newest| now.max(newest.made_at.plus(Duration::from_secs(1))));
        let digest = Ca::make(&self.directory, now)?.digest;
        self.reload()?;
        Ok(digest)
    }

    /// The CA in force whose digest begins so.
    ///
    /// # Errors
    /// If none does, or several.
    pub fn find(&self, id: &str) -> Result<Digest, AuthorityError> {
        find(&self.in_force(), id).map(|ca| ca.digest)
    }

    /// Takes a CA out of force. Its certificate is kept aside, its key is not.
    ///
    /// # Errors
    /// If `id` is not the beginning of exactly one digest, it is the newest, or the files cannot be changed.
    pub fn retire(&self, id: &str) -> Result<Digest, AuthorityError> {
        let in_force = self.in_force();
        let ca = find(&in_force, id)?;
        if in_force.last().is_some_and(|newest| newest.digest == ca.digest) {
            return Err(AuthorityError::Newest);
        }
        let aside = self.directory.join(RETIRED);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&aside)
            .map_err(|error| AuthorityError::File(aside.clone(), error))?;
        write_new(&aside, &aside.join(format!("{}.pem", ca.digest)), &ca.pem)?;
        fs::remove_file(&ca.file).map_err(|error| AuthorityError::File(ca.file.clone(), error))?;
        self.reload()?;
        Ok(ca.digest)
    }

    /// The CAs in force, the oldest first.
    pub fn in_force(&self) -> Arc<Vec<Ca>> {
        Arc::clone(&self.in_force.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The certificates of the CAs in force.
    pub fn bundle(&self) -> String {
        self.in_force().iter().map(|ca| ca.pem.as_str()).collect()
    }

    /// What a host that joins is told to look for: the CA of the collector's own certificate.
    ///
    /// # Errors
    /// If there is none.
    pub fn pin(&self, now: Timestamp) -> Result<Digest, AuthorityError> {
        let in_force = self.in_force();
        server_issuer(&in_force, now).map(|ca| ca.digest).ok_or(AuthorityError::Unknown)
    }

    /// A certificate for a host.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn issue_client(&self, order: &Order<'_>) -> Result<String, AuthorityError> {
        self.issue_leaf(order, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A certificate for the key that signs a host's receipts.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn issue_receipt(&self, order: &Order<'_>) -> Result<String, AuthorityError> {
        let order = Order { expires_at: order.issued_at.plus(RECEIPT_LIFETIME), ..*order };
        self.issue_leaf(&order, ExtendedKeyUsagePurpose::Other(DOCUMENT_SIGNING.to_vec()))
    }

    fn issue_leaf(&self, order: &Order<'_>, usage: ExtendedKeyUsagePurpose) -> Result<String, AuthorityError> {
        let in_force = self.in_force();
        let ca = in_force.last().ok_or(AuthorityError::Unknown)?;
        let mut params = leaf(ca, order.issued_at, order.expires_at);
        params.serial_number = Some(SerialNumber::from_slice(serial(order.issued_at)?.as_bytes()));
        params.subject_alt_names = vec![SanType::URI(order.uri.try_into().map_err(AuthorityError::Signing)?)];
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(order.key, &ca.issuer).map_err(AuthorityError::Signing)?;
        Ok(certificate.pem())
    }

    /// A certificate for the collector itself, under these names and addresses, with a new key.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn issue_server(&self, names: &[String], now: Timestamp) -> Result<ServerCertificate, AuthorityError> {
        let in_force = self.in_force();
        let ca = server_issuer(&in_force, now).ok_or(AuthorityError::Unknown)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Signing)?;
        let expires_at = now.plus(SERVER_LIFETIME).min(ca.expires_at);
        let mut params = leaf(ca, now, expires_at);
        params.serial_number = Some(SerialNumber::from_slice(serial(now)?.as_bytes()));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = names
            .iter()
            .map(|name| {
                let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
                Ok(match address {
                    Ok(address) => SanType::IpAddress(address),
                    Err(_) => {
                        SanType::DnsName(name.as_str().try_into().map_err(|_| AuthorityError::Name(name.clone()))?)
                    }
                })
            })
            .collect::<Result<_, AuthorityError>>()?;
        let certificate = params.signed_by(&key, &ca.issuer).map_err(AuthorityError::Signing)?;
        Ok(ServerCertificate {
            chain: vec![certificate.der().clone(), ca.der.clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            expires_at,
        })
    }
}

/// The oldest that outlives what it issues; where none does, the newest.
fn server_issuer(in_force: &[Ca], now: Timestamp) -> Option<&Ca> {
    in_force.iter().find(|ca| ca.expires_at > now.plus(SERVER_LIFETIME)).or_else(|| in_force.last())
}

fn find<'a>(in_force: &'a [Ca], id: &str) -> Result<&'a Ca, AuthorityError> {
    let mut found = in_force.iter().filter(|ca| !id.is_empty() && ca.digest.to_hex().starts_with(id));
    match (found.next(), found.next()) {
        (Some(ca), None) => Ok(ca),
        _ => Err(AuthorityError::Unknown),
    }
}

/// What all certificates have. Only a CA has a name that a person reads.
fn parameters(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn leaf(ca: &Ca, issued_at: Timestamp, expires_at: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "driftlock");
    let lifetime = Duration::from_secs(expires_at.seconds_since(issued_at));
    // A renewal at two thirds of a short life is not due at once.
    params.not_before = date(issued_at.minus(SKEW.min(lifetime / 10)));
    params.not_after = date(expires_at.min(ca.expires_at));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

fn serial(now: Timestamp) -> Result<Serial, AuthorityError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(AuthorityError::Random)?;
    Ok(Serial::new(now, random))
}

/// A time of a certificate; one that no certificate can have is as far away as any can be.
fn date(time: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(time.millis().div_euclid(1000)).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Writes a file that appears whole or not at all.
fn write_new(directory: &Path, path: &Path, text: &str) -> Result<(), AuthorityError> {
    let fail = |error| AuthorityError::File(path.to_owned(), error);
    let temporary = path.with_extension("new");
    let mut file =
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary).map_err(fail)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fail)?;
    fs::rename(&temporary, path).map_err(fail)?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(fail)
}
