//! Owns who may report and who may read: tokens, of which only digests are kept, and the names under which the
//! collector answers. Must not own what a permitted request does.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::{HeaderMap, StatusCode};
use driftlock_common::digest::Digest;
use driftlock_common::host_name::HostName;
use driftlock_common::path::from_base64;

use crate::error::ApiError;

/// The shortest token, in characters: 16 random hexadecimal digits are 64 bits.
const MIN_TOKEN: usize = 16;
/// The largest token file, in bytes.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// The tokens of the hosts: which host a token speaks for.
#[derive(Debug, Default)]
pub struct HostTokens(HashMap<Digest, HostName>);

/// The token for reading.
#[derive(Debug)]
pub struct ReadToken(Digest);

/// Who may read.
#[derive(Debug)]
pub enum ReadAccess {
    /// Everyone who can connect.
    Open,
    /// Who has a token: this one, if there is one, or one that the collector made.
    Token(Option<ReadToken>),
}

/// The names under which the collector answers; any other is a page of somebody else's pointed at it (DNS rebinding).
#[derive(Debug)]
pub struct AllowedHosts(HashSet<String>);

/// Why a token file is not used. Tokens are never quoted.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be opened or read.
    #[error("{}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// Others than owner and group may read it.
    #[error("{}: everyone can read or write it; chmod o-rw", .0.display())]
    Exposed(PathBuf),
    /// A line that is not a host and a token.
    #[error("{} line {line}: {problem}", path.display())]
    Line {
        /// Of which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        problem: &'static str,
    },
}

impl HostTokens {
    /// Reads a file with one line for each token: the host's name, blanks, the token. A host may have several, for
    /// changing one while it is in use; `#` begins a comment line.
    ///
    /// # Errors
    /// If it cannot be read, is exposed, or a line is not of that form.
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        let text = read_secret(path)?;
        let mut tokens = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let fail = |problem| TokenError::Line { path: path.to_owned(), line: number + 1, problem };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_whitespace();
            let (Some(host), Some(token), None) = (words.next(), words.next(), words.next()) else {
                return Err(fail("not a host and its token with blanks between"));
            };
            let host = host.parse().map_err(|_| {
                fail("a host's name is 1 to 128 letters, digits, dots, underscores and hyphens, first and last a letter or digit")
            })?;
            check_token(token).map_err(fail)?;
            if tokens.insert(digest(token), host).is_some() {
                return Err(fail("this token stands above already: a token speaks for one host"));
            }
        }
        Ok(Self(tokens))
    }

    /// The tokens of one host, as `dev` makes them.
    pub fn of(host: HostName, token: &str) -> Self {
        Self(HashMap::from([(digest(token), host)]))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The host that a bearer token speaks for.
    pub fn host_of(&self, token: &str) -> Option<&HostName> {
        // What is compared is a digest, which an attacker cannot choose: how long that takes says nothing of a token.
        self.0.get(&digest(token))
    }
}

impl ReadToken {
    /// Reads a file that holds one token.
    ///
    /// # Errors
    /// If it cannot be read, is exposed, or holds no usable token.
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        let text = read_secret(path)?;
        let token = text.trim();
        check_token(token).map_err(|problem| TokenError::Line { path: path.to_owned(), line: 1, problem })?;
        Ok(Self(digest(token)))
    }

    /// Whether this is the token.
    pub fn is(&self, given: &str) -> bool {
        same(&digest(given), &self.0)
    }
}

impl ReadAccess {
    /// Open if there is no token, which is for loopback alone.
    pub fn of(token: Option<ReadToken>) -> Self {
        token.map_or(Self::Open, |token| Self::Token(Some(token)))
    }

    /// Lets a request pass that has a token for reading, this one or one that `also_by` knows: as bearer, or as the
    /// password of basic authentication, which is what a browser can ask a person for.
    ///
    /// # Errors
    /// 401.
    pub fn check(&self, headers: &HeaderMap, also_by: impl Fn(&str) -> bool) -> Result<(), ApiError> {
        let Self::Token(token) = self else { return Ok(()) };
        let is_one = |given: &str| token.as_ref().is_some_and(|token| token.is(given)) || also_by(given);
        if bearer(headers).is_some_and(is_one) || basic_password(headers).as_deref().is_some_and(is_one) {
            return Ok(());
        }
        let public = "a token for reading is needed";
        Err(ApiError::unauthorized("Basic realm=\"driftlock\", charset=\"UTF-8\"", public))
    }
}

impl AllowedHosts {
    /// The names of loopback, the address that is listened on, and what the operator adds.
    pub fn new(listen: IpAddr, added: &[String]) -> Self {
        let mut names: HashSet<String> = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned).into();
        names.insert(if listen.is_ipv6() { format!("[{listen}]") } else { listen.to_string() });
        names.extend(added.iter().map(|name| name.to_ascii_lowercase()));
        Self(names)
    }

    /// The names, for a certificate.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.0.iter().cloned().collect();
        names.sort();
        names
    }

    /// Lets a request pass whose `Host` is one of the names, with any port.
    ///
    /// # Errors
    /// 421.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let mut hosts = headers.get_all(HOST).iter();
        let name = match (hosts.next(), hosts.next()) {
            (Some(host), None) => host.to_str().ok().map(without_port),
            _ => None,
        };
        if name.is_some_and(|name| self.0.contains(&name.to_ascii_lowercase())) {
            return Ok(());
        }
        Err(ApiError::new(
            StatusCode::MISDIRECTED_REQUEST,
            "host_not_allowed",
            "the collector does not answer under this name; start it with --allow-host NAME if it should",
        ))
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => authority,
    }
}

fn check_token(token: &str) -> Result<(), &'static str> {
    if token.chars().count() < MIN_TOKEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("a token is one word of at least 16 printable ASCII characters");
    }
    Ok(())
}

/// Reads a file that only owner and group may know; what is checked is what is read, not what is there by name later.
fn read_secret(path: &Path) -> Result<String, TokenError> {
    let fail = |error| TokenError::Read(path.to_owned(), error);
    let file = File::open(path).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    if metadata.mode() & 0o006 != 0 {
        return Err(TokenError::Exposed(path.to_owned()));
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(fail)?;
    Ok(text)
}

/// The bearer token of a request.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    credentials(headers, "bearer")
}

fn basic_password(headers: &HeaderMap) -> Option<String> {
    let pair = String::from_utf8(from_base64(credentials(headers, "basic")?)?).ok()?;
    pair.split_once(':').map(|(_, password)| password.to_owned())
}

fn credentials<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a str> {
    let (scheme, credentials) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case(wanted).then_some(credentials.trim())
}

fn digest(token: &str) -> Digest {
    Digest::sha256(token.as_bytes())
}

/// Takes the same time wherever they differ.
fn same(a: &Digest, b: &Digest) -> bool {
    a.as_bytes().iter().zip(b.as_bytes()).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn token_files() {
        let good = "# hosts\nweb-1 0123456789abcdef\n\n  web-2\tfedcba9876543210  \nweb-1 0123456789abcdeX\n";
        let tokens = HostTokens::load(file(good, 0o640).path()).unwrap();
        assert_eq!(tokens.len(), 3);
        assert!(!format!("{tokens:?}").contains("0123456789abcdef"), "a token is kept");
        for (text, mode, part) in [
            (good, 0o644, "everyone"),
            (good, 0o642, "everyone"),
            ("web-1\n", 0o600, "line 1"),
            ("web/1 0123456789abcdef\n", 0o600, "first and last a letter or digit"),
            ("a 0123456789abcdef\nweb-1 0123456789abcdef x\n", 0o600, "line 2"),
            ("web-1 short\n", 0o600, "at least 16"),
            ("a 0123456789abcdef\nb 0123456789abcdef\n", 0o600, "one host"),
        ] {
            let error = HostTokens::load(file(text, mode).path()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
            assert!(!error.contains("0123456789abcdef") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn bearer_tokens_name_their_host() {
        let tokens = HostTokens::of("web-1".parse().unwrap(), "0123456789abcdef");
        let host = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            bearer(&headers).and_then(|token| tokens.host_of(token)).map(ToString::to_string)
        };
        assert_eq!(host("Bearer 0123456789abcdef").as_deref(), Some("web-1"));
        assert_eq!(host("bearer 0123456789abcdef").as_deref(), Some("web-1"));
        for wrong in ["Bearer 0123456789abcdeF", "Basic 0123456789abcdef", "Bearer", "0123456789abcdef", "Bearer "] {
            assert_eq!(host(wrong), None, "{wrong}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }

    #[test]
    fn the_read_token_as_bearer_and_as_password() {
        let token = ReadToken::load(file("0123456789abcdef\n", 0o600).path()).unwrap();
        let access = ReadAccess::of(Some(token));
        let nobody = |_: &str| false;
        let passes = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            access.check(&headers, nobody).is_ok()
        };
        let basic = |pair: &str| format!("Basic {}", driftlock_common::path::to_base64(pair.as_bytes()));
        assert!(passes("Bearer 0123456789abcdef"));
        assert!(passes(&basic("anyone:0123456789abcdef")));
        assert!(!passes(&basic("0123456789abcdef:")));
        assert!(!passes("Bearer 0123456789abcde"));
        assert!(!passes("Basic !!"));
        assert!(access.check(&HeaderMap::new(), nobody).is_err());
        assert!(ReadAccess::of(None).check(&HeaderMap::new(), nobody).is_ok());
        let others = ReadAccess::Token(None);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, basic("x:dlt_other").parse().unwrap());
        assert!(others.check(&headers, nobody).is_err());
        assert!(others.check(&headers, |given| given == "dlt_other").is_ok());
    }

    #[test]
    fn names_under_which_the_collector_answers() {
        let allowed = AllowedHosts::new("10.0.0.5".parse().unwrap(), &["Collector.Example".to_owned()]);
        let passes = |hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, host.parse().unwrap());
            }
            allowed.check(&headers).is_ok()
        };
        for good in
            ["localhost", "localhost:8443", "127.0.0.1:1", "[::1]", "[::1]:8443", "10.0.0.5", "collector.example:443"]
        {
            assert!(passes(&[good]), "{good}");
        }
        for bad in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "::1", "localhost:x", "10.0.0.6"]
        {
            assert!(!passes(&[bad]), "{bad}");
        }
        assert!(!passes(&[]));
        assert!(!passes(&["localhost", "evil.example"]));
    }
}
