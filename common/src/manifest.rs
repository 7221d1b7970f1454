//! Owns sealed trees: the header, and a manifest as a value. The NDJSON view is read by [`Reader`] and written by
//! [`Manifest::write`] (format version 1). Must not own files, signatures or trust.

mod header;
mod json;
mod line;
mod entry;
mod read;
mod step;
mod write;

pub use header::{Diagnostic, Header, Source, SourceKind};
pub use read::{ManifestError, Meaning, Problem, Reader};
pub use step::MAX_STEP;

use crate::canonical;
use crate::digest::{Digest, OciDigest};
use crate::tree::Tree;

/// The version this code reads and writes.
pub const VERSION: u32 = 1;
/// The longest line, in bytes, its line feed not counted.
pub const MAX_LINE: usize = 1024 * 1024;

/// A sealed tree with the terms it was sealed under.
///
/// Invariant, kept by the [`Reader`] and by what seals: every node specifies at most what the header's profile
/// allows for its type, and no entry lies under an exclude.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The terms.
    pub header: Header,
    /// The tree.
    pub tree: Tree,
}

/// What the trailer states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Number of entry lines; the root counts if it has one.
    pub entries: u64,
    /// Sum of the sizes of regular files, in bytes.
    pub bytes: u64,
    /// Digest of the tree.
    pub tree: Digest,
}

impl Manifest {
    /// Reads a manifest that is in memory.
    ///
    /// # Errors
    /// As [`Reader::line`] and [`Reader::finish`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut reader = Reader::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            reader.line(&rest[..end])?;
            rest = &rest[end + 1..];
        }
        if !rest.is_empty() {
            return Err(reader.unterminated(rest.len()));
        }
        reader.finish()
    }

    /// The manifest's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(&mut |line| {
            bytes.extend_from_slice(line);
            Ok::<(), std::convert::Infallible>(())
        })
        .unwrap_or_else(|never| match never {});
        bytes
    }

    /// The digest of the tree under the header's terms.
    pub fn tree_digest(&self) -> Digest {
        canonical::tree_digest(self.header.profile, self.header.content, self.header.excludes.iter(), &self.tree)
    }

    /// What the trailer states.
    pub fn totals(&self) -> Totals {
        let root_line = u64::from(write::has_root_line(&self.tree));
        let sizes = self.tree.iter().filter_map(|id| self.tree.size(id));
        let bytes = sizes.fold(0, u64::saturating_add);
        Totals { entries: self.tree.len() as u64 + root_line, bytes, tree: self.tree_digest() }
    }

    /// `blake3:<tree digest>`, the name of the tree.
    pub fn name(&self) -> OciDigest {
        OciDigest::blake3(self.tree_digest())
    }
}
