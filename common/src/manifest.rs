//! Owns sealed trees: the header, and a manifest as a value. The NDJSON view is read by [`Reader`] and written by
//! [`Manifest::write`] (format version 1). Must not own files, signatures or trust.

mod header;
mod line;
mod entry;
mod part;
mod read;
mod step;
mod write;

pub use header::{Diagnostic, Header, Source, SourceKind};
pub use part::{MAX_PART_NAME, Part, SealedIn};
pub use read::{ManifestError, Meaning, Problem, Reader};
pub use step::MAX_STEP;
pub use write::entry_line;

use crate::canonical;
use crate::digest::{Algorithm, Digest, OciDigest};
use crate::node::Kind;
use crate::path::TreePath;
use crate::tree::{Origin, Tree};

/// The version this code reads and writes.
pub const VERSION: u32 = 1;
/// The longest line, in bytes, its line feed not counted.
pub const MAX_LINE: usize = 1024 * 1024;

/// A sealed tree with the terms it was sealed under.
///
/// Invariant, kept by the [`Reader`] and by what seals: every node specifies at most what the header's profile
/// allows for its type, and no entry lies under an exclude. Of several that were laid over each other, an entry of one may
/// lie under an exclude of another: it is sealed all the same.
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

    /// Whether there may be anything at `path`: it is not sealed, and lies under an exclude.
    pub fn leaves_out(&self, path: &TreePath) -> bool {
        self.header.excludes.excludes(path) && self.tree.find(path).is_none()
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

    /// The same tree with its contents named by the SHA-256 that stands beside each BLAKE3. What has no content digest
    /// needs none.
    ///
    /// # Errors
    /// The first file that has a BLAKE3 alone.
    pub fn by_sha256(self) -> Result<Self, TreePath> {
        let Self { mut header, tree } = self;
        if header.content == Algorithm::Sha256 {
            return Ok(Self { header, tree });
        }
        let mut entries = Vec::with_capacity(tree.len() + 1);
        for id in tree.iter() {
            let (path, mut node, origin) = (tree.path(id), tree.node(id), tree.origin(id));
            if let Kind::File { content: Some(content), .. } = &mut node.kind {
                match origin.sha256 {
                    Some(sha256) => *content = sha256,
                    None => return Err(path),
                }
            }
            entries.push((path, node, Origin { sha256: None, ..origin }));
        }
        header.content = Algorithm::Sha256;
        let tree = Tree::from_sorted(entries).expect("what is in order stays in order");
        Ok(Self { header, tree })
    }

    /// `blake3:<tree digest>`, the name of the tree.
    pub fn name(&self) -> OciDigest {
        OciDigest::blake3(self.tree_digest())
    }
}
