//! Owns the difference between what was sealed and what was observed, for one path and for whole trees.
//! Must not own policy, severity or time.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::gap::Reason;
use crate::node::{FileType, Kind, Node};
use crate::path::TreePath;
use crate::tree::{EntryId, Origin, Tree, TreeBuilder};

/// What of a node differs. Another size is `Content`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Attribute {
    /// The file type; then nothing else is listed.
    Type,
    /// Size or content digest of a file.
    Content,
    /// Target of a symlink.
    Target,
    /// Permission bits.
    Mode,
    /// Owner.
    Uid,
    /// Group.
    Gid,
    /// Extended attributes.
    Xattrs,
    /// Device numbers.
    Device,
    /// Modification time (profile `full`).
    Mtime,
}

/// A set of attributes; in text and JSON a list in the order of [`Attribute`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Attributes(u16);

/// The word for a difference, as findings and exit codes use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Change {
    /// On disk, not in the manifest.
    Added = 1,
    /// In the manifest, not on disk.
    Removed = 2,
    /// Different.
    Changed = 4,
    /// Could not be established.
    Unverifiable = 8,
}

/// One difference at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// Where.
    pub path: TreePath,
    /// What.
    pub delta: Delta,
}

/// What differs. A wrong combination of sides cannot be expressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// On disk, not in the manifest.
    Added {
        /// What is there.
        observed: Node,
        /// Set if the content could not be established.
        unverified: Option<Unverified>,
        /// If over the collapse limit: how many added paths below `path` (a directory) this one stands for.
        collapsed: Option<u64>,
    },
    /// In the manifest, not on disk.
    Removed {
        /// What was sealed.
        expected: Sealed,
    },
    /// On both sides, different.
    Changed {
        /// What differs; not empty.
        attributes: Attributes,
        /// What was sealed.
        expected: Sealed,
        /// What is there.
        observed: Node,
        /// What of it could not be established.
        unverified: Option<Unverified>,
    },
    /// Not established, and nothing that could be seen differs.
    Unverifiable {
        /// Why.
        reason: Reason,
        /// How many sealed entries this stands for, the path itself included if it is sealed.
        covers: u64,
        /// What was sealed at the path, if anything.
        expected: Option<Sealed>,
    },
}

/// The sealed side of a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// What was sealed.
    pub node: Node,
    /// Where it came from.
    pub origin: Origin,
    /// Which of several manifests sealed it; 0 of one.
    pub part: usize,
}

/// Attributes that could not be established, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unverified {
    /// Which; not empty.
    pub attributes: Attributes,
    /// Why.
    pub reason: Reason,
}

// === impl Attributes ===

impl Attributes {
    /// None.
    pub const NONE: Self = Self(0);
    /// What a layer can give to a path whose content another gave.
    const GIVEN_APART: Self = Self(
        1 << Attribute::Mode as u8
            | 1 << Attribute::Uid as u8
            | 1 << Attribute::Gid as u8
            | 1 << Attribute::Xattrs as u8
            | 1 << Attribute::Mtime as u8,
    );

    /// The set of one.
    pub const fn of(attribute: Attribute) -> Self {
        Self(1 << attribute as u8)
    }

    /// Adds one.
    pub fn insert(&mut self, attribute: Attribute) {
        self.0 |= 1 << attribute as u8;
    }

    /// Takes the ones of `other` away.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// What both have.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether `attribute` is in it.
    pub const fn contains(self, attribute: Attribute) -> bool {
        self.0 & (1 << attribute as u8) != 0
    }

    /// Whether it is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// In the order of [`Attribute`].
    pub fn iter(self) -> impl Iterator<Item = Attribute> {
        Attribute::ALL.into_iter().filter(move |a| self.contains(*a))
    }
}

impl FromIterator<Attribute> for Attributes {
    fn from_iter<I: IntoIterator<Item = Attribute>>(attributes: I) -> Self {
        let mut set = Self::NONE;
        attributes.into_iter().for_each(|a| set.insert(a));
        set
    }
}

impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Serialize for Attributes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Attributes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of attribute names")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Attributes, A::Error> {
                let mut set = Attributes::NONE;
                while let Some(attribute) = seq.next_element()? {
                    set.insert(attribute);
                }
                Ok(set)
            }
        }
        deserializer.deserialize_seq(List)
    }
}

// === impl Attribute ===

impl Attribute {
    /// All, in order.
    pub const ALL: [Self; 9] = [
        Self::Type,
        Self::Content,
        Self::Target,
        Self::Mode,
        Self::Uid,
        Self::Gid,
        Self::Xattrs,
        Self::Device,
        Self::Mtime,
    ];

    /// The attribute of a word.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|attribute| attribute.name() == name)
    }

    /// The word of reports and of `--only`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Content => "content",
            Self::Target => "target",
            Self::Mode => "mode",
            Self::Uid => "uid",
            Self::Gid => "gid",
            Self::Xattrs => "xattrs",
            Self::Device => "device",
            Self::Mtime => "mtime",
        }
    }
}

// === impl Change ===

impl Change {
    /// All, in order.
    pub const ALL: [Self; 4] = [Self::Added, Self::Removed, Self::Changed, Self::Unverifiable];

    /// The change of a word.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|change| change.name() == name)
    }

    /// The word of reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
            Self::Unverifiable => "unverifiable",
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl Drift ===

impl Drift {
    /// The word for the difference.
    pub const fn change(&self) -> Change {
        match self.delta {
            Delta::Added { .. } => Change::Added,
            Delta::Removed { .. } => Change::Removed,
            Delta::Changed { .. } => Change::Changed,
            Delta::Unverifiable { .. } => Change::Unverifiable,
        }
    }

    /// Whether something could not be established.
    pub const fn has_gap(&self) -> bool {
        match &self.delta {
            Delta::Added { unverified, .. } | Delta::Changed { unverified, .. } => unverified.is_some(),
            Delta::Removed { .. } => false,
            Delta::Unverifiable { .. } => true,
        }
    }

    /// The bits this difference sets in the exit code of a scan: 1 added, 2 removed, 4 changed, 8 not verified.
    pub const fn exit_bits(&self) -> u8 {
        self.change() as u8 | if self.has_gap() { Change::Unverifiable as u8 } else { 0 }
    }

    /// What was sealed, if anything was.
    pub const fn expected(&self) -> Option<&Sealed> {
        match &self.delta {
            Delta::Removed { expected } | Delta::Changed { expected, .. } => Some(expected),
            Delta::Unverifiable { expected, .. } => expected.as_ref(),
            Delta::Added { .. } => None,
        }
    }

    /// Index of the layer that gave what differs of the sealed side; see [`Drift::layer_of`].
    pub fn layer(&self) -> Option<u16> {
        self.layer_of(&self.expected()?.origin)
    }

    /// Index of the layer that gave what differs, of a side that came from `origin`: that of the attributes if only
    /// those do.
    pub fn layer_of(&self, origin: &Origin) -> Option<u16> {
        match &self.delta {
            Delta::Changed { attributes, .. } if attributes.without(Attributes::GIVEN_APART).is_empty() => {
                origin.attributes_layer()
            }
            Delta::Added { .. } | Delta::Removed { .. } | Delta::Changed { .. } | Delta::Unverifiable { .. } => {
                origin.layer
            }
        }
    }

    /// What is on disk, as far as it was established.
    pub const fn observed(&self) -> Option<&Node> {
        match &self.delta {
            Delta::Added { observed, .. } | Delta::Changed { observed, .. } => Some(observed),
            Delta::Removed { .. } | Delta::Unverifiable { .. } => None,
        }
    }
}

/// What differs between two nodes, where both specify it. Another type hides everything else.
pub fn differences(expected: &Node, observed: &Node) -> Attributes {
    fn differ<T: PartialEq>(a: Option<&T>, b: Option<&T>) -> bool {
        matches!((a, b), (Some(a), Some(b)) if a != b)
    }
    let mut set = Attributes::NONE;
    match (&expected.kind, &observed.kind) {
        (Kind::File { size, content }, Kind::File { size: other_size, content: other_content }) => {
            if differ(size.as_ref(), other_size.as_ref()) || differ(content.as_ref(), other_content.as_ref()) {
                set.insert(Attribute::Content);
            }
        }
        (Kind::Symlink { target }, Kind::Symlink { target: other }) => {
            if target != other {
                set.insert(Attribute::Target);
            }
        }
        (Kind::Char(device), Kind::Char(other)) | (Kind::Block(device), Kind::Block(other)) => {
            if differ(device.as_ref(), other.as_ref()) {
                set.insert(Attribute::Device);
            }
        }
        (Kind::Directory, Kind::Directory) | (Kind::Fifo, Kind::Fifo) | (Kind::Socket, Kind::Socket) => {}
        (
            Kind::File { .. }
            | Kind::Directory
            | Kind::Symlink { .. }
            | Kind::Char(_)
            | Kind::Block(_)
            | Kind::Fifo
            | Kind::Socket,
            _,
        ) => return Attributes::of(Attribute::Type),
    }
    for (attribute, differs) in [
        (Attribute::Mode, differ(expected.mode.as_ref(), observed.mode.as_ref())),
        (Attribute::Uid, differ(expected.uid.as_ref(), observed.uid.as_ref())),
        (Attribute::Gid, differ(expected.gid.as_ref(), observed.gid.as_ref())),
        (Attribute::Xattrs, differ(expected.xattrs.as_ref(), observed.xattrs.as_ref())),
        (Attribute::Mtime, differ(expected.mtime.as_ref(), observed.mtime.as_ref())),
    ] {
        if differs {
            set.insert(attribute);
        }
    }
    set
}

/// The sealed side of an entry.
pub fn sealed(tree: &Tree, id: EntryId) -> Sealed {
    Sealed { node: tree.node(id), origin: tree.origin(id), part: 0 }
}

/// Every difference between two whole trees, in path order: one merge over both, a directory at a time.
pub fn diff(expected: &Tree, observed: &Tree) -> Vec<Drift> {
    let mut found = Vec::new();
    let mut pairs = vec![(EntryId::ROOT, EntryId::ROOT)];
    while let Some((e, o)) = pairs.pop() {
        compare_pair(expected, e, observed, o, &mut found);
        if (expected.file_type(e), observed.file_type(o)) == (FileType::Directory, FileType::Directory) {
            merge_children(expected, e, observed, o, &mut pairs, &mut found);
        } else {
            expected.subtree(e).skip(1).for_each(|id| found.push(removed(expected, id)));
            observed.subtree(o).skip(1).for_each(|id| found.push(added(observed, id)));
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn compare_pair(expected: &Tree, e: EntryId, observed: &Tree, o: EntryId, found: &mut Vec<Drift>) {
    let (sealed_node, observed_node) = (expected.node(e), observed.node(o));
    let attributes = differences(&sealed_node, &observed_node);
    if !attributes.is_empty() {
        let delta = Delta::Changed {
            attributes,
            expected: Sealed { node: sealed_node, origin: expected.origin(e), part: 0 },
            observed: observed_node,
            unverified: None,
        };
        found.push(Drift { path: expected.path(e), delta });
    }
}

fn merge_children(
    expected: &Tree,
    e: EntryId,
    observed: &Tree,
    o: EntryId,
    pairs: &mut Vec<(EntryId, EntryId)>,
    found: &mut Vec<Drift>,
) {
    let mut left = expected.children(e).peekable();
    let mut right = observed.children(o).peekable();
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(a), Some(b)) => expected.name(*a).cmp(observed.name(*b)),
        };
        match order {
            std::cmp::Ordering::Less => {
                let ids = left.next().into_iter().flat_map(|id| expected.subtree(id));
                ids.for_each(|id| found.push(removed(expected, id)));
            }
            std::cmp::Ordering::Greater => {
                let ids = right.next().into_iter().flat_map(|id| observed.subtree(id));
                ids.for_each(|id| found.push(added(observed, id)));
            }
            std::cmp::Ordering::Equal => pairs.extend(left.next().zip(right.next())),
        }
    }
}

/// A sealed entry that is not there.
pub fn removed(tree: &Tree, id: EntryId) -> Drift {
    Drift { path: tree.path(id), delta: Delta::Removed { expected: sealed(tree, id) } }
}

fn added(tree: &Tree, id: EntryId) -> Drift {
    let delta = Delta::Added { observed: tree.node(id), unverified: None, collapsed: None };
    Drift { path: tree.path(id), delta }
}

/// The tree that was observed: the sealed one with every difference applied. Observed nodes are masked to what
/// the sealed entry specifies; added ones keep everything. `None` if a difference leaves anything open, or if the
/// differences do not fit each other.
pub fn apply<'a>(expected: &Tree, drifts: impl IntoIterator<Item = &'a Drift>) -> Option<Tree> {
    let mut drifts: Vec<&Drift> = drifts.into_iter().collect();
    drifts.sort_by(|a, b| a.path.cmp(&b.path));
    let mut drifts = drifts.into_iter().peekable();
    let mut builder = TreeBuilder::new();
    let mut add = |path: &TreePath, node: Node, origin: Origin| builder.push(path, node, origin).ok();
    for id in expected.iter() {
        let path = expected.path(id);
        while let Some(Drift { path, delta }) = drifts.next_if(|drift| drift.path < path) {
            let Delta::Added { observed, unverified: None, collapsed: None } = delta else { return None };
            add(path, observed.clone(), Origin::default())?;
        }
        match drifts.next_if(|drift| drift.path == path).map(|drift| &drift.delta) {
            None => add(&path, expected.node(id), expected.origin(id))?,
            Some(Delta::Removed { .. }) => {}
            Some(Delta::Changed { expected, observed, attributes, unverified: None }) => {
                let other_type = attributes.contains(Attribute::Type);
                let keep = if other_type { observed.presence() } else { expected.node.presence() };
                add(&path, observed.clone().masked(keep), Origin::default())?;
            }
            Some(Delta::Added { .. } | Delta::Changed { .. } | Delta::Unverifiable { .. }) => return None,
        }
    }
    for Drift { path, delta } in drifts {
        let Delta::Added { observed, unverified: None, collapsed: None } = delta else { return None };
        add(path, observed.clone(), Origin::default())?;
    }
    Some(builder.finish())
}
