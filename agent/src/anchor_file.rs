//! Owns reading whom a target believes from files: public keys, or a trust file. Must not own what they mean.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use driftlock_common::exit::Exit;
use driftlock_common::path::Escaped;
use driftlock_common::trust::{Anchors, MAX_KEYS, MAX_ROOTS, RootsError};

use crate::config::Trust;
use crate::failure::Failure;
use crate::key_file::{self, KeyFileError};

/// Problems that one line names.
const MAX_NAMED: usize = 3;

/// Why nobody can be believed.
#[derive(Debug, thiserror::Error)]
pub enum AnchorFileError {
    /// A file cannot be read.
    #[error("{}", shown(.0))]
    Read(PathBuf, #[source] io::Error),
    /// The file of a key.
    #[error(transparent)]
    Key(#[from] KeyFileError),
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
    let key = |file: &PathBuf| Ok((shown(file).to_string(), key_file::read_public(file)?));
    files.iter().map(key).collect::<Result<Vec<_>, _>>().map(Anchors::any_of)
}

fn roots(file: &Path) -> Result<Anchors, AnchorFileError> {
    let most = u64::try_from(MAX_ROOTS).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|file| file.take(most).read_to_end(&mut bytes))
        .map_err(|error| AnchorFileError::Read(file.to_owned(), error))?;
    if bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
        return Err(AnchorFileError::KeyAlone(file.to_owned()));
    }
    Anchors::parse(&bytes).map_err(|error| AnchorFileError::Roots(file.to_owned(), error))
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
    pub fn lines(self) -> Vec<String> {
        match &self {
            Self::Roots(path, error) => {
                error.problems.iter().map(|problem| format!("{}:{problem}", shown(path))).collect()
            }
            Self::Read(..) | Self::Key(_) | Self::TooMany(_) | Self::KeyAlone(_) => {
                vec![Failure::from(self).to_string()]
            }
        }
    }
}

impl From<AnchorFileError> for Failure {
    fn from(error: AnchorFileError) -> Self {
        match error {
            AnchorFileError::Read(path, error) => Self::input(shown(&path), error),
            AnchorFileError::Key(error) => error.into(),
            AnchorFileError::KeyAlone(_) | AnchorFileError::Roots(..) => Self::new(Exit::Malformed, error),
            AnchorFileError::TooMany(_) => Self::new(Exit::Usage, error),
        }
    }
}
