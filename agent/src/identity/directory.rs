//! Owns the files of an identity: reading them as one, replacing all of them together, keeping the next key before anybody
//! is asked for its certificate. Must not own asking.
//!
//! The next identity grows in `identity.next`, with its certificate written last, and then takes the place of `identity`,
//! which is `identity.old` for a moment. So `identity.next` with a certificate is never older than `identity`, and whatever is
//! interrupted has either not happened or is ended by whoever comes next. Others may replace the files one by one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, chown, fchown};
use std::path::{Path, PathBuf};

use driftlock_common::digest::Digest;
use driftlock_common::enrolment::Issued;
use driftlock_common::exit::Exit;
use driftlock_common::path::Escaped;
use driftlock_common::trust::{PrivateKey, Scheme};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::{Certificate, CertificateError, Identity};
use crate::config::{Endpoint, EndpointError};
use crate::draft;
use crate::failure::Failure;
use crate::http::Credential;
use crate::key_file::{self, KeyFileError};

const NAME: &str = "identity";
const NEXT: &str = "identity.next";
const OLD: &str = "identity.old";
const LOCK: &str = "identity.lock";
const KEY: &str = "key.pem";
const CERTIFICATE: &str = "certificate.pem";
const AUTHORITIES: &str = "ca.pem";
const RECEIPT_KEY: &str = "receipt.key";
const RECEIPT: &str = "receipt.pem";
const ENDPOINT: &str = "endpoint";
const TOKEN: &str = "token.sha256";
/// The largest of them that is read, in bytes: a list of authorities may be long.
const MAX_FILE: u64 = 1024 * 1024;

/// Where a host's identity is kept.
#[derive(Clone, Debug)]
pub struct Directory {
    state_dir: PathBuf,
}

/// The same, while nobody else changes it.
#[derive(Debug)]
pub struct Locked {
    directory: Directory,
    /// Whose the state directory is, if that is somebody else: an agent that is not root must read what root wrote.
    owner: Option<(u32, u32)>,
    _lock: File,
}

/// The next identity, of which the keys are on disk.
#[derive(Debug)]
pub struct Change {
    locked: Locked,
    key: PrivateKey,
    receipt_key: PrivateKey,
}

/// What is kept with an identity of how it came to be.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The collector that was joined.
    pub endpoint: Option<Endpoint>,
    /// SHA-256 of the secret of the token.
    pub token: Option<Digest>,
}

/// Why there is no identity, or none that can be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("{}", shown(.0))]
    Read(PathBuf, #[source] io::Error),
    /// A file or a directory cannot be written.
    #[error("{}", shown(.0))]
    Write(PathBuf, #[source] io::Error),
    /// Everybody can read the private key.
    #[error("{}: a private key that everyone on this host can read: chmod 0600 it", shown(.0))]
    Exposed(PathBuf),
    /// Not what its name says.
    #[error("{}: {}", shown(.0), .1)]
    Malformed(PathBuf, String),
    /// The certificate is another key's.
    #[error("{}: the certificate is not that of the key in {KEY} beside it", shown(.0))]
    Mismatch(PathBuf),
    /// A key that was made here.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// What the collector gave.
    #[error("the collector's answer cannot be used: {0}")]
    Answer(&'static str),
}

// === impl Directory ===

impl Directory {
    /// In this state directory.
    pub fn of(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned() }
    }

    /// By what it is told that the identity became another: the directory, and what others may replace in it.
    pub fn files(&self) -> Vec<PathBuf> {
        let path = self.path(NAME);
        let within = [KEY, CERTIFICATE, AUTHORITIES, ENDPOINT].map(|name| path.join(name));
        [path].into_iter().chain(within).collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.state_dir.join(name)
    }

    /// Reads the identity; `None` if this host has none.
    ///
    /// # Errors
    /// If a file cannot be read, is not what it should be, or the key is not the certificate's.
    pub fn load(&self) -> Result<Option<Identity>, IdentityError> {
        // While it is replaced there is a moment in which only the next one is there, and then that has its name.
        for name in [NAME, NEXT, NAME] {
            let path = self.path(name);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = match rustix::fs::open(&path, flags, Mode::empty()) {
                Ok(opened) => opened,
                Err(rustix::io::Errno::NOENT) => continue,
                Err(error) => return Err(IdentityError::Read(path, error.into())),
            };
            let found = Within { path, opened }.identity()?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// As [`Directory::load`], after ending what was interrupted, if nobody is at it.
    ///
    /// # Errors
    /// As [`Directory::load`].
    pub fn settled(&self) -> Result<Option<Identity>, IdentityError> {
        if self.path(NEXT).join(CERTIFICATE).exists() {
            // What cannot be ended now is by the next renewal; until then there is an identity all the same.
            let settled = self.clone().lock_by(FlockOperation::NonBlockingLockExclusive);
            settled.map_or_else(|error| tracing::warn!(%error, "a replacement of the identity is not ended"), drop);
        }
        self.load()
    }

    /// Waits until nobody else changes it, makes the state directory if it is not there, and ends what was interrupted.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn lock(self) -> Result<Locked, IdentityError> {
        self.lock_by(FlockOperation::LockExclusive)
    }

    fn lock_by(self, operation: FlockOperation) -> Result<Locked, IdentityError> {
        let wrong = |path: &Path| {
            let path = path.to_owned();
            move |error| IdentityError::Write(path, error)
        };
        let state_dir = &self.state_dir;
        DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(wrong(state_dir))?;
        let found = fs::metadata(state_dir).map_err(wrong(state_dir))?;
        let me = rustix::process::geteuid().as_raw();
        let owner = (found.uid() != me && me == 0).then_some((found.uid(), found.gid()));
        let path = self.path(LOCK);
        let open = || {
            let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            give(&lock, owner)?;
            flock(&lock, operation)?;
            Ok(lock)
        };
        let lock = open().map_err(wrong(&path))?;
        let locked = Locked { directory: self, owner, _lock: lock };
        locked.settle()?;
        Ok(locked)
    }
}

// === impl Locked ===

impl Locked {
    /// What is locked.
    pub const fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Begins the next identity: with the keys of one that was begun before and never came to be, else with a new one. The
    /// receipt key stays the same.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn begin(self) -> Result<Change, IdentityError> {
        let next = self.directory.path(NEXT);
        let wrong = |error| IdentityError::Write(next.clone(), error);
        match DirBuilder::new().mode(0o700).create(&next) {
            Ok(()) => self.owner.map_or(Ok(()), |(uid, gid)| chown(&next, Some(uid), Some(gid))).map_err(wrong)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(wrong(error)),
        }
        let key = self.private(&next.join(KEY), Scheme::EcdsaP256)?;
        let receipt = next.join(RECEIPT_KEY);
        let kept = self.directory.path(NAME).join(RECEIPT_KEY);
        // One that is kept counts, whatever a beginning that was interrupted made.
        match fs::read(&kept) {
            Ok(bytes) => self.write(&receipt, 0o600, &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(IdentityError::Read(kept, error)),
        }
        let receipt_key = self.private(&receipt, Scheme::Ed25519)?;
        if receipt_key.public().scheme() != Scheme::Ed25519 || key.public().scheme() != Scheme::EcdsaP256 {
            return Err(IdentityError::Malformed(next, "keys of other schemes than were made here".to_owned()));
        }
        sync(&next)?;
        sync(&self.directory.state_dir)?;
        Ok(Change { locked: self, key, receipt_key })
    }

    /// The private key of a file that is made if it is not there.
    fn private(&self, path: &Path, scheme: Scheme) -> Result<PrivateKey, IdentityError> {
        if path.try_exists().map_err(|error| IdentityError::Read(path.to_owned(), error))? {
            return Ok(key_file::read_private(path)?);
        }
        let key = key_file::random(scheme)?;
        self.write(path, 0o600, key.to_pem().as_ref().as_bytes())?;
        Ok(key)
    }

    /// Writes a file that is whole or not there.
    fn write(&self, path: &Path, mode: u32, bytes: &[u8]) -> Result<(), IdentityError> {
        let draft = path.with_extension("draft");
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&draft)?;
            give(&file, self.owner)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&draft, path)
        };
        write().map_err(|error| IdentityError::Write(path.to_owned(), error))
    }

    /// Ends what was interrupted.
    fn settle(&self) -> Result<(), IdentityError> {
        let is_there = |name: &str| {
            let path = self.directory.path(name);
            path.try_exists().map_err(|error| IdentityError::Read(path, error))
        };
        if self.directory.path(NEXT).join(CERTIFICATE).exists() {
            self.commit()?;
        }
        if is_there(OLD)? { self.remove(OLD) } else { Ok(()) }
    }

    /// The next identity takes the place of the one that is there.
    fn commit(&self) -> Result<(), IdentityError> {
        let [name, next, old] = [NAME, NEXT, OLD].map(|name| self.directory.path(name));
        if name.exists() {
            if old.exists() {
                self.remove(OLD)?;
            }
            fs::rename(&name, &old).map_err(|error| IdentityError::Write(old.clone(), error))?;
        }
        fs::rename(&next, &name).map_err(|error| IdentityError::Write(name, error))?;
        sync(&self.directory.state_dir)?;
        if old.exists() { self.remove(OLD) } else { Ok(()) }
    }

    fn remove(&self, name: &str) -> Result<(), IdentityError> {
        let path = self.directory.path(name);
        fs::remove_dir_all(&path).map_err(|error| IdentityError::Write(path, error))
    }
}

// === impl Change ===

impl Change {
    /// The key to be certified, of P-256.
    pub const fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// The key that signs receipts, Ed25519.
    pub const fn receipt_key(&self) -> &PrivateKey {
        &self.receipt_key
    }

    /// Makes what the collector gave the identity of this host.
    ///
    /// # Errors
    /// If it is not about these keys, or cannot be written; then the identity is the one before.
    pub fn keep(self, issued: &Issued, origin: &Origin) -> Result<Identity, IdentityError> {
        self.check(issued)?;
        let Self { locked, .. } = self;
        let next = locked.directory.path(NEXT);
        if let Some(endpoint) = &origin.endpoint {
            locked.write(&next.join(ENDPOINT), 0o600, format!("{endpoint}\n").as_bytes())?;
        }
        if let Some(token) = origin.token {
            locked.write(&next.join(TOKEN), 0o600, format!("{token}\n").as_bytes())?;
        }
        locked.write(&next.join(AUTHORITIES), 0o600, issued.ca.as_bytes())?;
        locked.write(&next.join(RECEIPT), 0o600, issued.receipt_certificate.as_bytes())?;
        // What was written before it is on disk before it is there.
        sync(&next)?;
        locked.write(&next.join(CERTIFICATE), 0o600, issued.certificate.as_bytes())?;
        sync(&next)?;
        locked.commit()?;
        locked.directory.load()?.ok_or(IdentityError::Answer("it is gone again"))
    }

    fn check(&self, issued: &Issued) -> Result<(), IdentityError> {
        let certificate = |pem: &str| {
            Certificate::of_pem(pem.as_bytes())
                .map_err(|CertificateError| IdentityError::Answer("it holds no certificate"))
        };
        let own = certificate(&issued.certificate)?;
        if own.key != self.key.public().to_der() {
            return Err(IdentityError::Answer("the certificate is not for the key that was sent"));
        }
        if own.host.as_ref() != Some(&issued.host) {
            return Err(IdentityError::Answer("the certificate is for another host than it says"));
        }
        if certificate(&issued.receipt_certificate)?.key != self.receipt_key.public().to_der() {
            return Err(IdentityError::Answer("the receipt key's certificate is for another key"));
        }
        certificate(&issued.ca).map(|_authority| ())
    }
}

// === impl Origin ===

impl Origin {
    /// That of an identity, which a renewal leaves as it is.
    pub fn of(identity: &Identity) -> Self {
        Self { endpoint: identity.endpoint.clone(), token: identity.token }
    }
}

/// The files of a directory, whatever its name is by now.
struct Within {
    path: PathBuf,
    opened: OwnedFd,
}

impl Within {
    fn identity(&self) -> Result<Option<Identity>, IdentityError> {
        let Some((certificate, _)) = self.read(CERTIFICATE)? else { return Ok(None) };
        let malformed = |name: &str, why: String| IdentityError::Malformed(self.path.join(name), why);
        let read = Certificate::of_pem(&certificate).map_err(|error| malformed(CERTIFICATE, error.to_string()))?;
        let Some((key, mode)) = self.read(KEY)? else {
            return Err(IdentityError::Read(self.path.join(KEY), io::ErrorKind::NotFound.into()));
        };
        if mode & 0o007 != 0 {
            return Err(IdentityError::Exposed(self.path.join(KEY)));
        }
        self.check_pair(&certificate, &key)?;
        let text = |name| -> Result<Option<String>, IdentityError> {
            let Some((bytes, _)) = self.read(name)? else { return Ok(None) };
            let text = String::from_utf8(bytes).map_err(|_| malformed(name, "not text".to_owned()))?;
            Ok(Some(text.trim().to_owned()))
        };
        let endpoint: Option<Endpoint> = text(ENDPOINT)?
            .map(|text| text.parse())
            .transpose()
            .map_err(|error: EndpointError| malformed(ENDPOINT, error.to_string()))?;
        // Only what joined here wrote one.
        let token = text(TOKEN)?.and_then(|text| text.parse().ok());
        let authorities = self.read(AUTHORITIES)?.map(|(pem, _)| pem);
        if authorities.as_ref().is_some_and(|pem| Certificate::of_pem(pem).is_err()) {
            return Err(malformed(AUTHORITIES, CertificateError.to_string()));
        }
        let mut pem = key;
        pem.push(b'\n');
        pem.extend_from_slice(&certificate);
        Ok(Some(Identity {
            host: read.host,
            endpoint,
            credential: Credential(pem),
            authorities,
            from: read.from,
            until: read.until,
            token,
        }))
    }

    /// Whether the key is that of the certificate: of whatever kind, since others may have made them.
    fn check_pair(&self, certificate: &[u8], key: &[u8]) -> Result<(), IdentityError> {
        let damaged = |name: &str, why: &str| IdentityError::Malformed(self.path.join(name), why.to_owned());
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
        let chain = chain.map_err(|_| damaged(CERTIFICATE, "damaged PEM"))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| damaged(KEY, "not the PEM of a private key"))?;
        match CertifiedKey::from_der(chain, key, &ring::default_provider()) {
            Ok(_) => Ok(()),
            Err(rustls::Error::InconsistentKeys(_)) => Err(IdentityError::Mismatch(self.path.join(CERTIFICATE))),
            Err(error) => Err(IdentityError::Malformed(self.path.join(KEY), error.to_string())),
        }
    }

    /// A file's content and mode; `None` if it is not there.
    fn read(&self, name: &str) -> Result<Option<(Vec<u8>, u32)>, IdentityError> {
        let wrong = |error| IdentityError::Read(self.path.join(name), error);
        // Others may put links there, as orchestrators do; a pipe would be waited for.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match openat(self.opened.as_fd(), name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(wrong(error.into())),
        };
        let mode = file.metadata().map_err(wrong)?.mode();
        let mut bytes = Vec::new();
        let read = file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(wrong)?;
        if read as u64 > MAX_FILE {
            return Err(IdentityError::Malformed(self.path.join(name), "larger than 1 MiB".to_owned()));
        }
        Ok(Some((bytes, mode)))
    }
}

fn give(file: &File, owner: Option<(u32, u32)>) -> io::Result<()> {
    owner.map_or(Ok(()), |(uid, gid)| fchown(file, Some(uid), Some(gid)))
}

fn sync(directory: &Path) -> Result<(), IdentityError> {
    draft::sync(directory).map_err(|error| IdentityError::Write(directory.to_owned(), error))
}

fn shown(path: &Path) -> Escaped<'_> {
    Escaped(path.as_os_str().as_encoded_bytes())
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Read(path, error) => Self::input(shown(&path), error),
            IdentityError::Write(path, error) => Self::output(shown(&path), error),
            IdentityError::Key(error) => error.into(),
            IdentityError::Exposed(_) => Self::new(Exit::Refused, error),
            IdentityError::Malformed(..) | IdentityError::Mismatch(_) | IdentityError::Answer(_) => {
                Self::new(Exit::Malformed, error)
            }
        }
    }
}
