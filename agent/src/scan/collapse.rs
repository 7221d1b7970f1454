//! Owns showing very many added paths below one directory as one drift. Must not own any other change: what is changed or
//! removed is never collapsed.

use std::collections::{BTreeMap, HashMap, HashSet};

use driftlock_common::drift::{Delta, Drift};
use driftlock_common::node::Node;
use driftlock_common::path::TreePath;

/// Added paths, held until the end of a scan: only then is it known which directory has too many.
#[derive(Debug)]
pub(super) struct Collapse {
    limit: u64,
    /// So many are held before they are folded all the same; what is added later to a folded directory is only counted.
    most: usize,
    kept: BTreeMap<TreePath, Delta>,
    /// Folded directories, and how many added paths below each they stand for.
    folded: HashMap<TreePath, u64>,
    /// Paths that have another drift, which they keep: a path has one.
    occupied: HashSet<TreePath>,
}

impl Collapse {
    pub(super) fn new(limit: u64) -> Self {
        /// Bounds memory to some 50 MB at the usual limit, whatever is added.
        const TIMES: u64 = 20;
        let most = usize::try_from(limit.saturating_mul(TIMES)).unwrap_or(usize::MAX);
        Self { limit, most, kept: BTreeMap::new(), folded: HashMap::new(), occupied: HashSet::new() }
    }

    /// Notes that `path` has a drift of its own. Only called before anything is added below it.
    pub(super) fn occupy(&mut self, path: &TreePath) {
        self.occupied.insert(path.clone());
    }

    /// Takes an added path.
    pub(super) fn add(&mut self, drift: Drift) {
        if !self.folded.is_empty() {
            for directory in std::iter::successors(drift.path.parent(), TreePath::parent) {
                if let Some(count) = self.folded.get_mut(&directory) {
                    *count += 1;
                    return;
                }
            }
        }
        self.kept.insert(drift.path, drift.delta);
        if self.kept.len() > self.most {
            self.fold();
            // What could not be folded must not be tried again at every path.
            self.most = self.most.max(2 * self.kept.len());
        }
    }

    /// Folds every directory with more than the limit below it, the lowest first, so that the drift says as exactly as it
    /// can where; what is folded below a directory does not count for it any more.
    fn fold(&mut self) {
        // Keyed by depth first, so that the last is always a deepest one.
        let mut counts: BTreeMap<(usize, TreePath), u64> = BTreeMap::new();
        for path in self.kept.keys() {
            if let Some(directory) = path.parent() {
                *counts.entry((directory.depth(), directory)).or_default() += 1;
            }
        }
        while let Some(((depth, directory), count)) = counts.pop_last() {
            if count > self.limit && !self.occupied.contains(&directory) {
                self.fold_one(directory);
            } else if let Some(above) = directory.parent() {
                *counts.entry((depth - 1, above)).or_default() += count;
            }
        }
    }

    fn fold_one(&mut self, directory: TreePath) {
        let within = |path: &TreePath| *path != directory && path.is_within(&directory);
        // Paths below a directory stand right behind it.
        let below: Vec<TreePath> = self
            .kept
            .range(directory.clone()..)
            .map(|(path, _)| path)
            .skip_while(|path| **path == directory)
            .take_while(|path| within(path))
            .cloned()
            .collect();
        let mut count = below.len() as u64;
        for path in &below {
            self.kept.remove(path);
        }
        self.folded.retain(|path, below| {
            if within(path) {
                count += *below;
            }
            !within(path)
        });
        self.folded.insert(directory, count);
    }

    /// What remains, in path order.
    pub(super) fn finish(mut self) -> impl Iterator<Item = Drift> {
        self.fold();
        for (path, count) in self.folded {
            let delta = self.kept.entry(path).or_insert_with(|| Delta::Added {
                // The directory itself is as sealed; only what is below it counts here.
                observed: Node::implicit_directory(),
                unverified: None,
                collapsed: None,
            });
            if let Delta::Added { collapsed, .. } = delta {
                *collapsed = Some(count);
            }
        }
        self.kept.into_iter().map(|(path, delta)| Drift { path, delta })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collapse(limit: u64, occupied: &[&str], added: &[String]) -> Vec<(String, Option<u64>)> {
        let mut collapse = Collapse::new(limit);
        let path = |text: &str| TreePath::new(text).unwrap();
        occupied.iter().for_each(|text| collapse.occupy(&path(text)));
        for text in added {
            let delta = Delta::Added { observed: Node::implicit_directory(), unverified: None, collapsed: None };
            collapse.add(Drift { path: path(text), delta });
        }
        let shape = |drift: Drift| match drift.delta {
            Delta::Added { collapsed, .. } => (drift.path.escaped().to_string(), collapsed),
            other => panic!("{other:?}"),
        };
        collapse.finish().map(shape).collect()
    }

    fn many(prefix: &str, n: usize) -> impl Iterator<Item = String> {
        (0..n).map(move |i| format!("{prefix}{i}"))
    }

    #[test]
    fn the_lowest_directory_over_the_limit_stands_for_what_is_below_it() {
        let some = |path: &str, n: Option<u64>| (path.to_owned(), n);
        for (occupied, added, expected) in [
            // At the limit nothing happens.
            (&[][..], many("a/", 3).collect::<Vec<_>>(), vec![some("a/0", None), some("a/1", None), some("a/2", None)]),
            // An added directory keeps its own entry; what is beside it stays.
            (
                &[],
                ["a".into(), "b".into()].into_iter().chain(many("a/", 9)).collect(),
                vec![some("a", Some(9)), some("b", None)],
            ),
            // Spread below: the directory that is over the limit, not its children.
            (
                &[],
                many("a/x/", 2).chain(many("a/y/", 2)).chain(many("b/", 1)).collect(),
                vec![some("a", Some(4)), some("b/0", None)],
            ),
            // Two of them, and what is left of the directory above them.
            (&[], many("a/x/", 5).chain(many("a/y/", 5)).collect(), vec![some("a/x", Some(5)), some("a/y", Some(5))]),
            // A directory with a drift of its own leaves it to the one above.
            (&["a/x"], many("a/x/", 5).collect(), vec![some("a", Some(5))]),
            (&["a", ""], many("a/", 4).collect(), many("a/", 4).map(|p| (p, None)).collect()),
        ] {
            assert_eq!(collapse(3, occupied, &added), expected);
            let backwards: Vec<String> = added.into_iter().rev().collect();
            assert_eq!(collapse(3, occupied, &backwards), expected);
        }
        // Far more than is ever held.
        assert_eq!(collapse(3, &[], &many("a/b/", 1000).collect::<Vec<_>>()), [some("a/b", Some(1000))]);
    }
}
