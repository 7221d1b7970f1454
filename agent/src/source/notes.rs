//! Owns what was odd about a source: stable codes, counted, the first of them listed. Must not own deciding that
//! something is odd.

use std::collections::BTreeMap;
use std::fmt;

use driftlock_common::manifest::Diagnostic;
use driftlock_common::path::{TreePath, from_base64, to_base64};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How many notes are kept with their paths; all are counted.
pub const LISTED: usize = 1000;

/// A code. The words are part of the manifest format: they are added, never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Code {
    /// A path stands twice in one layer. The last one counts.
    DuplicateEntry,
    /// A whiteout of a path that the same layer has. It hides only lower layers.
    WhiteoutOfSameLayerPath,
    /// A hard link to a file of a lower layer.
    CrossLayerHardlink,
    /// A hard link whose own header has another mode or owner than its target.
    HardlinkMetadataMismatch,
    /// A path below something that is not a directory, which becomes one.
    ParentReplaced,
    /// A directory that has no entry of its own.
    ImplicitParent,
    /// A name with a leading slash, which goes.
    AbsoluteName,
    /// A name that is not UTF-8.
    NonUtf8Path,
    /// A device node.
    DeviceNode,
    /// A file with the set-user-ID or set-group-ID bit.
    Setid,
    /// An extended attribute that the profile, or the container engines, leave out.
    XattrDropped,
    /// A global extended header, without effect.
    PaxGlobal,
    /// Bytes after the end of the archive, without effect.
    TrailingData,
    /// Where what the kernel makes was mounted: of that only that it was there is sealed.
    VirtualMount,
    /// A file with holes that are not stored. Its content is what it has with zeros there.
    Sparse,
    /// The table of contents of a layer says something else than its archive: who pulls lazily may unpack another tree.
    TocTarDivergence,
    /// A table of contents that could not be read, so that nobody knows what it says.
    TocUnread,
    /// A layer without the zero blocks that end an archive; its digest proves it whole.
    Unterminated,
    /// A regular file of which an mtree file states no SHA-256: its content is not compared.
    ContentUnspecified,
    /// What an mtree file states but a manifest does not hold: flags, an owner by name only, devices of another system.
    AttributeDropped,
    /// What an mtree file says is not to be compared: optional, ignore, nochange.
    NotCompared,
    /// A name of an mtree file with an unescaped wildcard, which is taken as it stands.
    PatternName,
}

/// One oddity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// What.
    pub code: Code,
    /// Where; the root for something about a whole layer.
    #[serde(serialize_with = "write_path", deserialize_with = "read_path")]
    pub path: TreePath,
    /// Index of the layer, if there are any.
    pub layer: Option<u16>,
}

/// The oddities of a source.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Notes {
    counts: BTreeMap<Code, u64>,
    listed: Vec<Note>,
    /// Kept even when `listed` is full of harmless ones.
    ambiguous: Option<Note>,
}

fn write_path<S: Serializer>(path: &TreePath, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&to_base64(path.as_bytes()))
}

fn read_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TreePath, D::Error> {
    let bytes = from_base64(&String::deserialize(deserializer)?).ok_or_else(|| D::Error::custom("not base64"))?;
    TreePath::new(bytes).map_err(D::Error::custom)
}

// === impl Code ===

impl Code {
    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DuplicateEntry => "duplicate-entry",
            Self::WhiteoutOfSameLayerPath => "whiteout-of-same-layer-path",
            Self::CrossLayerHardlink => "cross-layer-hardlink",
            Self::HardlinkMetadataMismatch => "hardlink-metadata-mismatch",
            Self::ParentReplaced => "parent-replaced",
            Self::ImplicitParent => "implicit-parent",
            Self::AbsoluteName => "absolute-name",
            Self::NonUtf8Path => "nonutf8-path",
            Self::DeviceNode => "device-node",
            Self::Setid => "setid",
            Self::XattrDropped => "xattr-dropped",
            Self::PaxGlobal => "pax-global",
            Self::TrailingData => "trailing-data",
            Self::VirtualMount => "virtual-mount",
            Self::Sparse => "sparse",
            Self::TocTarDivergence => "toc-tar-divergence",
            Self::TocUnread => "toc-unread",
            Self::Unterminated => "unterminated",
            Self::ContentUnspecified => "content-unspecified",
            Self::AttributeDropped => "attribute-dropped",
            Self::NotCompared => "not-compared",
            Self::PatternName => "pattern-name",
        }
    }

    /// Whether container engines make different trees of it.
    pub const fn is_ambiguous(self) -> bool {
        matches!(
            self,
            Self::DuplicateEntry
                | Self::WhiteoutOfSameLayerPath
                | Self::CrossLayerHardlink
                | Self::HardlinkMetadataMismatch
                | Self::ParentReplaced
                | Self::TocTarDivergence
                | Self::TocUnread
        )
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code.name())?;
        if let Some(layer) = self.layer {
            write!(f, " in layer {layer}")?;
        }
        if !self.path.is_root() {
            write!(f, ": {}", self.path.escaped())?;
        }
        Ok(())
    }
}

// === impl Notes ===

impl Notes {
    /// Counts one, and lists it while there is room.
    pub fn add(&mut self, code: Code, path: &TreePath, layer: Option<u16>) {
        *self.counts.entry(code).or_default() += 1;
        if code.is_ambiguous() && self.ambiguous.is_none() {
            self.ambiguous = Some(Note { code, path: path.clone(), layer });
        }
        if self.listed.len() < LISTED {
            self.listed.push(Note { code, path: path.clone(), layer });
        }
    }

    /// Takes over the notes about one layer, which did not know its index.
    pub(super) fn absorb(&mut self, other: Self, layer: Option<u16>) {
        for (code, count) in other.counts {
            *self.counts.entry(code).or_default() += count;
        }
        self.ambiguous = self.ambiguous.take().or_else(|| other.ambiguous.map(|note| Note { layer, ..note }));
        let room = LISTED.saturating_sub(self.listed.len());
        self.listed.extend(other.listed.into_iter().take(room).map(|note| Note { layer, ..note }));
    }

    /// The first of them, at most [`LISTED`].
    pub fn listed(&self) -> &[Note] {
        &self.listed
    }

    /// The first on which container engines disagree.
    pub const fn first_ambiguous(&self) -> Option<&Note> {
        self.ambiguous.as_ref()
    }

    /// How many there are in all.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// How often a code occurred.
    pub fn count(&self, code: Code) -> u64 {
        self.counts.get(&code).copied().unwrap_or(0)
    }

    /// For the manifest's header, sorted by code.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let mut all: Vec<_> = self
            .counts
            .iter()
            .map(|(code, count)| Diagnostic { code: code.name().to_owned(), count: *count })
            .collect();
        all.sort_by(|a, b| a.code.cmp(&b.code));
        all
    }
}
