//! Owns laying sealed trees over each other: what a root must be that several manifests describe together. Must not own
//! the manifests, or what they leave out.
//!
//! A path is as the last tree has it that has it at all. Of a directory over a directory the children are merged, and an
//! attribute that the upper leaves unspecified is the lower's; anything else takes the place of what is below it, with all
//! that is in that.

use super::{EntryId, Tree, TreeBuilder, TreeError};
use crate::node::{FileType, Node, Presence, Xattrs};
use crate::profile::Profile;

/// The most trees that are laid over each other: a base, an application and a rendered configuration are three.
pub const MAX_PARTS: usize = 16;

/// Trees laid over each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// What they are together.
    pub tree: Tree,
    /// Which of them each entry is from.
    pub places: Places,
}

/// Which part each entry of an [`Overlay`] is from. Four bytes for each: it is held as long as a root is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places(Box<[u32]>);

/// Bits of a place that are the entry's; the rest is the part's.
const ENTRY_BITS: u32 = 28;
const _: () = assert!(super::MAX_ENTRIES < 1 << ENTRY_BITS && MAX_PARTS <= 1 << (u32::BITS - ENTRY_BITS));

/// A path in a part.
type Place = (usize, EntryId);

/// The children of a directory of a part that were not laid yet.
struct Children {
    part: usize,
    next: EntryId,
    end: EntryId,
}

struct Laying<'a> {
    parts: &'a [&'a Tree],
    profile: Profile,
    builder: TreeBuilder,
    places: Vec<u32>,
}

impl Overlay {
    /// Lays `parts` over each other, the last on top, each as far as `profile` specifies it.
    ///
    /// # Errors
    /// [`TreeError::TooMany`] if the result is more than a tree can hold, or there are more than [`MAX_PARTS`].
    pub fn of(parts: &[&Tree], profile: Profile) -> Result<Self, TreeError> {
        let mut laying = Laying { parts, profile, builder: TreeBuilder::new(), places: Vec::new() };
        let roots: Vec<Place> = (0..parts.len()).map(|part| (part, EntryId::ROOT)).collect();
        let mut levels = vec![laying.put(&roots)?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.iter().filter_map(|children| children.name(parts)).min() else {
                levels.pop();
                continue;
            };
            let same: Vec<Place> = level.iter_mut().filter_map(|children| children.take(parts, name)).collect();
            let below = laying.put(&same)?;
            if !below.is_empty() {
                levels.push(below);
            }
        }
        Ok(Self { tree: laying.builder.finish(), places: Places(laying.places.into()) })
    }
}

impl Laying<'_> {
    /// Puts what parts have at one path, the lowest first; what may be below it.
    fn put(&mut self, all: &[Place]) -> Result<Vec<Children>, TreeError> {
        let Some((top, _)) = all.split_last() else { return Ok(Vec::new()) };
        let is_directory = |place: &Place| self.parts[place.0].file_type(place.1) == FileType::Directory;
        // Nothing shows through what is no directory.
        let hidden = all.iter().rposition(|place| !is_directory(place));
        let seen = match hidden {
            Some(last) if last + 1 == all.len() => &all[last..],
            Some(last) => &all[last + 1..],
            None => all,
        };
        let nodes: Vec<Node> =
            seen.iter().map(|(part, id)| narrowed(self.parts[*part].node(*id), self.profile)).collect();
        let stated = nodes.iter().rposition(|node| node.presence() != Presence::NONE);
        let (part, id) = stated.map_or(*top, |index| seen[index]);
        let node = nodes.into_iter().rev().reduce(over).unwrap_or_else(Node::implicit_directory);
        let is_open = node.file_type() == FileType::Directory;
        let tree = self.parts[part];
        let origin = tree.origin(id);
        self.builder.push(&tree.path(id), node, origin)?;
        self.places.push(packed(part, id).ok_or(TreeError::TooMany)?);
        let children = seen.iter().map(|(part, id)| Children::of(self.parts, *part, *id));
        Ok(if is_open { children.collect() } else { Vec::new() })
    }
}

impl Children {
    fn of(parts: &[&Tree], part: usize, id: EntryId) -> Self {
        Self { part, next: EntryId(id.0 + 1), end: EntryId(parts[part].entries[id.index()].end) }
    }

    /// The name of the next one.
    fn name<'a>(&self, parts: &[&'a Tree]) -> Option<&'a [u8]> {
        (self.next < self.end).then(|| parts[self.part].name(self.next))
    }

    /// The next one, if that is its name.
    fn take(&mut self, parts: &[&Tree], name: &[u8]) -> Option<Place> {
        (self.name(parts)? == name).then(|| {
            let id = self.next;
            self.next = EntryId(parts[self.part].entries[id.index()].end);
            (self.part, id)
        })
    }
}

/// A directory over another.
fn over(upper: Node, lower: Node) -> Node {
    Node {
        kind: upper.kind,
        mode: upper.mode.or(lower.mode),
        uid: upper.uid.or(lower.uid),
        gid: upper.gid.or(lower.gid),
        mtime: upper.mtime.or(lower.mtime),
        xattrs: upper.xattrs.or(lower.xattrs),
    }
}

/// What a manifest of `profile` would say of a node.
fn narrowed(node: Node, profile: Profile) -> Node {
    let allowed = profile.allows(node.file_type());
    let mut node = node.masked(allowed);
    if let Some(xattrs) = &node.xattrs
        && xattrs.iter().any(|(name, _)| !profile.holds_xattr(name))
    {
        let held = xattrs.iter().filter(|(name, _)| profile.holds_xattr(name));
        node.xattrs = Xattrs::new(held.map(|(name, value)| (name.into(), value.into())).collect());
    }
    node
}

fn packed(part: usize, id: EntryId) -> Option<u32> {
    let part = u32::try_from(part).ok().filter(|part| *part < 1 << (u32::BITS - ENTRY_BITS))?;
    (id.0 < 1 << ENTRY_BITS).then_some(part << ENTRY_BITS | id.0)
}

impl Places {
    /// The number of the part that an entry is from, and which it is there. Of a directory that several parts have it is
    /// the last one that states an attribute of it, or the last one if none does.
    pub fn get(&self, id: EntryId) -> (usize, EntryId) {
        let packed = self.0[id.index()];
        ((packed >> ENTRY_BITS) as usize, EntryId(packed & ((1 << ENTRY_BITS) - 1)))
    }
}
