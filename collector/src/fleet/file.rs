//! Owns reading the fleet file. Must not own what it may say.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use driftlock_common::fleet::{Fleet, FleetError, MAX_FLEET};

/// Why a fleet file is not used.
#[derive(Debug, thiserror::Error)]
pub enum FleetFileError {
    /// It cannot be opened or read.
    #[error("{}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// It says what it may not.
    #[error("{}:{error}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Everything that is wrong with it.
        error: FleetError,
    },
}

/// Reads a fleet file, never beyond its limit.
///
/// # Errors
/// If it cannot be read, or is malformed.
pub fn load(path: &Path) -> Result<Fleet, FleetFileError> {
    let fail = |error| FleetFileError::Read(path.to_owned(), error);
    let mut bytes = Vec::new();
    File::open(path).map_err(fail)?.take(MAX_FLEET as u64 + 1).read_to_end(&mut bytes).map_err(fail)?;
    Fleet::parse(&bytes).map_err(|error| FleetFileError::Malformed { path: path.to_owned(), error })
}
