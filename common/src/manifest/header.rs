//! Owns the first line of a manifest: the terms it was sealed under, and where it came from.

use serde::{Deserialize, Serialize};

use super::step::step;
use crate::digest::{Algorithm, OciDigest};
use crate::json::{objects, present, present_object};
use crate::pattern::Excludes;
use crate::profile::Profile;

/// The terms of a manifest. `profile`, `content` and `excludes` are bound in the tree digest; the rest informs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// How much of each node is specified.
    pub profile: Profile,
    /// What the content digests are made with.
    pub content: Algorithm,
    /// What was left out.
    pub excludes: Excludes,
    /// Names of the sets that were expanded into `excludes`.
    pub exclude_sets: Vec<String>,
    /// For each layer, the build step that made it, as its builder wrote it.
    pub history: Vec<String>,
    /// What was sealed.
    pub source: Option<Source>,
    /// What was odd about it, with counts.
    pub diagnostics: Vec<Diagnostic>,
}

/// What was sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The kind of source.
    pub kind: SourceKind,
    /// Digest of the OCI or Docker image manifest.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub manifest: Option<OciDigest>,
    /// Digest of the image configuration.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub config: Option<OciDigest>,
    /// `os/architecture[/variant]`.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Digests of the uncompressed layers (diff_ids), lowest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<OciDigest>,
}

/// The kind of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// A directory: what was there when it was sealed is the truth, which is weaker than a build's output.
    Dir,
    /// An OCI image: a layout, or an archive of one.
    Oci,
    /// An image as `docker save` writes it.
    Docker,
    /// A release archive.
    Tar,
    /// An mtree(5) file.
    Mtree,
    /// A kind that this version does not know.
    #[serde(other)]
    Other,
}

/// An oddity of the source, by a stable code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// For example `duplicate-entry`.
    pub code: String,
    /// How often.
    pub count: u64,
}

impl Header {
    /// A header with these terms and no information.
    pub const fn new(profile: Profile, content: Algorithm, excludes: Excludes) -> Self {
        Self {
            profile,
            content,
            excludes,
            exclude_sets: Vec::new(),
            history: Vec::new(),
            source: None,
            diagnostics: Vec::new(),
        }
    }

    /// The build step that made a layer, as a person reads it: one line of at most [`MAX_STEP`](super::MAX_STEP) bytes,
    /// without what builders put around a command. `None` if nothing is known of it.
    pub fn step(&self, layer: u16) -> Option<String> {
        self.history.get(usize::from(layer)).and_then(|line| step(line))
    }
}

impl SourceKind {
    /// The word for `origin` in summaries.
    pub const fn origin(self) -> &'static str {
        match self {
            Self::Dir => "dir",
            Self::Oci | Self::Docker => "image",
            Self::Tar => "archive",
            Self::Mtree => "mtree",
            Self::Other => "other",
        }
    }
}

/// The header as a line of JSON, in key order.
#[derive(Serialize, Deserialize)]
pub(super) struct HeaderLine {
    pub(super) driftlock: u32,
    pub(super) profile: Profile,
    pub(super) content: Algorithm,
    pub(super) excludes: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) exclude_sets: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) history: Vec<String>,
    #[serde(default, deserialize_with = "present_object", skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<Source>,
    #[serde(default, deserialize_with = "objects", skip_serializing_if = "Vec::is_empty")]
    pub(super) diagnostics: Vec<Diagnostic>,
}
