//! Owns trees: paths with their nodes, in manifest order, names stored once. Must not own files, formats or
//! comparison; a tree never changes after it is built.

use crate::digest::Digest;
use crate::node::{FileType, Node};
use crate::path::{PathError, TreePath, compare_paths};

/// The most entries a tree may have.
pub const MAX_ENTRIES: usize = 100_000_000;

/// Paths with nodes. The entries are in preorder, which is the order of a manifest: every directory
/// stands before its children, siblings are sorted by the bytes of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    entries: Vec<Entry>,
    /// The bytes of all names, one after another.
    names: Vec<u8>,
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

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    name_start: u64,
    name_len: u32,
    parent: u32,
    /// Index after the last descendant.
    end: u32,
    node: Node,
    origin: Origin,
}

/// Builds a [`Tree`] from entries in manifest order.
#[derive(Debug)]
pub struct TreeBuilder {
    tree: Tree,
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
    /// More than [`MAX_ENTRIES`].
    #[error("more than 100 million entries")]
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
        let root = Entry {
            name_start: 0,
            name_len: 0,
            parent: 0,
            end: 1,
            node: Node::implicit_directory(),
            origin: Origin::default(),
        };
        let tree = Tree { entries: vec![root], names: Vec::new() };
        Self { tree, open: vec![(EntryId::ROOT, 0)], last: Vec::new(), root_seen: false }
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
            self.tree.entries[0].node = node;
            self.tree.entries[0].origin = origin;
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
        if node.file_type() == FileType::Directory {
            self.open.push((EntryId(index), bytes.len()));
        }
        self.tree.entries.push(Entry {
            name_start: self.tree.names.len() as u64,
            name_len: u32::try_from(name.len()).map_err(|_| TreeError::TooMany)?,
            parent: parent.0,
            end: index + 1,
            node,
            origin,
        });
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
        let start = usize::try_from(entry.name_start).unwrap_or(usize::MAX);
        &self.names[start..start + entry.name_len as usize]
    }

    /// What the entry is.
    pub fn node(&self, id: EntryId) -> &Node {
        &self.entries[id.index()].node
    }

    /// Where it came from.
    pub fn origin(&self, id: EntryId) -> &Origin {
        &self.entries[id.index()].origin
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

    /// All entries in manifest order, the root first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = EntryId> + use<> {
        self.subtree(EntryId::ROOT)
    }

    /// The child of that name.
    pub fn child(&self, id: EntryId, name: &[u8]) -> Option<EntryId> {
        self.children(id).find(|child| self.name(*child) == name)
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
