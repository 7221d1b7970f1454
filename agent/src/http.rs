//! Owns the one function that builds HTTP clients, and what every user of one needs: finding addresses, credentials of
//! files, reading answers within limits, how long to wait before another try, what cannot leave this host. Must not own what
//! is sent to whom.

mod backoff;
mod pinned;
mod resolver;
mod retry_after;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, io};

use driftlock_common::digest::Digest;
use reqwest::header::HeaderValue;
use reqwest::{Certificate, Response, StatusCode, redirect, retry};

pub use self::backoff::{Backoff, spread};
use self::resolver::HostResolver;
pub use self::retry_after::parse as parse_retry_after;

/// The most words of a refusal that are shown.
const MAX_WHY: usize = 200;

/// How a client is to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long to wait for a connection.
    pub connect: Duration,
    /// For everything from the first byte sent to the last one read; `None` where whoever reads keeps the time.
    pub whole: Option<Duration>,
    /// Whom to believe.
    pub roots: Roots,
    /// As whom to come, where whoever answers wants to know.
    pub credential: Option<Credential>,
    /// Where everything is sent, whatever the host.
    pub socket: Option<PathBuf>,
}

/// Whose certificates are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// Those of the system; `SSL_CERT_FILE` and `SSL_CERT_DIR` name others.
    System,
    /// Those of a PEM file alone.
    File(PathBuf),
    /// Those of a PEM text alone.
    Pem(Vec<u8>),
    /// That of the one CA whose certificate (DER) has this SHA-256, and that comes with whoever answers.
    Pinned(Digest),
    /// Nobody's: for plain HTTP. A container of one binary has none, and looking for the system's would be an error.
    Nobody,
}

/// A private key, and the certificates that say whose it is, the first for the key itself: PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential(pub Vec<u8>);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file cannot be read.
    #[error("{}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// It holds no certificate.
    #[error("{} holds no PEM certificates", .0.display())]
    Certificates(PathBuf),
    /// The library refuses.
    #[error("the HTTPS client cannot be set up")]
    Refused(#[source] reqwest::Error),
    /// So does that for TLS.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// Why a file gives no credential.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("{}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// It holds no usable credential.
    #[error("{} does not hold a token of printable characters", .0.display())]
    Token(PathBuf),
}

/// Builds the one kind of client that driftlock uses: it follows no redirects, repeats nothing by itself, and knows no
/// proxy, whatever the environment says.
///
/// # Errors
/// If the certificates cannot be used, or the system has none.
pub fn client(settings: &Settings) -> Result<reqwest::Client, BuildError> {
    // An error means that another one is installed already; in this program that is the same one.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("driftlock/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .no_proxy()
        .connect_timeout(settings.connect)
        .pool_max_idle_per_host(1)
        .dns_resolver(HostResolver::default());
    if let Some(whole) = settings.whole {
        builder = builder.timeout(whole);
    }
    match &settings.roots {
        Roots::System => {}
        Roots::Nobody => builder = builder.tls_certs_only([]),
        Roots::File(path) => {
            let pem = std::fs::read(path).map_err(|error| BuildError::Read(path.clone(), error))?;
            let certificates = certificates(&pem).ok_or_else(|| BuildError::Certificates(path.clone()))?;
            builder = builder.tls_certs_only(certificates);
        }
        Roots::Pem(pem) => {
            let certificates = certificates(pem).ok_or_else(|| BuildError::Certificates("what was given".into()))?;
            builder = builder.tls_certs_only(certificates);
        }
        Roots::Pinned(authority) => {
            builder = builder.tls_backend_preconfigured(pinned::config(*authority).map_err(BuildError::Tls)?);
        }
    }
    if let Some(Credential(pem)) = &settings.credential {
        builder = builder.identity(reqwest::Identity::from_pem(pem).map_err(BuildError::Refused)?);
    }
    if let Some(socket) = &settings.socket {
        builder = builder.unix_socket(socket.clone());
    }
    builder.build().map_err(BuildError::Refused)
}

/// Those of a PEM text; `None` if there is none in it.
fn certificates(pem: &[u8]) -> Option<Vec<Certificate>> {
    Certificate::from_pem_bundle(pem).ok().filter(|certificates| !certificates.is_empty())
}

/// Why nobody was spoken to, one line, if that is because whoever answered could not show that it is who was asked.
pub fn distrust(error: &reqwest::Error) -> Option<String> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        match error.downcast_ref() {
            // The library shows what another verifier says for programmers.
            Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(why))) => {
                return Some(why.to_string());
            }
            Some(error @ rustls::Error::InvalidCertificate(_)) => return Some(error.to_string()),
            _ => {}
        }
        // The source of an I/O error is that of the error that it was made of, which is hidden by that.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = inner.map(|inner| inner as &(dyn std::error::Error + 'static)).or_else(|| error.source());
    }
    None
}

/// The token of a file, as a value of `Authorization`.
///
/// # Errors
/// If it cannot be read, or is none.
pub fn bearer(path: &Path) -> Result<HeaderValue, TokenError> {
    let text = std::fs::read_to_string(path).map_err(|error| TokenError::Read(path.to_owned(), error))?;
    let mut value = HeaderValue::try_from(format!("Bearer {}", text.trim()))
        .ok()
        .filter(|_| !text.trim().is_empty())
        .ok_or_else(|| TokenError::Token(path.to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The addresses of a host, found in the way of all clients, for those that wait on a thread of their own.
///
/// # Errors
/// If it has none, or that cannot be asked.
pub fn addresses_of(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let asking = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let found = asking.block_on(HostResolver::default().addresses(host)).map_err(io::Error::other)?;
    Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

/// What came with an answer; `None` if it is more than `most` bytes.
///
/// # Errors
/// If it does not come to its end: why, on one line.
pub async fn body(mut response: Response, most: usize) -> Result<Option<Vec<u8>>, String> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(Some(body)),
            Ok(Some(chunk)) if body.len() + chunk.len() > most => return Ok(None),
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Err(error) => return Err(chain(&error.without_url())),
        }
    }
}

/// The status, and the first words of what came with it: of a problem (RFC 9457) what it says to people.
pub fn explain(status: StatusCode, body: &[u8]) -> String {
    let problem: Option<Problem> = serde_json::from_slice(body).ok();
    let said = problem.map_or_else(|| String::from_utf8_lossy(body).into_owned(), |problem| problem.detail);
    let words: String = said.chars().take(MAX_WHY).flat_map(char::escape_default).collect();
    if words.is_empty() { status.to_string() } else { format!("{status}: {words}") }
}

/// Of the JSON that says why a request was refused.
#[derive(serde::Deserialize)]
struct Problem {
    detail: String,
}

/// Whether `host`, as it stands in a URL, cannot leave this host.
pub fn is_loopback(host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || literal.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// An error and what led to it, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a private key and its certificates")
    }
}
