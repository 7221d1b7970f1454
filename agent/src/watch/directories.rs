//! Owns which directory each watch belongs to, as a tree of names: a directory that is moved takes everything below it
//! along. Pure. Must not own watches themselves, or what an event means.

use std::collections::HashMap;
use std::hash::Hash;

/// A watched directory. Good until it is removed; ids are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id(u32);

/// The watched directories of one root. `W` names a watch.
#[derive(Debug)]
pub(super) struct Directories<W> {
    nodes: Vec<Node<W>>,
    free: Vec<Id>,
    by_watch: HashMap<W, Id>,
}

#[derive(Debug)]
struct Node<W> {
    /// `None` for the root, and for what is on its way from one place to another.
    parent: Option<Id>,
    name: Box<[u8]>,
    watch: W,
    /// In the order of names.
    children: Vec<Id>,
}

impl<W: Copy + Eq + Hash> Directories<W> {
    pub(super) fn new() -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), by_watch: HashMap::new() }
    }

    /// The directory of a watch; `None` for one that was given up.
    pub(super) fn of(&self, watch: W) -> Option<Id> {
        self.by_watch.get(&watch).copied()
    }

    /// Takes a directory at `name` in `parent` (`None`: the root). The kernel gives one watch to one directory, so a known
    /// watch is a directory that was moved here: it is taken along with what is below it. Returns the directory and the
    /// watches of what was at this place before.
    pub(super) fn put(&mut self, parent: Option<Id>, name: &[u8], watch: W) -> (Id, Vec<W>) {
        let there = parent.and_then(|parent| self.child(parent, name));
        if let Some(known) = self.of(watch) {
            if there == Some(known) || self.is_within(parent, known) {
                return (known, Vec::new());
            }
            // First out of its place: that may be below what is there.
            self.detach(known);
            let before = there.map(|there| self.remove(there)).unwrap_or_default();
            self.attach(known, parent, name);
            return (known, before);
        }
        let before = there.map(|there| self.remove(there)).unwrap_or_default();
        let node = Node { parent: None, name: Box::default(), watch, children: Vec::new() };
        let id = match self.free.pop() {
            Some(id) => {
                self.nodes[id.index()] = node;
                id
            }
            None => {
                self.nodes.push(node);
                Id(u32::try_from(self.nodes.len() - 1).expect("the kernel has fewer than 2^31 watches"))
            }
        };
        self.by_watch.insert(watch, id);
        self.attach(id, parent, name);
        (id, before)
    }

    /// The watch of a directory.
    pub(super) fn watch(&self, id: Id) -> W {
        self.nodes[id.index()].watch
    }

    /// The directory at `name` in `parent`.
    pub(super) fn child(&self, parent: Id, name: &[u8]) -> Option<Id> {
        let children = &self.nodes[parent.index()].children;
        self.search(children, name).ok().map(|at| children[at])
    }

    /// Takes a directory out of its place; it keeps what is below it.
    pub(super) fn detach(&mut self, id: Id) {
        let Some(parent) = self.nodes[id.index()].parent.take() else { return };
        let children = &self.nodes[parent.index()].children;
        // Found by its name: a directory of many children may lose them all, one after another.
        if let Ok(at) = self.search(children, &self.nodes[id.index()].name) {
            self.nodes[parent.index()].children.remove(at);
        }
    }

    /// Removes a directory and everything below it; the watches that they had, its own first.
    pub(super) fn remove(&mut self, top: Id) -> Vec<W> {
        self.detach(top);
        let mut watches = Vec::new();
        let mut pending = vec![top];
        while let Some(id) = pending.pop() {
            let node = &mut self.nodes[id.index()];
            pending.append(&mut node.children);
            node.name = Box::default();
            node.parent = None;
            watches.push(node.watch);
            self.by_watch.remove(&node.watch);
            self.free.push(id);
        }
        watches
    }

    /// Whether a directory is the root, or on its way.
    pub(super) fn is_top(&self, id: Id) -> bool {
        self.nodes[id.index()].parent.is_none()
    }

    /// The uppermost directory above one: the root, or what is on its way.
    pub(super) fn top(&self, id: Id) -> Id {
        let mut at = id;
        while let Some(parent) = self.nodes[at.index()].parent {
            at = parent;
        }
        at
    }

    /// The path of `name` in a directory, or of the directory itself if `name` is empty, relative to the top.
    pub(super) fn path(&self, id: Id, name: &[u8]) -> Vec<u8> {
        let mut names = vec![name];
        let mut at = id;
        while let Some(parent) = self.nodes[at.index()].parent {
            names.push(&self.nodes[at.index()].name);
            at = parent;
        }
        names.retain(|name| !name.is_empty());
        names.reverse();
        names.join(&b'/')
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_watch.len()
    }

    fn attach(&mut self, id: Id, parent: Option<Id>, name: &[u8]) {
        self.nodes[id.index()].parent = parent;
        self.nodes[id.index()].name = name.into();
        let Some(parent) = parent else { return };
        let children = &self.nodes[parent.index()].children;
        let at = self.search(children, name).unwrap_or_else(|at| at);
        self.nodes[parent.index()].children.insert(at, id);
    }

    /// Whether `id` is `top` or below it: what is moved below itself is no place.
    fn is_within(&self, id: Option<Id>, top: Id) -> bool {
        let mut at = id;
        while let Some(id) = at {
            if id == top {
                return true;
            }
            at = self.nodes[id.index()].parent;
        }
        false
    }

    fn search(&self, children: &[Id], name: &[u8]) -> Result<usize, usize> {
        children.binary_search_by(|child| (*self.nodes[child.index()].name).cmp(name))
    }
}

impl Id {
    const fn index(self) -> usize {
        self.0 as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_moved_directory_takes_along_what_is_below_it() {
        let mut tree = Directories::new();
        let (root, _) = tree.put(None, b"", 1);
        let (a, _) = tree.put(Some(root), b"a", 2);
        let (deep, _) = tree.put(Some(a), b"deep", 3);
        let (b, _) = tree.put(Some(root), b"b", 4);
        assert_eq!(tree.path(deep, b"f"), b"a/deep/f");
        tree.detach(a);
        assert!(tree.is_top(a) && tree.child(root, b"a").is_none());
        assert_eq!(tree.put(Some(b), b"moved", 2), (a, vec![]));
        assert_eq!(tree.path(deep, b""), b"b/moved/deep");
        // Moved over another directory, whose watches are given up.
        assert_eq!(tree.put(Some(root), b"b", 2), (a, vec![4]));
        assert_eq!(tree.path(deep, b""), b"b/deep");
        assert_eq!(tree.of(4), None);
        assert_eq!(tree.len(), 3);
    }

    /// The naive one: each watch with its parent's watch and its name.
    #[derive(Default)]
    struct Naive(BTreeMap<u8, (u8, u8)>);

    impl Naive {
        /// From a watch up to the root, which is 0.
        fn chain(&self, watch: u8) -> Vec<u8> {
            let up = |watch: &u8| self.0.get(watch).map(|(parent, _)| *parent);
            std::iter::successors(Some(watch), up).collect()
        }

        fn remove(&mut self, top: u8) {
            let gone: Vec<u8> = self.0.keys().copied().filter(|watch| self.chain(*watch).contains(&top)).collect();
            self.0.retain(|watch, _| !gone.contains(watch));
        }

        fn path(&self, watch: u8) -> Vec<u8> {
            let names = self.chain(watch).into_iter().filter_map(|watch| self.0.get(&watch).map(|(_, name)| [*name]));
            let mut names: Vec<[u8; 1]> = names.collect();
            names.reverse();
            names.join(&b'/')
        }
    }

    proptest! {
        #[test]
        fn paths_are_those_of_a_naive_tree(
            steps in proptest::collection::vec((0..12_u8, b'a'..b'd', 1..12_u8, 0..4_u8), 1..80),
        ) {
            let mut tree = Directories::new();
            tree.put(None, b"", 0_u8);
            let mut naive = Naive::default();
            for (parent, name, watch, kind) in steps {
                if kind == 0 {
                    let known = tree.of(watch);
                    prop_assert_eq!(known.is_some(), naive.0.contains_key(&watch));
                    known.map(|id| tree.remove(id));
                    naive.remove(watch);
                } else if let Some(id) = tree.of(parent) {
                    let inside = naive.chain(parent).contains(&watch);
                    let (_, before) = tree.put(Some(id), &[name], watch);
                    if inside {
                        prop_assert_eq!(before, Vec::<u8>::new());
                        continue;
                    }
                    let same = naive.0.remove(&watch) == Some((parent, name));
                    let there = naive.0.iter().find(|(_, at)| **at == (parent, name)).map(|(there, _)| *there);
                    prop_assert!(!same || there.is_none());
                    let count = naive.0.len();
                    if let Some(there) = there {
                        // What is moved here may have been below it: it is on its way, and stays.
                        naive.0.insert(watch, (u8::MAX, name));
                        naive.remove(there);
                        naive.0.remove(&watch);
                    }
                    prop_assert_eq!(before.len(), count - naive.0.len());
                    naive.0.insert(watch, (parent, name));
                }
                prop_assert_eq!(tree.len(), naive.0.len() + 1);
                for watch in naive.0.keys() {
                    prop_assert_eq!(tree.path(tree.of(*watch).unwrap(), b""), naive.path(*watch));
                }
            }
        }
    }
}
