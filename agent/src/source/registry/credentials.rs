//! Owns finding the credential for a repository in the files that docker and podman keep: which file, which entry, what
//! is in it. Must not own running a helper program, or sending anything.
//!
//! Formats: docker's `config.json`, podman's `auth.json` (containers-auth.json(5)). No error here quotes from a file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::reference::Repository;

/// The largest file that is read, in bytes.
pub const MAX_FILE: u64 = 1024 * 1024;
/// What Docker's own registry is called in these files.
const DOCKER_HUB: [&str; 2] = ["docker.io", "index.docker.io"];
/// What docker calls it when it asks a helper.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// What is shown to a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A user and a password.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A token that a token endpoint exchanges for another.
    Identity(String),
}

/// What a file says about a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing.
    Nothing,
    /// This.
    Credential(Credential),
    /// `docker-credential-NAME` knows.
    Helper {
        /// Of the program, behind `docker-credential-`.
        name: String,
        /// What to ask it for.
        server: String,
        /// What the file has itself, in case the program knows nothing.
        or: Option<Credential>,
    },
}

/// A file of credentials.
#[derive(Clone, Default, Deserialize)]
pub struct File {
    #[serde(default)]
    auths: Option<BTreeMap<String, Auth>>,
    #[serde(default, rename = "credHelpers")]
    helpers: Option<BTreeMap<String, String>>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
struct Auth {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    identitytoken: Option<String>,
}

/// Why a file's credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error(transparent)]
    Read(io::Error),
    /// A variable names it, but it is not there.
    #[error("REGISTRY_AUTH_FILE names it, but it is not there")]
    NotThere,
    /// It is too large.
    #[error("larger than the 1048576 bytes allowed for it")]
    TooLarge,
    /// It is no JSON, or other JSON.
    #[error("not a file of credentials as docker and podman write it: line {0}, column {1}")]
    Json(usize, usize),
    /// An entry that is damaged.
    #[error("the entry for {0} is not base64 of USER:PASSWORD")]
    Auth(String),
    /// A helper that is not a name.
    #[error("a credential helper's name is letters, digits, - _ and . only")]
    HelperName,
}

/// A file that may hold credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where.
    pub path: PathBuf,
    /// Whether somebody named exactly this file.
    pub named: bool,
}

/// Which files are looked at, in order, by the environment. `REGISTRY_AUTH_FILE` names the only one (podman-login(1)),
/// else `DOCKER_CONFIG` its directory (docker(1)); else there are podman's two and docker's (containers-auth.json(5)).
pub fn candidates(variable: impl Fn(&str) -> Option<OsString>) -> Vec<Candidate> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = set("REGISTRY_AUTH_FILE") {
        return vec![Candidate { path, named: true }];
    }
    let found = |path: PathBuf| Candidate { path, named: false };
    if let Some(directory) = set("DOCKER_CONFIG") {
        return vec![found(directory.join("config.json"))];
    }
    let home = set("HOME");
    let runtime = set("XDG_RUNTIME_DIR").map(|directory| directory.join("containers/auth.json"));
    let config = set("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
    let config = config.map(|directory| directory.join("containers/auth.json"));
    let docker = home.map(|home| home.join(".docker/config.json"));
    [runtime, config, docker].into_iter().flatten().map(found).collect()
}

// === impl File ===

impl File {
    /// Reads a file; `None` if it is not there and nobody named it.
    ///
    /// # Errors
    /// If it cannot be read, or is no file of credentials.
    pub fn read(candidate: &Candidate) -> Result<Option<Self>, FileError> {
        match open(&candidate.path) {
            Ok(bytes) => Self::parse(&bytes?).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound && candidate.named => Err(FileError::NotThere),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(FileError::Read(error)),
        }
    }

    /// Reads the text of one.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, FileError> {
        serde_json::from_slice(bytes).map_err(|error| FileError::Json(error.line(), error.column()))
    }

    /// What it says about `repository`.
    ///
    /// # Errors
    /// If its entry is damaged, or names a helper that cannot be a program.
    pub fn entry(&self, repository: &Repository) -> Result<Entry, FileError> {
        let own = self.auth(repository)?;
        let helper = self.helpers.as_ref().and_then(|helpers| best(helpers, repository));
        let store = self.store.as_ref().filter(|name| !name.is_empty());
        let Some(name) = helper.map(|(_, name)| name).or(store) else {
            return Ok(own.map_or(Entry::Nothing, Entry::Credential));
        };
        if !is_helper_name(name) {
            return Err(FileError::HelperName);
        }
        let server = if repository.is_docker_hub() { DOCKER_HUB_KEY.to_owned() } else { repository.authority() };
        Ok(Entry::Helper { name: name.clone(), server, or: own })
    }

    fn auth(&self, repository: &Repository) -> Result<Option<Credential>, FileError> {
        let Some((key, auth)) = self.auths.as_ref().and_then(|auths| best(auths, repository)) else { return Ok(None) };
        // Keys are addresses; some people put a password into one.
        let damaged = || FileError::Auth(host_of(key, true).rsplit('@').next().unwrap_or_default().to_owned());
        if let Some(token) = auth.identitytoken.as_ref().filter(|token| !token.is_empty()) {
            return Ok(Some(Credential::Identity(token.clone())));
        }
        if let Some(auth) = auth.auth.as_ref().filter(|auth| !auth.is_empty()) {
            let bytes = STANDARD.decode(auth).map_err(|_| damaged())?;
            let text = String::from_utf8(bytes).map_err(|_| damaged())?;
            let (user, password) = text.split_once(':').ok_or_else(damaged)?;
            // docker pads with zeros, and takes them off again.
            let password = password.trim_matches('\0');
            return Ok(Some(Credential::Basic { user: user.to_owned(), password: password.to_owned() }));
        }
        match (&auth.username, &auth.password) {
            (Some(user), Some(password)) if !user.is_empty() => {
                Ok(Some(Credential::Basic { user: user.clone(), password: password.clone() }))
            }
            _ => Ok(None),
        }
    }
}

/// The outer error is the opening's.
fn open(path: &Path) -> io::Result<Result<Vec<u8>, FileError>> {
    use io::Read as _;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes);
    Ok(match read {
        Err(error) => Err(FileError::Read(error)),
        Ok(_) if bytes.len() as u64 > MAX_FILE => Err(FileError::TooLarge),
        Ok(_) => Ok(bytes),
    })
}

/// The entry that fits best: the longest of the repository and what is above it, as podman writes keys; else the host in
/// one of the forms that docker writes.
fn best<'a, T>(entries: &'a BTreeMap<String, T>, repository: &Repository) -> Option<(&'a str, &'a T)> {
    let authority = repository.authority();
    let hosts: &[&str] = if repository.is_docker_hub() { &DOCKER_HUB } else { &[authority.as_str()] };
    let name = repository.name();
    let names = std::iter::successors(Some(name.as_str()), |name| name.rsplit_once('/').map(|(above, _)| above));
    let keys = names.flat_map(|name| hosts.iter().map(move |host| format!("{host}/{name}")));
    let exact = keys.chain(hosts.iter().map(|host| (*host).to_owned())).find_map(|key| entries.get_key_value(&key));
    let exact = exact.map(|(key, value)| (key.as_str(), value));
    exact.or_else(|| {
        let mut entries = entries.iter().map(|(key, value)| (key.as_str(), value));
        entries.find(|(key, _)| hosts.contains(&host_of(key, false).to_ascii_lowercase().as_str()))
    })
}

/// The host that a key of docker's means: `https://HOST/v1/`. A path without a scheme is podman's, and means less than
/// the host; `whole` takes it off all the same.
fn host_of(key: &str, whole: bool) -> &str {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    match bare {
        Some(bare) => bare.split('/').next().unwrap_or(bare),
        None if whole => key.split('/').next().unwrap_or(key),
        None => key,
    }
}

fn is_helper_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=100).contains(&name.len()) && name.bytes().all(word)
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic(…)",
            Self::Identity(_) => "Identity(…)",
        })
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("File(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::Reference;
    use super::*;

    fn repository(text: &str) -> Repository {
        match Reference::parse(text).unwrap() {
            Reference::Tagged(repository, _) | Reference::Pinned(repository, _) => repository,
        }
    }

    fn basic(user: &str) -> Credential {
        Credential::Basic { user: user.to_owned(), password: "p".to_owned() }
    }

    /// `{"auths": {KEY: {"auth": "KEY's number:p"}}}`.
    fn auths(keys: &[&str]) -> File {
        let one = |(number, key): (usize, &&str)| {
            format!("\"{key}\": {{\"auth\": \"{}\"}}", STANDARD.encode(format!("{number}:p")))
        };
        let all: Vec<String> = keys.iter().enumerate().map(one).collect();
        File::parse(format!("{{\"auths\": {{{}}}}}", all.join(",")).as_bytes()).unwrap()
    }

    #[test]
    fn the_key_that_fits_best() {
        for (asked, keys, found) in [
            ("a.example/x/y", &["a.example"][..], Some("0")),
            ("a.example/x/y", &["b.example", "a.example/x"], Some("1")),
            ("a.example/x/y", &["a.example", "a.example/x", "a.example/x/y"], Some("2")),
            ("a.example/x/y", &["a.example/x/y/z", "a.example/xx", "a.example/y"], None),
            ("a.example/x/y", &["https://a.example/v1/"], Some("0")),
            ("a.example/x/y", &["https://a.example"], Some("0")),
            ("a.example/x/y", &["http://a.example/v2/"], Some("0")),
            ("a.example/x/y", &["a.example/v1/"], None),
            ("a.example/x/y", &["https://A.Example/v1/"], Some("0")),
            ("a.example/x/y", &["a.example:443", "evil-a.example", "a.example.evil"], None),
            ("a.example:5000/x", &["a.example", "a.example:5000"], Some("1")),
            ("a.example:5000/x", &["a.example"], None),
            ("[::1]:5000/x", &["[::1]:5000"], Some("0")),
            ("docker.io/debian", &["https://index.docker.io/v1/"], Some("0")),
            ("docker.io/debian", &["docker.io"], Some("0")),
            ("index.docker.io/debian", &["docker.io/library"], Some("0")),
            ("a.example/x", &["https://index.docker.io/v1/"], None),
        ] {
            let entry = auths(keys).entry(&repository(asked)).unwrap();
            let expected = found.map_or(Entry::Nothing, |user| Entry::Credential(basic(user)));
            let same = match (&entry, &expected) {
                (Entry::Credential(a), Entry::Credential(b)) => a == b,
                (a, b) => a == b,
            };
            assert!(same, "{asked} {keys:?} {entry:?}");
        }
    }

    #[test]
    fn what_an_entry_holds() {
        let helper = |name: &str, server: &str, or| Entry::Helper { name: name.into(), server: server.into(), or };
        let auth = STANDARD.encode("u:p");
        let padded = STANDARD.encode("u:p\0\0");
        for (file, asked, entry) in [
            ("{}".to_owned(), "a.example/x", Entry::Nothing),
            (r#"{"auths": null, "credHelpers": null, "credsStore": null}"#.to_owned(), "a.example/x", Entry::Nothing),
            (r#"{"auths": {"a.example": {}}, "other": [1]}"#.to_owned(), "a.example/x", Entry::Nothing),
            (
                format!(r#"{{"auths":{{"a.example":{{"auth":"{auth}"}}}}}}"#),
                "a.example/x",
                Entry::Credential(basic("u")),
            ),
            (
                format!(r#"{{"auths":{{"a.example":{{"auth":"{padded}"}}}}}}"#),
                "a.example/x",
                Entry::Credential(basic("u")),
            ),
            (
                r#"{"auths":{"a.example":{"username":"u","password":"p"}}}"#.to_owned(),
                "a.example/x",
                Entry::Credential(basic("u")),
            ),
            (
                format!(r#"{{"auths":{{"a.example":{{"auth":"{auth}","identitytoken":"t"}}}}}}"#),
                "a.example/x",
                Entry::Credential(Credential::Identity("t".into())),
            ),
            (r#"{"credsStore":"pass"}"#.to_owned(), "a.example:1/x", helper("pass", "a.example:1", None)),
            (r#"{"credsStore":"pass"}"#.to_owned(), "docker.io/x", helper("pass", DOCKER_HUB_KEY, None)),
            (
                format!(
                    r#"{{"credsStore":"pass","credHelpers":{{"a.example":"ecr-login"}},"auths":{{"a.example":{{"auth":"{auth}"}}}}}}"#
                ),
                "a.example/x",
                helper("ecr-login", "a.example", Some(basic("u"))),
            ),
            (r#"{"credHelpers":{"b.example":"x"}}"#.to_owned(), "a.example/x", Entry::Nothing),
        ] {
            assert_eq!(File::parse(file.as_bytes()).unwrap().entry(&repository(asked)).unwrap(), entry, "{file}");
        }
    }

    #[test]
    fn a_damaged_file_is_said_without_quoting_it() {
        for (file, says) in [
            ("", "line 1, column 0"),
            (r#"{"auths": {"a.example": {"auth": ["secret"]}}}"#, "line 1"),
            (r#"{"auths": {"a.example": "secret"}}"#, "line 1"),
            (r#"{"auths": {"https://u:secret@a.example": {"auth": "c2VjcmV0"}}}"#, ""),
            (r#"{"auths": {"a.example": {"auth": "secret"}}}"#, "the entry for a.example"),
            (r#"{"auths": {"a.example": {"auth": "c2VjcmV0"}}}"#, "the entry for a.example"),
            (r#"{"credsStore": "../secret"}"#, "helper's name"),
            (r#"{"credsStore": "a b"}"#, "helper's name"),
        ] {
            let error = match File::parse(file.as_bytes()) {
                Ok(file) => file.entry(&repository("a.example/x")).map(|entry| assert_eq!(entry, Entry::Nothing)),
                Err(error) => Err(error),
            };
            let said = error.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(said.contains(says) && !said.contains("ecret") && !said.contains("c2Vj"), "{file}: {said}");
        }
    }

    #[test]
    fn files_by_the_environment() {
        let all = [
            ("REGISTRY_AUTH_FILE", "/r"),
            ("DOCKER_CONFIG", "/d"),
            ("XDG_RUNTIME_DIR", "/run/u"),
            ("XDG_CONFIG_HOME", "/c"),
            ("HOME", "/h"),
        ];
        for (set, files) in [
            (&all[..], "/r!"),
            (&all[1..], "/d/config.json"),
            (&all[2..], "/run/u/containers/auth.json /c/containers/auth.json /h/.docker/config.json"),
            (&all[4..], "/h/.config/containers/auth.json /h/.docker/config.json"),
            (&[("REGISTRY_AUTH_FILE", ""), ("HOME", "/h")], "/h/.config/containers/auth.json /h/.docker/config.json"),
            (&[], ""),
        ] {
            let variable = |name: &str| set.iter().find(|(have, _)| *have == name).map(|(_, value)| value.into());
            let shown = |file: Candidate| format!("{}{}", file.path.display(), if file.named { "!" } else { "" });
            let found: Vec<String> = candidates(variable).into_iter().map(shown).collect();
            assert_eq!(found.join(" "), files);
        }
    }

    #[test]
    fn nothing_secret_is_shown_for_debugging() {
        let shown = format!("{:?} {:?} {:?}", basic("u"), Credential::Identity("secret".into()), auths(&["secret"]));
        assert_eq!(shown, "Basic(…) Identity(…) File(…)");
    }
}
