//! Owns what a TLS handshake uses at present: the collector's certificate, and the CAs that clients' certificates lead to.
//! Both change while connections are served. Must not own connections, or who a certificate speaks for.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Timestamp};
use crate::identity::Identities;
use crate::identity::authority::{AuthorityError, SERVER_LIFETIME};

/// The largest file of certificates or a key.
const MAX_FILE: u64 = 4 * 1024 * 1024;
/// How often it is looked whether a certificate has to be made anew.
const LOOK: Duration = Duration::from_mins(10);

/// Where certificates come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The collector's certificate with what leads to its CA, and its key; absent: its own CA issues one.
    pub server: Option<ServerFiles>,
    /// Names and addresses in the certificate that its own CA issues.
    pub names: Vec<String>,
    /// The CAs of clients; absent: its own.
    pub client_ca: Option<PathBuf>,
}

/// The files of a certificate.
#[derive(Clone, Debug)]
pub struct ServerFiles {
    /// PEM, the collector's first.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// What handshakes use.
#[derive(Debug)]
pub struct Tls {
    identities: Arc<Identities>,
    sources: Sources,
    current: RwLock<Current>,
}

#[derive(Clone, Debug)]
struct Current {
    config: Arc<ServerConfig>,
    roots: Vec<CertificateDer<'static>>,
    /// Ended when somebody's certificate may no longer lead to a CA in force.
    trust: CancellationToken,
    /// When the collector's certificate is to be made anew.
    renew_at: Option<Timestamp>,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// Everyone may read a key.
    #[error("{}: everyone can read or write this key; chmod o-rw", .0.display())]
    Exposed(PathBuf),
    /// It does not hold what it should.
    #[error("{}: holds no {what} in PEM that can be used", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// Of what.
        what: &'static str,
    },
    /// Certificate and key do not belong together, or the library cannot use them.
    #[error("{}: the certificate and its key cannot be used together", .0.display())]
    Pair(PathBuf, #[source] rustls::Error),
    /// The library refuses.
    #[error("TLS cannot be set up")]
    Refused(#[from] rustls::Error),
    /// The CAs of clients.
    #[error("the CAs of clients cannot be used")]
    Clients(#[from] VerifierBuilderError),
    /// The collector's own CA.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Neither files nor an own CA.
    #[error("no certificate for the collector: give --tls-cert and --tls-key")]
    NoCertificate,
}

/// The clock that certificates are judged by.
#[derive(Debug)]
struct Judge(Clock);

impl TimeProvider for Judge {
    fn current_time(&self) -> Option<UnixTime> {
        let millis = u64::try_from(self.0.now().millis()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_millis(millis)))
    }
}

impl Tls {
    /// Reads or issues everything.
    ///
    /// # Errors
    /// If a file cannot be used, or a certificate not be issued.
    pub fn new(identities: Arc<Identities>, sources: Sources) -> Result<Self, TlsError> {
        let current = RwLock::new(make(&identities, &sources)?);
        Ok(Self { identities, sources, current })
    }

    /// What the next handshake uses, and a token that ends when what it verified has to be verified anew.
    pub fn current(&self) -> (Arc<ServerConfig>, CancellationToken) {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&current.config), current.trust.clone())
    }

    /// Reads or issues everything again. Connections go on, unless a CA of clients is no longer in force: then all end
    /// with their present request, and are verified when they come again.
    ///
    /// # Errors
    /// As [`Tls::new`]; then what was in use stays in use.
    pub fn refresh(&self) -> Result<(), TlsError> {
        let made = make(&self.identities, &self.sources)?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let trust = if current.roots.iter().all(|root| made.roots.contains(root)) {
            current.trust.clone()
        } else {
            current.trust.cancel();
            made.trust
        };
        *current = Current { trust, ..made };
        Ok(())
    }

    /// Makes anew what is due: the collector's certificate, its newest CA.
    ///
    /// # Errors
    /// As [`Tls::refresh`].
    pub fn keep_up(&self) -> Result<bool, TlsError> {
        let now = self.identities.clock().now();
        let new_ca = match self.identities.authority() {
            Some(authority) => authority.keep_up(now)?,
            None => false,
        };
        let renew_at = self.current.read().unwrap_or_else(PoisonError::into_inner).renew_at;
        let due = new_ca || renew_at.is_some_and(|at| now >= at);
        if due {
            self.refresh()?;
        }
        Ok(due)
    }

    /// Does so until `shutdown`.
    pub fn keep_up_always(self: &Arc<Self>, shutdown: CancellationToken) {
        let tls = Arc::clone(self);
        tokio::spawn(shutdown.run_until_cancelled_owned(async move {
            let mut interval = tokio::time::interval(LOOK);
            loop {
                interval.tick().await;
                match tls.keep_up() {
                    Ok(true) => tracing::info!("certificates were made anew"),
                    Ok(false) => {}
                    Err(error) => tracing::error!(
                        error = %crate::failure::chain(&error),
                        "certificates cannot be made anew; the old ones stay"
                    ),
                }
            }
        }));
    }
}

fn make(identities: &Identities, sources: &Sources) -> Result<Current, TlsError> {
    let now = identities.clock().now();
    let roots = match (&sources.client_ca, identities.authority()) {
        (Some(file), _) => certificates(file)?,
        (None, Some(authority)) => {
            let in_force = authority.in_force();
            in_force.iter().filter(|ca| ca.expires_at() > now).map(|ca| ca.der().clone()).collect()
        }
        (None, None) => Vec::new(),
    };
    let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::ring::default_provider());
    let judge = Arc::new(Judge(identities.clock().clone()));
    let builder =
        ServerConfig::builder_with_details(Arc::clone(&provider), judge).with_safe_default_protocol_versions()?;
    let builder = if roots.is_empty() {
        builder.with_no_client_auth()
    } else {
        let mut store = RootCertStore::empty();
        for root in &roots {
            store.add(root.clone())?;
        }
        // Who has no certificate reads pages, joins, or has a token.
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider);
        builder.with_client_cert_verifier(verifier.allow_unauthenticated().build()?)
    };
    let (mut config, renew_at) = match (&sources.server, identities.authority()) {
        (Some(files), _) => {
            let (chain, key) = (certificates(&files.certificate)?, private_key(&files.key)?);
            let pair = |error| TlsError::Pair(files.certificate.clone(), error);
            (builder.with_single_cert(chain, key).map_err(pair)?, None)
        }
        (None, Some(authority)) => {
            let issued = authority.issue_server(&sources.names, now)?;
            let due = now.plus(SERVER_LIFETIME / 3).min(issued.expires_at.minus(LOOK));
            (builder.with_single_cert(issued.chain, issued.key)?, Some(due))
        }
        (None, None) => return Err(TlsError::NoCertificate),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Every connection is verified; none begins with what was true of an earlier one.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Current { config: Arc::new(config), roots, trust: CancellationToken::new(), renew_at })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let (text, _) = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    found
        .ok()
        .filter(|found| !found.is_empty())
        .ok_or_else(|| TlsError::Content { path: path.to_owned(), what: "certificates" })
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let (text, mode) = read(path)?;
    if mode & 0o006 != 0 {
        return Err(TlsError::Exposed(path.to_owned()));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| TlsError::Content { path: path.to_owned(), what: "private key" })
}

/// Content and mode of a file; what is checked is what is read.
fn read(path: &Path) -> Result<(Vec<u8>, u32), TlsError> {
    let fail = |error| TlsError::Read(path.to_owned(), error);
    let file = File::open(path).map_err(fail)?;
    let mode = file.metadata().map_err(fail)?.mode();
    let mut text = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut text).map_err(fail)?;
    Ok((text, mode))
}
