//! Owns how an image in a registry is written, and what of that goes into a request. Must not own asking the registry.
//!
//! Grammar: OCI distribution-spec v1.1 ("Pulling manifests") for names and tags; in front of it a host as the reference
//! grammar of `distribution/reference` has it, which here may not be left out.

use std::fmt;
use std::net::Ipv6Addr;

use driftlock_common::digest::{Algorithm, Digest, DigestError, OciDigest};
use reqwest::Url;

use crate::http::is_loopback;

/// The longest repository name, in bytes: what `distribution/reference` takes.
pub const MAX_REPOSITORY: usize = 255;
/// The longest tag, in bytes.
pub const MAX_TAG: usize = 128;
/// The longest host name, in bytes (RFC 1035 section 2.3.4).
const MAX_HOST: usize = 253;
/// What is meant where neither tag nor digest is written.
const DEFAULT_TAG: &str = "latest";

/// A repository of a registry: `HOST[:PORT]/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    host: String,
    port: Option<u16>,
    name: String,
}

/// What is written behind `registry:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// One image or index, for ever. A tag beside the digest says nothing and is not kept.
    Pinned(Repository, Digest),
    /// Whatever the tag leads to now.
    Tagged(Repository, String),
}

/// Why a text is no reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// No host in front.
    #[error("it begins with no host: write HOST/REPO@sha256:…, such as docker.io/library/debian@sha256:…")]
    NoHost,
    /// The host cannot be one.
    #[error("the host is neither a name, an IPv4 address nor an IPv6 address in brackets")]
    Host,
    /// The port cannot be one.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// The repository's name cannot be one.
    #[error("the repository is not lower-case letters, digits and separators (. _ __ -) between slashes")]
    Name,
    /// The name is too long.
    #[error("the repository has more than 255 bytes")]
    LongName,
    /// The tag cannot be one.
    #[error("the tag is not up to 128 letters, digits, _ . or -")]
    Tag,
    /// The digest cannot be one.
    #[error("what stands behind @sha256: is not 64 lower-case hexadecimal digits")]
    Digest,
    /// A digest of another kind.
    #[error("only digests by sha256 are supported")]
    Algorithm,
}

impl Repository {
    /// The host and port as they are written.
    pub fn authority(&self) -> String {
        match self.port {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        }
    }

    /// The name within the registry: Docker's own keeps what has no owner below `library`.
    pub fn name(&self) -> String {
        if self.is_docker_hub() && !self.name.contains('/') {
            format!("library/{}", self.name)
        } else {
            self.name.clone()
        }
    }

    /// Whether it is Docker's own registry, which is asked under another name.
    pub fn is_docker_hub(&self) -> bool {
        self.port.is_none() && matches!(self.host.as_str(), "docker.io" | "index.docker.io")
    }

    /// The address of something of the repository: `manifests/…`, `blobs/…`. Plain HTTP on loopback, else HTTPS.
    ///
    /// # Errors
    /// If the library takes the host for none, which is a host such as `1.2.3.4.5`.
    pub fn url(&self, rest: &str) -> Result<Url, ReferenceError> {
        let scheme = if is_loopback(&self.host) { "http" } else { "https" };
        let host = if self.is_docker_hub() { "registry-1.docker.io".to_owned() } else { self.authority() };
        Url::parse(&format!("{scheme}://{host}/v2/{}/{rest}", self.name())).map_err(|_| ReferenceError::Host)
    }

    fn parse(text: &str) -> Result<Self, ReferenceError> {
        let (authority, name) = text.split_once('/').ok_or(ReferenceError::NoHost)?;
        let (host, port) = split_port(authority)?;
        // Without a dot or a port it is the first part of a name: nobody means a host that only this network knows.
        if port.is_none() && !host.contains(['.', ':']) && host != "localhost" {
            return Err(ReferenceError::NoHost);
        }
        check_name(name)?;
        let repository = Self { host: host.to_ascii_lowercase(), port, name: name.to_owned() };
        repository.url("")?;
        Ok(repository)
    }
}

impl Reference {
    /// Reads `HOST[:PORT]/NAME[:TAG][@sha256:DIGEST]`.
    ///
    /// # Errors
    /// If it is none, or the digest is by another algorithm than SHA-256.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let (named, digest) = match text.split_once('@') {
            Some((named, digest)) => (named, Some(parse_digest(digest)?)),
            None => (text, None),
        };
        // A colon before the last slash is the port's.
        let (repository, tag) = match named.rsplit_once(':') {
            Some((before, tag)) if before.contains('/') && !tag.contains('/') => (before, Some(tag)),
            _ => (named, None),
        };
        let repository = Repository::parse(repository)?;
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag);
        }
        Ok(match digest {
            Some(digest) => Self::Pinned(repository, digest),
            None => Self::Tagged(repository, tag.unwrap_or(DEFAULT_TAG).to_owned()),
        })
    }
}

fn parse_digest(text: &str) -> Result<Digest, ReferenceError> {
    match text.parse::<OciDigest>() {
        Ok(digest) if digest.algorithm == Algorithm::Sha256 => Ok(digest.digest),
        Err(DigestError::NotHex) if text.starts_with("sha256:") => Err(ReferenceError::Digest),
        _ => Err(ReferenceError::Algorithm),
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<u16>), ReferenceError> {
    let (host, port) = if authority.starts_with('[') {
        let end = authority.find(']').ok_or(ReferenceError::Host)?;
        let (host, rest) = authority.split_at(end + 1);
        let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or(ReferenceError::Host)?) };
        host[1..end].parse::<Ipv6Addr>().map_err(|_| ReferenceError::Host)?;
        (host, port)
    } else {
        let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
        if !is_host(host) {
            return Err(ReferenceError::Host);
        }
        (host, port)
    };
    let number = |port: &str| {
        let digits = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
        port.parse().ok().filter(|port| digits && *port != 0).ok_or(ReferenceError::Port)
    };
    Ok((host, port.map(number).transpose()?))
}

/// RFC 1123 section 2.1; an IPv4 address is one too.
fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= MAX_HOST && host.split('.').all(label)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, and the same behind each slash.
fn check_name(name: &str) -> Result<(), ReferenceError> {
    if name.len() > MAX_REPOSITORY {
        return Err(ReferenceError::LongName);
    }
    if name.split('/').all(is_name_component) { Ok(()) } else { Err(ReferenceError::Name) }
}

fn is_name_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends = bytes.first().zip(bytes.last()).is_some_and(|(a, b)| alphanumeric(*a) && alphanumeric(*b));
    let separators = component.split(|ch: char| ch.is_ascii_lowercase() || ch.is_ascii_digit());
    let separator = |text: &str| matches!(text, "" | "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    ends && separators.into_iter().all(separator)
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=MAX_TAG).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.authority(), self.name)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned(repository, digest) => write!(f, "{repository}@sha256:{digest}"),
            Self::Tagged(repository, tag) => write!(f, "{repository}:{tag}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_as_they_are_written() {
        let hex = "ab".repeat(32);
        let long = format!("a.example/{}", "x".repeat(MAX_REPOSITORY));
        for (text, url, tag) in [
            ("a.example/app:1", "https://a.example/v2/app/manifests/", Some("1")),
            ("a.example/app", "https://a.example/v2/app/manifests/", Some("latest")),
            ("A.Example:8443/a/b-c/d__e.f", "https://a.example:8443/v2/a/b-c/d__e.f/manifests/", Some("latest")),
            ("a.example/a----b:_", "https://a.example/v2/a----b/manifests/", Some("_")),
            ("host:5000/app:V1.0-x_y", "https://host:5000/v2/app/manifests/", Some("V1.0-x_y")),
            ("localhost/app", "http://localhost/v2/app/manifests/", Some("latest")),
            ("localhost:5000/app", "http://localhost:5000/v2/app/manifests/", Some("latest")),
            ("127.0.0.1:5000/app:1", "http://127.0.0.1:5000/v2/app/manifests/", Some("1")),
            ("127.9.9.9/app:1", "http://127.9.9.9/v2/app/manifests/", Some("1")),
            ("[::1]:5000/app:1", "http://[::1]:5000/v2/app/manifests/", Some("1")),
            ("[2001:DB8::1]/app:1", "https://[2001:db8::1]/v2/app/manifests/", Some("1")),
            ("192.0.2.1/app:1", "https://192.0.2.1/v2/app/manifests/", Some("1")),
            ("docker.io/debian:12", "https://registry-1.docker.io/v2/library/debian/manifests/", Some("12")),
            ("docker.io/a/b", "https://registry-1.docker.io/v2/a/b/manifests/", Some("latest")),
            (&format!("a.example/app@sha256:{hex}"), "https://a.example/v2/app/manifests/", None),
            (&format!("a.example/app:1@sha256:{hex}"), "https://a.example/v2/app/manifests/", None),
            (&long, &format!("https://a.example/v2/{}/manifests/", "x".repeat(MAX_REPOSITORY)), Some("latest")),
        ] {
            let reference = Reference::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let (repository, found) = match &reference {
                Reference::Pinned(repository, digest) => {
                    assert_eq!(digest.to_hex(), hex, "{text}");
                    (repository, None)
                }
                Reference::Tagged(repository, tag) => (repository, Some(tag.as_str())),
            };
            assert_eq!(found, tag, "{text}");
            assert_eq!(repository.url("manifests/").unwrap().as_str(), url, "{text}");
            assert_eq!(Reference::parse(&reference.to_string()), Ok(reference), "{text}");
        }
    }

    #[test]
    fn what_is_no_reference() {
        use ReferenceError as E;
        let hex = "ab".repeat(32);
        let with = |rest: &str| format!("a.example/app@{rest}");
        for (text, error) in [
            ("", E::NoHost),
            ("app", E::NoHost),
            ("library/debian", E::NoHost),
            ("/app", E::Host),
            ("a.example", E::NoHost),
            ("a.example/", E::Name),
            ("a.example//app", E::Name),
            ("a.example/app/", E::Name),
            ("a.example/App", E::Name),
            ("a.example/a..b", E::Name),
            ("a.example/a___b", E::Name),
            ("a.example/a._b", E::Name),
            ("a.example/-a", E::Name),
            ("a.example/a-", E::Name),
            ("a.example/..", E::Name),
            ("a.example/a/../b", E::Name),
            ("a.example/a%2fb", E::Name),
            ("a.example/a?b", E::Name),
            ("a.example/ä", E::Name),
            ("a.example/a b", E::Name),
            ("a.example/a:b/c", E::Name),
            (&format!("a.example/{}", "x".repeat(MAX_REPOSITORY + 1)), E::LongName),
            ("a.example/app:", E::Tag),
            ("a.example/app:.x", E::Tag),
            ("a.example/app:a/b:-", E::Name),
            (&format!("a.example/app:{}", "x".repeat(MAX_TAG + 1)), E::Tag),
            ("a.example:0/app", E::Port),
            ("a.example:/app", E::Port),
            ("a.example:65536/app", E::Port),
            ("a.example:+80/app", E::Port),
            ("a.example:1:2/app", E::Port),
            ("user@a.example/app", E::Algorithm),
            ("-a.example/app", E::Host),
            ("a..example/app", E::Host),
            ("a_b.example/app", E::Host),
            ("1.2.3.4.5/app", E::Host),
            ("1.2.3.999/app", E::Host),
            ("[::1/app", E::Host),
            ("[::1]x/app", E::Host),
            ("[fe80::1%eth0]/app", E::Host),
            ("[::1]:x/app", E::Port),
            ("http://a.example/app", E::Port),
            (&format!("{}.example/app", "x".repeat(64)), E::Host),
            (&with("sha256:12"), E::Digest),
            (&with(&format!("sha256:{}", hex.to_uppercase())), E::Digest),
            (&with(&format!("sha256:{hex}@sha256:{hex}")), E::Digest),
            (&with(&format!("sha512:{hex}{hex}")), E::Algorithm),
            (&with(&format!("blake3:{hex}")), E::Algorithm),
            (&with(&hex), E::Algorithm),
            (&with(""), E::Algorithm),
        ] {
            assert_eq!(Reference::parse(text), Err(error), "{text}");
        }
    }
}
