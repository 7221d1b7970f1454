//! Owns what is agreed between who pushes manifests, the collector that keeps them on its shelf, and the agents that ask for
//! them: addresses, kinds, limits, answers. Must not own bytes on a disk, or whom to believe.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::host_name::HostPattern;
use crate::trust::{Assignment, Envelope, EnvelopeError, Statement, StatementError};

/// Where what was pushed is kept and asked for, by its SHA-256: `PUT` and `GET /v1/manifests/{sha256}`.
pub const MANIFESTS_PATH: &str = "/v1/manifests";
/// Where it is said, and asked, what a target must match: `PUT` and `GET /v1/targets/{target}/{bundle or assignment}`.
pub const TARGETS_PATH: &str = "/v1/targets";
/// The largest manifest that is kept, in bytes.
pub const MAX_PLAIN: u64 = 4 * 1024 * 1024 * 1024;
/// The largest body by which one comes, or goes, in bytes: compressed or not.
pub const MAX_BODY: u64 = 1024 * 1024 * 1024;
/// The largest window of what is compressed, as a power of two: 128 MiB, what `zstd` itself allows when it is not told
/// otherwise.
pub const MAX_WINDOW_LOG: u32 = 27;
/// The longest name of a target, in bytes.
pub const MAX_TARGET: usize = 128;
/// What every manifest begins with, and nothing else does.
pub const MANIFEST_HEAD: &[u8] = b"{\"driftlock\":";

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A manifest.
    Manifest,
    /// A signed statement about one.
    Bundle,
    /// A signed word on which one a target must match.
    Assignment,
}

/// Something on the shelf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// SHA-256 of its bytes, uncompressed.
    pub sha256: Digest,
    /// What it is.
    pub kind: Kind,
    /// How many bytes it has.
    pub bytes: u64,
    /// The manifest that a bundle or an assignment names. Nobody verified that here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// Who pushed it first.
    pub pushed_by: String,
    /// RFC 3339: when.
    pub pushed_at: String,
}

/// What a target must match on the hosts of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// On which hosts.
    pub hosts: HostPattern,
    /// The target's name.
    pub target: String,
    /// A bundle or an assignment.
    pub kind: Kind,
    /// Which.
    pub sha256: Digest,
    /// Who said so.
    pub set_by: String,
    /// RFC 3339: when.
    pub set_at: String,
}

/// Everything on the shelf: `GET /v1/manifests`. Of pointers that match a host and a target the last one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// In the order in which they were pushed.
    pub items: Vec<Item>,
    /// In the order in which they were set.
    pub pointers: Vec<Pointer>,
}

/// The body of `PUT /v1/targets/{target}/{kind}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// On which hosts.
    pub hosts: HostPattern,
    /// What of that kind was pushed before.
    pub sha256: Digest,
}

/// For what something is pushed, as it is written: `HOST-PATTERN/TARGET`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct For {
    /// On which hosts.
    pub hosts: HostPattern,
    /// The target's name.
    pub target: String,
}

/// Why bytes are not kept.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    /// Neither a manifest nor an envelope.
    #[error("no manifest, and {0}")]
    Envelope(#[from] EnvelopeError),
    /// An envelope of something else.
    #[error("neither a bundle nor an assignment: {0}")]
    Statement(#[from] StatementError),
}

/// Where something is kept.
pub fn manifest_path(sha256: Digest) -> String {
    format!("{MANIFESTS_PATH}/{sha256}")
}

/// Where a bundle about a manifest is asked for: the one that was pushed last.
pub fn bundle_path(manifest: Digest) -> String {
    format!("{MANIFESTS_PATH}/{manifest}/bundle")
}

/// Where it is said what a target must match. The target's name is one that [`is_target`] takes.
pub fn target_path(target: &str, kind: Kind) -> String {
    format!("{TARGETS_PATH}/{target}/{}", kind.name())
}

/// Whether a text is the name of a target.
pub fn is_target(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:@".contains(&byte);
    // A path has no such parts.
    (1..=MAX_TARGET).contains(&name.len()) && name.bytes().all(good) && name != "." && name != ".."
}

/// What an envelope is, and which manifest it names; not verified, so good for finding things, and for nothing else.
///
/// # Errors
/// If it is neither a bundle nor an assignment.
pub fn look(envelope: &[u8]) -> Result<(Kind, Digest), NotKept> {
    let envelope = Envelope::parse(envelope)?;
    let claim = envelope.verify([]);
    if let Ok((assignment, _)) = Assignment::read(&claim) {
        return Ok((Kind::Assignment, assignment.manifest));
    }
    Ok((Kind::Bundle, Statement::read(&claim)?.manifest))
}

// === impl Kind ===

impl Kind {
    /// The word of addresses and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Bundle => "bundle",
            Self::Assignment => "assignment",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl For ===

impl FromStr for For {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (hosts, target) = text.split_once('/').ok_or("write HOST-PATTERN/TARGET: web-*/app")?;
        let hosts = hosts.parse().map_err(|_| "before the / stands a pattern of hosts: web-1, web-*, *")?;
        if !is_target(target) {
            return Err("behind the / stands a target's name: 1 to 128 letters, digits and . _ - : @");
        }
        Ok(Self { hosts, target: target.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_what_something_is_pushed() {
        let read: For = "web-*/app:1".parse().unwrap();
        assert_eq!((read.hosts.as_str(), read.target.as_str()), ("web-*", "app:1"));
        for text in ["", "app", "/app", "web/", "web/..", "web/a/b", "web/a b", "w b/app", "web/\u{e9}"] {
            assert!(text.parse::<For>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_envelope_is_not_kept() {
        for bytes in [&b""[..], b"{}", b"{\"driftlock\":1}", b"\x7fELF"] {
            assert!(look(bytes).is_err());
        }
    }
}
