//! Owns reading whom a target believes from files: public keys, or a trust file. Must not own what they mean.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use driftlock_common::exit::Exit;
use driftlock_common::path::Escaped;
use driftlock_common::trust::{Anchors, KeyError, MAX_KEY, MAX_KEYS, MAX_ROOTS, PublicKey, RootsError};

use crate::config::Trust;
use crate::failure::Failure;

/// Problems that one line names.
const MAX_NAMED: usize = 3;

/// Why nobody can be believed.
#[derive(Debug, thiserror::Error)]
pub enum AnchorFileError {
    /// A file cannot be read.
    #[error("{}", shown(.0))]
    Read(PathBuf, #[source] io::Error),
    /// It is no public key.
    #[error("{}: {}", shown(.0), .1)]
    Key(PathBuf, KeyError),
    /// More keys than anybody has.
    #[error("{0} keys: at most {MAX_KEYS} are tried")]
    TooMany(usize),
    /// A key where a trust file is wanted.
    #[error("{}: a key, not a trust file: a key stands in a list, trust = [\"{}\"]", shown(.0), shown(.0))]
    KeyAlone(PathBuf),
    /// It is no trust file.
    #[error("{}", one_line(.0, .1))]
    Roots(PathBuf, RootsError),
}

/// Reads whom a target believes; `None` if it has no trust.
///
/// # Errors
/// If a file cannot be read or is not what it is to be.
pub fn load(trust: &Trust) -> Result<Option<Anchors>, AnchorFileError> {
    match trust {
        Trust::Nobody => Ok(None),
        Trust::AnyOf(keys) => any_of(keys).map(Some),
        Trust::File(file) => roots(file).map(Some),
    }
}

/// Any one of the keys in these files is enough.
///
/// # Errors
/// If one cannot be read or is none.
pub fn any_of(files: &[PathBuf]) -> Result<Anchors, AnchorFileError> {
    if files.len() > MAX_KEYS {
        return Err(AnchorFileError::TooMany(files.len()));
    }
    let key = |file: &PathBuf| {
        let text = String::from_utf8(read(file, MAX_KEY)?)
            .map_err(|_| AnchorFileError::Key(file.clone(), KeyError::NotPem))?;
        let key = PublicKey::from_pem(&text).map_err(|error| AnchorFileError::Key(file.clone(), error))?;
        Ok((shown(file).to_string(), key))
    };
    files.iter().map(key).collect::<Result<Vec<_>, _>>().map(Anchors::any_of)
}

fn roots(file: &Path) -> Result<Anchors, AnchorFileError> {
    let bytes = read(file, MAX_ROOTS)?;
    if bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
        return Err(AnchorFileError::KeyAlone(file.to_owned()));
    }
    Anchors::parse(&bytes).map_err(|error| AnchorFileError::Roots(file.to_owned(), error))
}

/// No more than `most` bytes and one.
fn read(path: &Path, most: usize) -> Result<Vec<u8>, AnchorFileError> {
    let most = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(most).read_to_end(&mut bytes).map(|_| bytes)
    };
    read().map_err(|error| AnchorFileError::Read(path.to_owned(), error))
}

fn shown(path: &Path) -> Escaped<'_> {
    Escaped(path.as_os_str().as_encoded_bytes())
}

fn one_line(path: &Path, error: &RootsError) -> String {
    let lines: Vec<String> =
        error.problems.iter().map(|problem| format!("{}:{problem}", shown(path))).take(MAX_NAMED).collect();
    match error.problems.len().saturating_sub(MAX_NAMED) {
        0 => lines.join("; "),
        more => format!("{}; and {more} more: driftlock check-config says all", lines.join("; ")),
    }
}

impl AnchorFileError {
    /// A line for each thing that is wrong.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Roots(path, error) => {
                error.problems.iter().map(|problem| format!("{}:{problem}", shown(path))).collect()
            }
            Self::Read(path, error) => vec![format!("{}: {error}", shown(path))],
            Self::Key(..) | Self::TooMany(_) | Self::KeyAlone(_) => vec![self.to_string()],
        }
    }
}

impl From<AnchorFileError> for Failure {
    fn from(error: AnchorFileError) -> Self {
        match error {
            AnchorFileError::Read(path, error) => Self::input(shown(&path), error),
            AnchorFileError::Key(..) | AnchorFileError::KeyAlone(_) | AnchorFileError::Roots(..) => {
                Self::new(Exit::Malformed, error)
            }
            AnchorFileError::TooMany(_) => Self::new(Exit::Usage, error),
        }
    }
}
