//! Owns reading policy files. Must not own what a policy says.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use driftlock_common::exit::Exit;
use driftlock_common::path::Escaped;
use driftlock_common::policy::{MAX_POLICY, Policy, PolicyError};

use crate::failure::Failure;

/// Problems that one line names; there may be one for each rule.
const MAX_NAMED: usize = 3;

/// Why a policy file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    /// It cannot be read.
    #[error("{file}: {error}")]
    Read {
        /// Its path, escaped.
        file: String,
        /// Why.
        error: io::Error,
    },
    /// It is no policy.
    #[error("{}", one_line(.0))]
    Malformed(
        /// Everything that is wrong with it, each with file, line and column; at least one.
        Vec<String>,
    ),
}

/// The policy of a file.
///
/// # Errors
/// If it cannot be read, or everything that is wrong with it, at once.
pub fn load(path: &Path) -> Result<Policy, PolicyFileError> {
    Policy::parse(&read(path)?).map_err(|error| PolicyFileError::malformed(path, &error))
}

/// The bytes of a file, but no more than a policy may have and one.
///
/// # Errors
/// If it cannot be read, or is no regular file.
pub fn read(path: &Path) -> Result<Vec<u8>, PolicyFileError> {
    let unreadable = |error| PolicyFileError::Read { file: shown(path), error };
    let file = File::open(path).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(unreadable(io::Error::new(io::ErrorKind::IsADirectory, "not a regular file")));
    }
    let mut bytes = Vec::new();
    let most = u64::try_from(MAX_POLICY).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

impl PolicyFileError {
    /// Of a file that is read as a policy is, and is none.
    pub fn malformed(path: &Path, error: &PolicyError) -> Self {
        Self::Malformed(error.problems.iter().map(|problem| format!("{}:{problem}", shown(path))).collect())
    }
}

/// A path for people.
pub fn shown(path: &Path) -> String {
    Escaped(path.as_os_str().as_encoded_bytes()).to_string()
}

fn one_line(lines: &[String]) -> String {
    let named = lines[..lines.len().min(MAX_NAMED)].join("; ");
    match lines.len().saturating_sub(MAX_NAMED) {
        0 => named,
        more => format!("{named}; and {more} more: driftlock policy check says all"),
    }
}

impl From<PolicyFileError> for Failure {
    fn from(error: PolicyFileError) -> Self {
        match error {
            PolicyFileError::Read { file, error } => Self::input(file, error),
            PolicyFileError::Malformed(_) => Self::new(Exit::Malformed, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_one_line_with_file_and_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("web.toml");
        let why = || load(&file).unwrap_err().to_string();
        assert!(why().contains("web.toml: No such file"), "{}", why());
        assert!(load(dir.path()).unwrap_err().to_string().ends_with(": not a regular file"));
        std::fs::write(&file, "version = 1\nname = 'p'\n").unwrap();
        assert_eq!(load(&file).unwrap().name(), "p");
        std::fs::write(&file, "version = 2\nname = 'p'\n").unwrap();
        assert!(why().contains("web.toml:1:11: version 2 is not known"), "{}", why());
        let rule = "[[rule]]\nid = 'r'\n";
        std::fs::write(&file, format!("version = 1\nname = 'p'\n{}", rule.repeat(9))).unwrap();
        assert!(why().contains(" more: driftlock policy check says all"), "{}", why());
        assert!(!why().contains('\n'));
    }
}
