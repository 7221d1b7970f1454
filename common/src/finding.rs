//! Owns the JSON of a finding: what `scan` prints, what the agent reports and what the collector answers with.
//! Must not own how a difference is found. The shape is a promise: keys are added, never changed.

mod rebuild;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

pub use rebuild::Contradiction;

use crate::canonical::put_bytes;
use crate::digest::{Algorithm, Digest, OciDigest};
use crate::drift::{Attributes, Change, Delta, Drift, Sealed, Unverified};
use crate::gap::Reason;
use crate::manifest::SealedIn;
use crate::node::{Kind, Node};
use crate::path::{Escaped, TreePath, from_base64, plain_text, to_base64};
use crate::policy::{Judged, Policy, Ruling, Severity, Verdict};
use crate::profile::Profile;

/// A difference at one path, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The path: exact if `path_b64` is absent, else for display only.
    pub path: String,
    /// The exact bytes in base64, there exactly when a manifest would write them so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<String>,
    /// What kind of difference.
    pub change: Change,
    /// What differs; empty unless `changed`.
    #[serde(default, skip_serializing_if = "Attributes::is_empty_ref")]
    pub attributes: Attributes,
    /// The sealed side; absent when added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<NodeView>,
    /// The side on disk; absent when removed or not established.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<NodeView>,
    /// Which of several manifests it breaks, of at most [`MAX_PART_NAME`] bytes; absent if there is one, and when added.
    ///
    /// [`MAX_PART_NAME`]: crate::manifest::MAX_PART_NAME
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// Index of the layer that gave the sealed content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<u16>,
    /// Index of the layer that gave the sealed attributes, if another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta_layer: Option<u16>,
    /// The build step of the layer that gave what differs, for display: one line of at most [`MAX_STEP`] bytes.
    ///
    /// [`MAX_STEP`]: crate::manifest::MAX_STEP
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Attributes that could not be established.
    #[serde(default, skip_serializing_if = "Attributes::is_empty_ref")]
    pub unverified: Attributes,
    /// Why something could not be established.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// How many sealed entries an unverifiable path stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covers: Option<u64>,
    /// How many added paths below this one it stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collapsed: Option<u64>,
    /// What the policy says of it; absent if there is no policy, which is an alert. See [`Finding::is_alert`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Ruling>,
    /// How loudly it is said; absent if it is tolerated, or there is no policy. See [`Finding::severity`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// The id of the rule that covers it; absent if none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Why it is an alert although a rule covers it, or why the rule tolerates it: one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<String>,
}

/// A node, as JSON. An absent key is an attribute that is not specified or was not established.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct NodeView {
    /// `file`, `directory`, `symlink`, `char`, `block`, `fifo` or `socket`.
    #[serde(rename = "type")]
    pub file_type: Cow<'static, str>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Four octal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime: Option<i64>,
    /// BLAKE3 of the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<Digest>,
    /// SHA-256 of the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// Target of a symlink; for display if `target_b64` is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The exact bytes of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_b64: Option<String>,
    /// Major and minor number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<[u32; 2]>,
    /// Extended attributes; `[]` is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xattrs: Option<Vec<XattrView>>,
}

/// An extended attribute, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XattrView {
    /// The name, for display.
    pub name: String,
    /// The value in base64.
    pub value: String,
}

/// The last line of a scan, and what a receipt states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Whether everything in scope was established.
    pub complete: bool,
    /// `full`, or `partial` when local excludes or narrowed attributes leave something out.
    pub scope: Cow<'static, str>,
    /// The profile compared under.
    pub profile: Profile,
    /// What of each node was compared.
    #[serde(default, skip_serializing_if = "Attributes::is_empty_ref")]
    pub compared: Attributes,
    /// The changes that fail the scan, if they were named: all do otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fail_on: Vec<Change>,
    /// Paths on disk that were not sealed.
    pub added: u64,
    /// Sealed paths that are not on disk.
    pub removed: u64,
    /// Paths that differ.
    pub changed: u64,
    /// Sealed entries that could not be established, `covers` summed.
    pub unverifiable: u64,
    /// How many of the paths that were added, removed or changed the policy tolerates.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tolerated: u64,
    /// What the policy was; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyView>,
    /// What was not read because the policy allows anything there.
    #[serde(default, skip_serializing_if = "Unjudged::is_nothing")]
    pub unjudged: Unjudged,
    /// Entries looked at on disk.
    pub entries: u64,
    /// Of these, sealed ones that were not read: nothing that stat shows moved since they were read and were as sealed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub remembered: u64,
    /// Files read to their end.
    pub files_hashed: u64,
    /// Bytes read.
    pub bytes_hashed: u64,
    /// Wall time of the scan.
    pub duration_ms: u64,
    /// What was compared with.
    pub manifest: ManifestView,
    /// What was left out, and by whom.
    pub excluded: ExcludedView,
    /// The digest of what is on disk, under the manifest's terms; absent when anything was left open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_tree: Option<OciDigest>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
pub(crate) const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Which policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyView {
    /// Its name, for display.
    pub name: String,
    /// What identifies it: see [`Policy::digest`].
    pub digest: OciDigest,
}

/// What was seen and not read, because the policy allows anything there: nothing is vouched for but its metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Unjudged {
    /// Paths on disk.
    pub entries: u64,
    /// The sizes of the files among them.
    pub bytes: u64,
}

/// Which manifest, and how far it is trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestView {
    /// Digest of the tree.
    pub tree: OciDigest,
    /// SHA-256 of the manifest's bytes.
    pub sha256: Digest,
    /// `signed` or `unsigned`.
    pub trust: Cow<'static, str>,
    /// The names of the keys that count, with spaces between; absent if it is not signed, or has parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `image`, `archive`, `dir`, …; `several` for what is of different ones.
    pub origin: Cow<'static, str>,
    /// What was laid over each other, in order, the last on top; absent if it is one manifest. Then `tree` is the digest of
    /// the tree that they make under the terms that they make, which nobody sealed, and `sha256` that of their SHA-256s
    /// in hexadecimal, each with a line feed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartView>,
}

/// One of several manifests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartView {
    /// What findings call it.
    pub name: String,
    /// Digest of its own tree.
    pub tree: OciDigest,
    /// SHA-256 of its bytes.
    pub sha256: Digest,
    /// `signed` or `unsigned`.
    pub trust: Cow<'static, str>,
    /// The names of the keys that count, with spaces between; absent if it is not signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `image`, `archive`, `dir`, ….
    pub origin: Cow<'static, str>,
    /// The profile that it was sealed under; what is compared is the least of them.
    pub profile: Profile,
}

/// What was left out: patterns, and places. Keys that came later are absent where there is nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct ExcludedView {
    /// Patterns of the manifest.
    pub manifest: Vec<String>,
    /// Patterns of the configuration or the command line, and the agent's own state directory.
    pub local: Vec<String>,
    /// Where file systems are mounted inside the root as wanted, so that nothing was looked at there: escaped, in path
    /// order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<String>,
    /// Where what the kernel makes (`proc`, `sysfs`, …) is mounted inside the root, left out by its type: escaped, in path
    /// order.
    #[serde(rename = "virtual", default, skip_serializing_if = "Vec::is_empty")]
    pub virtual_mounts: Vec<String>,
}

// === impl Finding ===

impl Finding {
    /// The JSON form of a difference from what was sealed with these headers, which say what the digests are and which step
    /// made a layer.
    pub fn new<'a>(drift: &Drift, sealed_in: impl Into<SealedIn<'a>>) -> Self {
        let sealed_in = sealed_in.into();
        let content = sealed_in.content();
        let (path, path_b64) = path_fields(drift.path.as_bytes());
        let mut finding = Self {
            path,
            path_b64,
            change: drift.change(),
            attributes: Attributes::NONE,
            expected: None,
            observed: None,
            manifest: sealed_in.name_of(drift).map(str::to_owned),
            layer: None,
            meta_layer: None,
            step: drift.layer().and_then(|layer| sealed_in.header_of(drift).step(layer)),
            unverified: Attributes::NONE,
            reason: None,
            covers: None,
            collapsed: None,
            verdict: None,
            severity: None,
            rule: None,
            explanation: None,
        };
        match &drift.delta {
            Delta::Added { observed, unverified, collapsed } => {
                finding.observed = Some(NodeView::new(observed, None, content));
                finding.set_unverified(*unverified);
                finding.collapsed = *collapsed;
            }
            Delta::Removed { expected } => finding.set_expected(expected, content),
            Delta::Changed { attributes, expected, observed, unverified } => {
                finding.attributes = *attributes;
                finding.set_expected(expected, content);
                finding.observed = Some(NodeView::new(observed, None, content));
                finding.set_unverified(*unverified);
            }
            Delta::Unverifiable { reason, covers, expected } => {
                if let Some(expected) = expected {
                    finding.set_expected(expected, content);
                }
                finding.reason = Some(*reason);
                finding.covers = Some(*covers);
            }
        }
        finding
    }

    /// The JSON form of a difference with what is said of it.
    pub fn of<'a>(judged: &Judged<'_>, sealed_in: impl Into<SealedIn<'a>>) -> Self {
        let finding = Self::new(&judged.drift, sealed_in);
        match &judged.verdict {
            Some(verdict) => finding.judged(verdict),
            None => finding,
        }
    }

    /// With what a policy says of it.
    #[must_use]
    pub fn judged(mut self, verdict: &Verdict<'_>) -> Self {
        self.verdict = Some(verdict.ruling());
        self.severity = verdict.severity();
        self.rule = verdict.rule().map(|rule| rule.id.clone());
        self.explanation = Some(verdict.to_string());
        self
    }

    /// Whether somebody is to know: only what a policy tolerates is not an alert.
    pub fn is_alert(&self) -> bool {
        self.verdict != Some(Ruling::Tolerated)
    }

    /// How loudly it is said; `None` if it is tolerated.
    pub fn severity(&self) -> Option<Severity> {
        self.is_alert().then(|| self.severity.unwrap_or_default())
    }

    /// The bits it sets in the exit code of a scan: 1 added, 2 removed, 4 changed, 8 not verified; nothing if it is tolerated.
    pub const fn exit_bits(&self) -> u8 {
        let gap = if self.unverified.is_empty() { 0 } else { Change::Unverifiable as u8 };
        if matches!(self.verdict, Some(Ruling::Tolerated)) { 0 } else { self.change as u8 | gap }
    }

    /// The exact path; `None` if the fields contradict the format: one path has one spelling, and what is
    /// displayed is what is meant.
    pub fn tree_path(&self) -> Option<TreePath> {
        let bytes = match &self.path_b64 {
            Some(base64) => from_base64(base64)?,
            None => self.path.clone().into_bytes(),
        };
        let (path, path_b64) = path_fields(&bytes);
        if path != self.path || path_b64 != self.path_b64 {
            return None;
        }
        TreePath::new(bytes).ok()
    }

    fn set_expected(&mut self, expected: &Sealed, content: Algorithm) {
        self.expected = Some(NodeView::new(&expected.node, expected.origin.sha256, content));
        self.layer = expected.origin.layer;
        self.meta_layer = expected.origin.meta_layer;
    }

    fn set_unverified(&mut self, unverified: Option<Unverified>) {
        if let Some(Unverified { attributes, reason }) = unverified {
            self.unverified = attributes;
            self.reason = Some(reason);
        }
    }
}

/// A path as the two fields of a finding.
pub fn path_fields(bytes: &[u8]) -> (String, Option<String>) {
    match plain_text(bytes) {
        Some(text) => (text.to_owned(), None),
        None => (Escaped(bytes).to_string(), Some(to_base64(bytes))),
    }
}

// === impl PolicyView ===

impl From<&Policy> for PolicyView {
    fn from(policy: &Policy) -> Self {
        Self { name: policy.name().to_owned(), digest: policy.digest() }
    }
}

// === impl Unjudged ===

impl Unjudged {
    /// Whether everything was judged.
    pub const fn is_nothing(&self) -> bool {
        self.entries == 0
    }
}

// === impl NodeView ===

impl NodeView {
    /// The JSON form of a node.
    pub fn new(node: &Node, sha256: Option<Digest>, algorithm: Algorithm) -> Self {
        let mut view = Self {
            file_type: Cow::Borrowed(node.file_type().name()),
            mode: node.mode.map(|mode| format!("{mode:04o}")),
            uid: node.uid,
            gid: node.gid,
            mtime: node.mtime,
            sha256,
            xattrs: node.xattrs.as_ref().map(|xattrs| {
                xattrs
                    .iter()
                    .map(|(name, value)| XattrView { name: Escaped(name).to_string(), value: to_base64(value) })
                    .collect()
            }),
            ..Self::default()
        };
        match &node.kind {
            Kind::File { size, content } => {
                view.size = *size;
                match algorithm {
                    Algorithm::Blake3 => view.blake3 = *content,
                    Algorithm::Sha256 => view.sha256 = *content,
                }
            }
            Kind::Symlink { target } => {
                let (target, target_b64) = path_fields(target);
                view.target = Some(target);
                view.target_b64 = target_b64;
            }
            Kind::Char(device) | Kind::Block(device) => view.device = device.map(|d| [d.major, d.minor]),
            Kind::Directory | Kind::Fifo | Kind::Socket => {}
        }
        view
    }
}

impl Attributes {
    /// For serde, which hands over a reference.
    pub(crate) const fn is_empty_ref(&self) -> bool {
        self.is_empty()
    }
}

/// Domain separation of [`open_digest`].
pub const OPEN_CONTEXT: &str = "driftlock 2026 open findings v1";

/// The digest over the open findings of one target, so that agent and collector can tell whether they agree:
/// BLAKE3 `derive_key` over, for each finding in path order, length and path, the change's byte, and length and
/// compact JSON of `observed` (length 0 if absent). Lengths are varints.
pub fn open_digest<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Digest {
    let mut sorted: Vec<(TreePath, &Finding)> =
        findings.into_iter().filter_map(|finding| Some((finding.tree_path()?, finding))).collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let mut hasher = blake3::Hasher::new_derive_key(OPEN_CONTEXT);
    let mut bytes = Vec::new();
    for (path, finding) in sorted {
        bytes.clear();
        put_bytes(&mut bytes, path.as_bytes());
        bytes.push(finding.change as u8);
        let observed = finding.observed.as_ref().and_then(|view| serde_json::to_vec(view).ok()).unwrap_or_default();
        put_bytes(&mut bytes, &observed);
        hasher.update(&bytes);
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drift::Attribute;
    use crate::manifest::{Header, Part};
    use crate::pattern::Excludes;
    use crate::tree::Origin;

    #[test]
    fn the_json_of_a_finding() {
        let digest = Digest::blake3(b"");
        let file = |mode| Node {
            kind: Kind::File { size: Some(0), content: Some(digest) },
            mode: Some(mode),
            uid: Some(0),
            gid: Some(0),
            mtime: None,
            xattrs: None,
        };
        let drift = Drift {
            path: TreePath::new(b"usr/\xff".to_vec()).unwrap(),
            delta: Delta::Changed {
                attributes: [Attribute::Mode].into_iter().collect(),
                expected: Sealed {
                    node: file(0o755),
                    origin: Origin { layer: Some(1), meta_layer: Some(2), ..Origin::default() },
                    part: 0,
                },
                observed: file(0o4755),
                unverified: None,
            },
        };
        let history = ["", "COPY app / # buildkit", "RUN chmod +x /usr/\u{202e} # buildkit"].map(str::to_owned).into();
        let header = Header { history, ..Header::new(Profile::Portable, Algorithm::Blake3, Excludes::none()) };
        let finding = Finding::new(&drift, &header);
        let json = serde_json::to_string(&finding).unwrap();
        assert_eq!(
            json,
            format!(
                r#"{{"path":"usr/\\xff","path_b64":"dXNyL/8=","change":"changed","attributes":["mode"],"expected":{{"type":"file","size":0,"mode":"0755","uid":0,"gid":0,"blake3":"{digest}"}},"observed":{{"type":"file","size":0,"mode":"4755","uid":0,"gid":0,"blake3":"{digest}"}},"layer":1,"meta_layer":2,"step":"RUN chmod +x /usr/\\xe2\\x80\\xae"}}"#
            )
        );
        assert_eq!(serde_json::from_str::<Finding>(&json).unwrap(), finding);
        assert_eq!(finding.tree_path().unwrap(), drift.path);
    }

    #[test]
    fn a_finding_says_which_of_several_manifests_it_breaks_and_is_shown_with_its_header() {
        let mut header = Header::new(Profile::Portable, Algorithm::Blake3, Excludes::none());
        let whole = header.clone();
        header.history = vec!["RUN make".to_owned()];
        let part = |name: &str, header: &Header| Part { name: name.to_owned(), header: header.clone() };
        let parts = [part("/base", &whole), part("/app", &header)];
        let sealed = |part| Sealed {
            node: Node::implicit_directory(),
            origin: Origin { layer: Some(0), ..Origin::default() },
            part,
        };
        let added = Delta::Added { observed: Node::implicit_directory(), unverified: None, collapsed: None };
        let cut = |part| Delta::Unverifiable { reason: Reason::Mount, covers: 2, expected: Some(sealed(part)) };
        for (delta, manifest, step) in [
            (Delta::Removed { expected: sealed(0) }, Some("/base"), None),
            (Delta::Removed { expected: sealed(1) }, Some("/app"), Some("RUN make")),
            (cut(1), Some("/app"), Some("RUN make")),
            (added, None, None),
        ] {
            let drift = Drift { path: TreePath::root(), delta };
            let finding = Finding::new(&drift, SealedIn { whole: &whole, parts: &parts });
            assert_eq!((finding.manifest.as_deref(), finding.step.as_deref()), (manifest, step), "{drift:?}");
            assert_eq!(Finding::new(&drift, &header).manifest, None);
            let json = serde_json::to_string(&finding).unwrap();
            assert_eq!(serde_json::from_str::<Finding>(&json).unwrap(), finding);
        }
    }

    #[test]
    fn the_step_is_of_the_layer_that_gave_what_differs() {
        let file = |mode| Node { mode: Some(mode), ..Node::bare(Kind::File { size: Some(0), content: None }) };
        let sealed = |meta_layer| Sealed {
            node: file(0o755),
            origin: Origin { layer: Some(0), meta_layer, ..Origin::default() },
            part: 0,
        };
        let changed = |attributes: &[Attribute], meta_layer| Delta::Changed {
            attributes: attributes.iter().copied().collect(),
            expected: sealed(meta_layer),
            observed: file(0o700),
            unverified: None,
        };
        let gap = |expected| Delta::Unverifiable { reason: Reason::Denied, covers: 1, expected };
        let history = vec!["content".into(), "attributes".into()];
        let header = Header { history, ..Header::new(Profile::Portable, Algorithm::Blake3, Excludes::none()) };
        for (delta, step) in [
            (changed(&[Attribute::Mode, Attribute::Mtime], Some(1)), Some("attributes")),
            (changed(&[Attribute::Uid, Attribute::Gid, Attribute::Xattrs], Some(1)), Some("attributes")),
            (changed(&[Attribute::Mode], None), Some("content")),
            (changed(&[Attribute::Content, Attribute::Mode], Some(1)), Some("content")),
            (changed(&[Attribute::Target], Some(1)), Some("content")),
            (changed(&[Attribute::Device], Some(1)), Some("content")),
            (changed(&[Attribute::Type], Some(1)), Some("content")),
            // Of a layer that the history does not have.
            (changed(&[Attribute::Mode], Some(7)), None),
            (Delta::Removed { expected: sealed(Some(1)) }, Some("content")),
            (gap(Some(sealed(Some(1)))), Some("content")),
            (gap(None), None),
            (Delta::Added { observed: file(0o755), unverified: None, collapsed: None }, None),
        ] {
            let finding = Finding::new(&Drift { path: TreePath::root(), delta }, &header);
            assert_eq!(finding.step.as_deref(), step, "{finding:?}");
        }
    }

    #[test]
    fn what_was_left_out_is_named_and_keys_of_nothing_are_absent() {
        let mut excluded = ExcludedView { manifest: vec!["tmp/**".into()], ..ExcludedView::default() };
        let json = r#"{"manifest":["tmp/**"],"local":[]}"#;
        assert_eq!(serde_json::to_string(&excluded).unwrap(), json);
        assert_eq!(serde_json::from_str::<ExcludedView>(json).unwrap(), excluded);
        excluded.mounts = vec!["var/data".into()];
        excluded.virtual_mounts = vec!["proc".into(), "sys".into()];
        let json = r#"{"manifest":["tmp/**"],"local":[],"mounts":["var/data"],"virtual":["proc","sys"]}"#;
        assert_eq!(serde_json::to_string(&excluded).unwrap(), json);
        assert_eq!(serde_json::from_str::<ExcludedView>(json).unwrap(), excluded);
    }
}
