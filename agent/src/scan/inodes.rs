//! Owns which inode each sealed entry was last found to be, so that what happens through another name of it is known to concern
//! it. Must not own looking, or what happens.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use driftlock_common::tree::{EntryId, Tree};

/// The inodes of the entries of one tree: 16 bytes an entry. The device is left out: where several file systems are crossed
/// another's inode of the same number may be taken for one of these, which costs a look.
#[derive(Debug)]
pub struct Inodes {
    /// By entry; 0, which no inode has, is not known.
    numbers: Box<[AtomicU64]>,
    chains: Mutex<Chains>,
}

/// Entries by what their numbers hash to.
#[derive(Debug)]
struct Chains {
    /// The first of each chain.
    heads: Box<[u32]>,
    /// By entry: the next one in its chain.
    next: Box<[u32]>,
}

/// The end of a chain.
const END: u32 = u32::MAX;

impl Inodes {
    /// Nothing known yet, of the entries of `tree`.
    pub fn of(tree: &Tree) -> Self {
        let entries = tree.iter().len();
        let chains = Chains { heads: vec![END; entries.max(1)].into(), next: vec![END; entries].into() };
        Self { numbers: std::iter::repeat_with(AtomicU64::default).take(entries).collect(), chains: Mutex::new(chains) }
    }

    /// An entry was found to be an inode of that number.
    pub(crate) fn note(&self, id: EntryId, number: u64) {
        let Some(known) = self.numbers.get(id.index()).filter(|known| known.load(Ordering::Relaxed) != number) else {
            return;
        };
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.swap(number, Ordering::Relaxed);
        if before != 0 {
            chains.take(before, id);
        }
        if number != 0 {
            chains.put(number, id);
        }
    }

    /// An entry was not found.
    pub(crate) fn forget(&self, id: EntryId) {
        self.note(id, 0);
    }

    /// The entries that were last found to be an inode of that number, as positions in manifest order.
    pub fn find(&self, number: u64) -> Vec<usize> {
        let chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |at: &usize| self.numbers[*at].load(Ordering::Relaxed) == number;
        chains.of(number).filter(is_it).collect()
    }
}

impl Chains {
    fn head(&self, number: u64) -> usize {
        // Numbers of one tree lie side by side, so that the lowest digits spread best.
        usize::try_from(number % self.heads.len() as u64).unwrap_or_default()
    }

    fn of(&self, number: u64) -> impl Iterator<Item = usize> {
        let index = |at: u32| usize::try_from(at).ok().filter(|_| at != END);
        std::iter::successors(index(self.heads[self.head(number)]), move |at| index(self.next[*at]))
    }

    fn put(&mut self, number: u64, id: EntryId) {
        let head = self.head(number);
        let Ok(at) = u32::try_from(id.index()) else { return };
        self.next[id.index()] = std::mem::replace(&mut self.heads[head], at);
    }

    fn take(&mut self, number: u64, id: EntryId) {
        let after = self.next[id.index()];
        let above = self.of(number).find(|at| usize::try_from(self.next[*at]).is_ok_and(|next| next == id.index()));
        match above {
            Some(above) => self.next[above] = after,
            None => {
                let head = self.head(number);
                self.heads[head] = after;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use driftlock_common::node::{Kind, Node};
    use driftlock_common::path::TreePath;
    use driftlock_common::tree::Origin;
    use proptest::prelude::*;

    use super::*;

    fn tree(files: u8) -> Tree {
        let entry = |path: TreePath, kind| (path, Node::bare(kind), Origin::default());
        let file = |n| entry(TreePath::new(format!("{n:03}")).unwrap(), Kind::File { size: None, content: None });
        let root = entry(TreePath::root(), Kind::Directory);
        Tree::from_sorted(std::iter::once(root).chain((0..files).map(file))).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_a_map_holds(steps in proptest::collection::vec((0..20_usize, 0..40_u64), 0..200)) {
            let tree = tree(19);
            let inodes = Inodes::of(&tree);
            let mut naive = BTreeMap::new();
            for (at, number) in steps {
                let id = tree.iter().nth(at).unwrap();
                if number == 0 {
                    inodes.forget(id);
                    naive.remove(&at);
                } else {
                    inodes.note(id, number);
                    naive.insert(at, number);
                }
            }
            for number in 1..45 {
                let mut found = inodes.find(number);
                found.sort_unstable();
                let known: Vec<usize> =
                    naive.iter().filter(|(_, known)| **known == number).map(|(at, _)| *at).collect();
                prop_assert_eq!(found, known);
            }
        }
    }
}
