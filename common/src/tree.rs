//! Owns trees: paths with their nodes, in manifest order, names stored once. Must not own files, formats or
//! comparison; a tree never changes after it is built.
//!
//! A tree is held for as long as a root is watched, so it is packed: some 20 bytes and the name for each entry, and 40
//! more for a file's size and digest.

mod nodes;
mod overlay;

use crate::digest::Digest;
use crate::node::{FileType, Node, Presence};
use crate::path::{PathError, TreePath, compare_paths};
use nodes::{Known, Nodes};

pub use overlay::{MAX_PARTS, Overlay, Places};

/// The most entries a tree may have.
pub const MAX_ENTRIES: usize = 100_000_000;

/// Paths with nodes. The entries are in preorder, which is the order of a manifest: every directory
/// stands before its children, siblings are sorted by the bytes of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    entries: Vec<Entry>,
    nodes: Nodes,
    /// The bytes of all names, one after another.
    names: Vec<u8>,
    /// By entry, as far as the last one that has any.
    origins: Vec<Origin>,
}

/// An entry's place in its tree. Only valid for the tree that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(u32);

/// Where an entry came from, for people: in a manifest's bytes, but not in its tree digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Origin {
    /// SHA-256 of the content, when the verified digest is BLAKE3.
    pub sha256: Option<Digest>,
    /// Index of the layer that gave the content.
    pub layer: Option<u16>,
    /// Index of the layer that gave the attributes, if another.
    pub meta_layer: Option<u16>,
}

impl Origin {
    /// Index of the layer that gave the attributes.
    pub fn attributes_layer(&self) -> Option<u16> {
        self.meta_layer.or(self.layer)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    name_start: u32,
    parent: u32,
    /// Index after the last descendant.
    end: u32,
    name_len: u16,
}

/// Builds a [`Tree`] from entries in manifest order.
#[derive(Debug)]
pub struct TreeBuilder {
    tree: Tree,
    known: Known,
    /// Directories whose children may still come: their ids and the lengths of their paths.
    open: Vec<(EntryId, usize)>,
    last: Vec<u8>,
    root_seen: bool,
}

/// Why entries do not make a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// A path out of order.
    #[error("{} is not in order: it must come before {}", .path.named(), .after.named())]
    Unsorted {
        /// The path that came too late.
        path: TreePath,
        /// The path before it.
        after: TreePath,
    },
    /// A path given twice.
    #[error("{} stands twice", .0.named())]
    Duplicate(TreePath),
    /// No entry for the containing directory, or it is not a directory.
    #[error("{} has no directory entry above it", .0.named())]
    NoParent(TreePath),
    /// The root given as something else than a directory.
    #[error("the root is not a directory")]
    RootNotDirectory,
    /// More than [`MAX_ENTRIES`], or more than 4 GiB of names or of targets.
    #[error("more than 100 million entries, or 4 GiB of names")]
    TooMany,
}

// === impl TreeBuilder ===

impl Default for TreeBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl TreeBuilder {
    /// Begins with a root of which nothing is specified.
    pub fn new() -> Self {
        let root = Entry { name_start: 0, name_len: 0, parent: 0, end: 1 };
        let (mut nodes, mut known) = (Nodes::default(), Known::default());
        let first = nodes.push(Node::implicit_directory(), &mut known);
        debug_assert!(first.is_some(), "there is room for the first");
        let tree = Tree { entries: vec![root], nodes, names: Vec::new(), origins: Vec::new() };
        Self { tree, known, open: vec![(EntryId::ROOT, 0)], last: Vec::new(), root_seen: false }
    }

    /// Adds the next entry. The root may be given, first and once.
    ///
    /// # Errors
    /// If the entry is out of order, a duplicate, or not below a directory given before.
    pub fn push(&mut self, path: &TreePath, node: Node, origin: Origin) -> Result<(), TreeError> {
        if path.is_root() {
            if self.root_seen {
                return Err(TreeError::Duplicate(path.clone()));
            }
            if self.tree.entries.len() > 1 {
                return Err(self.unsorted(path));
            }
            if node.file_type() != FileType::Directory {
                return Err(TreeError::RootNotDirectory);
            }
            self.root_seen = true;
            self.tree.nodes.replace(0, node, &mut self.known).ok_or(TreeError::TooMany)?;
            self.set_origin(0, origin);
            return Ok(());
        }
        let bytes = path.as_bytes();
        match compare_paths(&self.last, bytes) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => return Err(TreeError::Duplicate(path.clone())),
            std::cmp::Ordering::Greater => return Err(self.unsorted(path)),
        }
        let name = path.name();
        let parent_len = (bytes.len() - name.len()).saturating_sub(1);
        while self.open.last().is_some_and(|(_, len)| *len > parent_len) {
            self.close();
        }
        // Open directories form a chain, so the one whose path has the parent's length is the parent exactly
        // when its bytes are the path's beginning.
        let parent = match self.open.last() {
            Some((id, len)) if *len == parent_len && self.last.get(..parent_len) == bytes.get(..parent_len) => *id,
            _ => return Err(TreeError::NoParent(path.clone())),
        };
        let index = u32::try_from(self.tree.entries.len())
            .ok()
            .filter(|n| (*n as usize) <= MAX_ENTRIES)
            .ok_or(TreeError::TooMany)?;
        let entry = Entry {
            name_start: u32::try_from(self.tree.names.len()).map_err(|_| TreeError::TooMany)?,
            name_len: u16::try_from(name.len()).map_err(|_| TreeError::TooMany)?,
            parent: parent.0,
            end: index + 1,
        };
        if node.file_type() == FileType::Directory {
            self.open.push((EntryId(index), bytes.len()));
        }
        self.tree.nodes.push(node, &mut self.known).ok_or(TreeError::TooMany)?;
        self.tree.entries.push(entry);
        self.set_origin(index as usize, origin);
        self.tree.names.extend_from_slice(name);
        self.last.clear();
        self.last.extend_from_slice(bytes);
        Ok(())
    }

    /// The tree.
    pub fn finish(mut self) -> Tree {
        while !self.open.is_empty() {
            self.close();
        }
        self.tree
    }

    fn set_origin(&mut self, index: usize, origin: Origin) {
        if origin != Origin::default() {
            self.tree.origins.resize(index, Origin::default());
            self.tree.origins.push(origin);
        }
    }

    fn unsorted(&self, path: &TreePath) -> TreeError {
        let after = TreePath::new(self.last.clone()).unwrap_or_default();
        TreeError::Unsorted { path: path.clone(), after }
    }

    fn close(&mut self) {
        if let Some((id, _)) = self.open.pop() {
            self.tree.entries[id.index()].end = u32::try_from(self.tree.entries.len()).unwrap_or(u32::MAX);
        }
    }
}

// === impl EntryId ===

impl EntryId {
    /// The root's entry, which every tree has.
    pub const ROOT: Self = Self(0);

    /// Position in manifest order, the root being 0: an index for tables beside the tree.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

// === impl Tree ===

impl Tree {
    /// Builds from entries in manifest order.
    ///
    /// # Errors
    /// As [`TreeBuilder::push`].
    pub fn from_sorted(entries: impl IntoIterator<Item = (TreePath, Node, Origin)>) -> Result<Self, TreeError> {
        let mut builder = TreeBuilder::new();
        for (path, node, origin) in entries {
            builder.push(&path, node, origin)?;
        }
        Ok(builder.finish())
    }

    /// Number of entries, the root not counted.
    pub fn len(&self) -> usize {
        self.entries.len() - 1
    }

    /// Whether there is nothing below the root.
    pub fn is_empty(&self) -> bool {
        self.entries.len() == 1
    }

    /// The name of an entry; empty for the root.
    pub fn name(&self, id: EntryId) -> &[u8] {
        let entry = &self.entries[id.index()];
        &self.names[entry.name_start as usize..][..usize::from(entry.name_len)]
    }

    /// What the entry is.
    pub fn node(&self, id: EntryId) -> Node {
        self.nodes.get(id.index())
    }

    /// The type of the entry.
    pub fn file_type(&self, id: EntryId) -> FileType {
        self.nodes.file_type(id.index())
    }

    /// Which attributes are specified of the entry.
    pub fn presence(&self, id: EntryId) -> Presence {
        self.nodes.presence(id.index())
    }

    /// The size of a regular file, if it is specified.
    pub fn size(&self, id: EntryId) -> Option<u64> {
        self.nodes.size(id.index())
    }

    /// Where it came from.
    pub fn origin(&self, id: EntryId) -> Origin {
        self.origins.get(id.index()).copied().unwrap_or_default()
    }

    /// The directory that holds the entry; `None` for the root.
    pub fn parent(&self, id: EntryId) -> Option<EntryId> {
        (id != EntryId::ROOT).then(|| EntryId(self.entries[id.index()].parent))
    }

    /// The path of an entry.
    pub fn path(&self, id: EntryId) -> TreePath {
        let mut chain = Vec::new();
        let mut at = id;
        while let Some(parent) = self.parent(at) {
            chain.push(at);
            at = parent;
        }
        let names: Vec<&[u8]> = chain.iter().rev().map(|id| self.name(*id)).collect();
        // The builder took each path from a TreePath, so the joined names are one.
        TreePath::new(names.join(&b'/')).unwrap_or_default()
    }

    /// The entries directly below `id`, sorted by name.
    pub fn children(&self, id: EntryId) -> impl Iterator<Item = EntryId> + '_ {
        let end = self.entries[id.index()].end;
        let mut next = id.0 + 1;
        std::iter::from_fn(move || {
            if next >= end {
                return None;
            }
            let child = EntryId(next);
            next = self.entries[child.index()].end;
            Some(child)
        })
    }

    /// The entry and everything below it, in manifest order.
    pub fn subtree(&self, id: EntryId) -> impl ExactSizeIterator<Item = EntryId> + use<> {
        (id.0 as usize..self.entries[id.index()].end as usize)
            .map(|index| EntryId(u32::try_from(index).unwrap_or(u32::MAX)))
    }

    /// The entry at a position in manifest order.
    pub fn at(&self, index: usize) -> Option<EntryId> {
        u32::try_from(index).ok().map(EntryId).filter(|_| index < self.entries.len())
    }

    /// All entries in manifest order, the root first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = EntryId> + use<> {
        self.subtree(EntryId::ROOT)
    }

    /// The child of that name. Takes a time that grows with the logarithm of what is below the entry.
    pub fn child(&self, id: EntryId, name: &[u8]) -> Option<EntryId> {
        self.child_from(id, id.0 + 1, name).ok()
    }

    /// As [`Tree::child`], for names in ascending order: begins behind `after`, the answer for a name before.
    pub fn child_after(&self, id: EntryId, after: Option<EntryId>, name: &[u8]) -> Option<EntryId> {
        self.child_from(id, after.map_or(id.0 + 1, |after| self.entries[after.index()].end), name).ok()
    }

    /// The child of that name, if it stands at `low` or behind; else where it would stand.
    fn child_from(&self, id: EntryId, mut low: u32, name: &[u8]) -> Result<EntryId, u32> {
        let mut high = self.entries[id.index()].end;
        // Steps that double find the neighbourhood first: names in order are near the one before.
        let mut step = 1;
        while low < high {
            let probe = low.saturating_add(step).min(high) - 1;
            let child = self.ancestor_in(id, probe);
            match self.name(child).cmp(name) {
                std::cmp::Ordering::Less => low = self.entries[child.index()].end,
                std::cmp::Ordering::Equal => return Ok(child),
                std::cmp::Ordering::Greater => {
                    high = child.0;
                    break;
                }
            }
            step = step.saturating_mul(2);
        }
        while low < high {
            let child = self.ancestor_in(id, low + (high - low) / 2);
            match self.name(child).cmp(name) {
                std::cmp::Ordering::Less => low = self.entries[child.index()].end,
                std::cmp::Ordering::Equal => return Ok(child),
                std::cmp::Ordering::Greater => high = child.0,
            }
        }
        Err(low)
    }

    /// The child of `id` that is the entry at `index`, or is above it.
    fn ancestor_in(&self, id: EntryId, index: u32) -> EntryId {
        let mut at = EntryId(index);
        while self.entries[at.index()].parent != id.0 {
            at = EntryId(self.entries[at.index()].parent);
        }
        at
    }

    /// The entry at `path`.
    pub fn find(&self, path: &TreePath) -> Option<EntryId> {
        path.components().try_fold(EntryId::ROOT, |id, name| self.child(id, name))
    }
}

/// Normalises a path as archives write them: a leading `./` or `/` and doubled slashes go, a trailing slash too.
///
/// # Errors
/// If what remains is not a path in a tree: `..` is refused, not resolved.
pub fn archive_path(raw: &[u8]) -> Result<TreePath, PathError> {
    let kept: Vec<&[u8]> = raw.split(|b| *b == b'/').filter(|c| !c.is_empty() && *c != b".").collect();
    TreePath::new(kept.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Kind;

    fn tree(paths: &[&str]) -> Result<Tree, TreeError> {
        Tree::from_sorted(paths.iter().map(|p| {
            let kind = if p.ends_with('/') { Kind::Directory } else { Kind::File { size: Some(1), content: None } };
            (TreePath::new(p.trim_end_matches('/')).unwrap(), Node::bare(kind), Origin::default())
        }))
    }

    #[test]
    fn children_subtrees_and_paths() {
        let tree = tree(&["a/", "a/b/", "a/b/c", "a/d", "a-b", "e/"]).unwrap();
        let names = |id| tree.children(id).map(|c| tree.path(c).escaped().to_string()).collect::<Vec<_>>();
        assert_eq!(names(EntryId::ROOT), ["a", "a-b", "e"]);
        let a = tree.find(&TreePath::new("a").unwrap()).unwrap();
        assert_eq!(names(a), ["a/b", "a/d"]);
        assert_eq!(tree.subtree(a).len(), 4);
        assert_eq!(tree.iter().len(), 7);
        assert_eq!(tree.len(), 6);
        for id in tree.iter() {
            assert_eq!(tree.find(&tree.path(id)), Some(id));
        }
        assert_eq!(tree.find(&TreePath::new("a/x").unwrap()), None);
        assert_eq!(tree.find(&TreePath::new("a-b/x").unwrap()), None);
    }

    #[test]
    fn a_child_is_found_by_name_wherever_the_search_begins() {
        // Children with much and with nothing below them, so that a probe falls into every kind of place.
        let mut paths = Vec::new();
        for child in 0..40 {
            paths.push(format!("{child:02}/"));
            paths.extend((0..child % 7 * 5).map(|below| format!("{child:02}/{below:02}")));
        }
        let tree = tree(&paths.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        let at = |name: &str| tree.find(&TreePath::new(name).unwrap());
        for directory in tree.iter().filter(|id| tree.file_type(*id) == FileType::Directory) {
            let children: Vec<EntryId> = tree.children(directory).collect();
            let naive = |name: &[u8]| children.iter().copied().find(|child| tree.name(*child) == name);
            for name in (0..42).flat_map(|n| [format!("{n:02}"), format!("{n:02}x")]) {
                let name = name.as_bytes();
                assert_eq!(tree.child(directory, name), naive(name));
                for after in children.iter().copied() {
                    let expected = naive(name).filter(|child| *child > after);
                    assert_eq!(tree.child_after(directory, Some(after), name), expected);
                }
            }
        }
        assert!(at("39/19").is_some() && at("39/20").is_none());
    }

    #[test]
    fn what_is_not_a_tree_is_refused() {
        let path = |p: &str| TreePath::new(p).unwrap();
        for (paths, error) in [
            (&["b", "a"][..], TreeError::Unsorted { path: path("a"), after: path("b") }),
            (&["a", "a"], TreeError::Duplicate(path("a"))),
            (&["a/b"], TreeError::NoParent(path("a/b"))),
            (&["a", "a/b"], TreeError::NoParent(path("a/b"))),
            (&["a/", "b/c"], TreeError::NoParent(path("b/c"))),
            (&["a/", "a/b/", "a/c/d"], TreeError::NoParent(path("a/c/d"))),
            (&["a/", "a/b", "a/b/c"], TreeError::NoParent(path("a/b/c"))),
            (&["a-b/", "a/"], TreeError::Unsorted { path: path("a"), after: path("a-b") }),
        ] {
            assert_eq!(tree(paths).unwrap_err(), error, "{paths:?}");
        }
    }

    #[test]
    fn archive_paths() {
        for (raw, path) in [("./a/b", "a/b"), ("/a//b/", "a/b"), ("./", ""), ("a/./b", "a/b")] {
            assert_eq!(archive_path(raw.as_bytes()).unwrap(), TreePath::new(path).unwrap());
        }
        assert_eq!(archive_path(b"a/../b"), Err(PathError::DotComponent));
    }
}
