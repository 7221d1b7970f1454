//! Owns the one door from bytes to trust: only [`Baseline::load`] makes a [`Baseline`]. Must not own comparing, or
//! deciding what happens when a manifest is refused.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use driftlock_common::digest::{Digest, OciDigest};
use driftlock_common::exit::Exit;
use driftlock_common::finding::ManifestView;
use driftlock_common::manifest::{MAX_LINE, Manifest, ManifestError, Reader};
use sha2::Digest as _;

use crate::failure::Failure;

/// A manifest that may be compared with.
#[derive(Debug)]
pub struct Baseline {
    manifest: Manifest,
    /// Computed once: it takes a pass over the whole tree.
    tree: OciDigest,
    sha256: Digest,
    trust: Trust,
}

/// How far a baseline is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// A bare manifest: whoever could write the file could write the truth.
    Unsigned,
}

/// What the caller accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// A bare manifest too, shown as `unsigned`.
    Unsigned,
}

/// Why a file is not a baseline.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// The file cannot be opened.
    #[error("{}", .0.display())]
    Open(PathBuf, #[source] io::Error),
    /// The file cannot be read.
    #[error("{}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// The file is not a manifest.
    #[error("{}: not a manifest that can be used", .0.display())]
    Manifest(PathBuf, #[source] ManifestError),
}

impl Baseline {
    /// Reads, checks and accepts the manifest in `path`.
    ///
    /// # Errors
    /// If the file cannot be read, is not a manifest, or `accept` does not allow it.
    pub fn load(path: &Path, accept: Accept) -> Result<Self, BaselineError> {
        let Accept::Unsigned = accept;
        let file = File::open(path).map_err(|error| BaselineError::Open(path.to_owned(), error))?;
        let (manifest, tree, sha256) =
            read_named(BufReader::with_capacity(256 * 1024, file)).map_err(|error| match error {
                ReadError::Io(error) => BaselineError::Read(path.to_owned(), error),
                ReadError::Manifest(error) => BaselineError::Manifest(path.to_owned(), error),
            })?;
        Ok(Self { manifest, tree, sha256, trust: Trust::Unsigned })
    }

    /// The manifest.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Which manifest this is, for reports.
    pub fn view(&self) -> ManifestView {
        let Trust::Unsigned = self.trust;
        let origin = self.manifest.header.source.as_ref().map_or("other", |source| source.kind.origin());
        ManifestView { tree: self.tree, sha256: self.sha256, trust: "unsigned".into(), origin: origin.into() }
    }
}

/// Why a manifest could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not a manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// Reads a manifest from a stream, with the SHA-256 of its bytes. No line is held beyond its allowed length.
///
/// # Errors
/// If reading fails or the bytes are not a manifest.
pub fn read_manifest(input: impl BufRead) -> Result<(Manifest, Digest), ReadError> {
    read_named(input).map(|(manifest, _, sha256)| (manifest, sha256))
}

fn read_named(mut input: impl BufRead) -> Result<(Manifest, OciDigest, Digest), ReadError> {
    let mut reader = Reader::new();
    let mut sha256 = sha2::Sha256::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        let bound = MAX_LINE as u64 + 2;
        if input.by_ref().take(bound).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        sha256.update(&line);
        match line.strip_suffix(b"\n") {
            Some(line) => reader.line(line)?,
            // Too long is for the reader to say; anything shorter ends without a line feed.
            None if line.len() > MAX_LINE => reader.line(&line)?,
            None => return Err(reader.unterminated(line.len()).into()),
        }
    }
    let (manifest, tree) = reader.finish_named()?;
    Ok((manifest, tree, Digest::from_bytes(sha256.finalize().into())))
}

impl From<BaselineError> for Failure {
    fn from(error: BaselineError) -> Self {
        match error {
            BaselineError::Open(path, error) | BaselineError::Read(path, error) => Self::input(path.display(), error),
            BaselineError::Manifest(..) => Self::new(Exit::Malformed, error),
        }
    }
}
