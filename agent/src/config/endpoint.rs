//! Owns what an address of a collector may be.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use reqwest::Url;

use crate::http::{Roots, is_loopback};

/// The address of a collector: `https://…`, or `http://…` on this host, or `unix:///path` to a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Without a slash at its end.
    base: Url,
    socket: Option<PathBuf>,
}

/// Why a text is not such an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not an absolute URL with a host.
    #[error("not an address like https://collector.example:8443")]
    NotUrl,
    /// Neither https, http nor unix.
    #[error("begins with neither https:// nor unix:///")]
    Scheme,
    /// Unencrypted over a network.
    #[error("http:// is for loopback addresses only; use https://")]
    Unencrypted,
    /// User, password, query or fragment.
    #[error("has a user, a query or a fragment; the credential goes into token_file")]
    Extra,
    /// A socket's path that is not absolute.
    #[error("the path of a socket is absolute: unix:///run/driftlock.sock")]
    Socket,
}

impl Endpoint {
    /// The URL of `path` (with its leading slash) at this collector.
    pub fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        let joined = format!("{}{path}", self.base.path().trim_end_matches('/'));
        url.set_path(&joined);
        url
    }

    /// The socket, if it is one.
    pub const fn socket(&self) -> Option<&PathBuf> {
        self.socket.as_ref()
    }

    /// Whether what is said there is encrypted, and whoever is there shows who it is.
    pub fn is_encrypted(&self) -> bool {
        self.base.scheme() == "https"
    }

    /// Whose certificates are believed there: those of a file, if one is named.
    pub fn roots(&self, ca_file: Option<&PathBuf>) -> Roots {
        match ca_file {
            Some(path) => Roots::File(path.clone()),
            None if self.is_encrypted() => Roots::System,
            None => Roots::Nobody,
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Some(path) = text.strip_prefix("unix://") {
            if !path.starts_with('/') || path.contains('\0') {
                return Err(EndpointError::Socket);
            }
            // The host is only for the request's head: the connection goes to the socket.
            let base = Url::parse("http://localhost").map_err(|_| EndpointError::NotUrl)?;
            return Ok(Self { base, socket: Some(PathBuf::from(path)) });
        }
        let base = Url::parse(text).map_err(|_| EndpointError::NotUrl)?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(EndpointError::Scheme);
        }
        let host = base.host_str().ok_or(EndpointError::NotUrl)?;
        if base.scheme() == "http" && !is_loopback(host) {
            return Err(EndpointError::Unencrypted);
        }
        if !base.username().is_empty()
            || base.password().is_some()
            || base.query().is_some()
            || base.fragment().is_some()
        {
            return Err(EndpointError::Extra);
        }
        Ok(Self { base, socket: None })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            Some(path) => write!(f, "unix://{}", path.display()),
            None => f.write_str(self.base.as_str().trim_end_matches('/')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_an_endpoint() {
        for (text, url) in [
            ("https://c.example:8443", "https://c.example:8443/v1/events"),
            ("https://c.example/base/", "https://c.example/base/v1/events"),
            ("http://127.0.0.1:1", "http://127.0.0.1:1/v1/events"),
            ("http://[::1]:1", "http://[::1]:1/v1/events"),
            ("http://localhost:1", "http://localhost:1/v1/events"),
            ("unix:///run/d.sock", "http://localhost/v1/events"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().url("/v1/events").as_str(), url);
        }
    }

    #[test]
    fn what_is_not() {
        for (text, error) in [
            ("", EndpointError::NotUrl),
            ("collector:8443", EndpointError::Scheme),
            ("http://10.0.0.1", EndpointError::Unencrypted),
            ("http://localhost.evil.example", EndpointError::Unencrypted),
            ("http://127.0.0.1.example", EndpointError::Unencrypted),
            ("https://u:p@c", EndpointError::Extra),
            ("https://c/?q=1", EndpointError::Extra),
            ("unix://run/d.sock", EndpointError::Socket),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(error), "{text}");
        }
    }
}
