//! Owns which places of a target have to be looked at again, and from when on. Bounded: too many marks below one
//! directory become that directory, and so on up to everything. Must not own who gave a hint.

use std::collections::BTreeMap;
use std::time::Duration;

use driftlock_common::path::TreePath;

use crate::scan::Scope;

/// More marks than this collapse. A mark costs its path and some 100 bytes.
pub(super) const MAX_MARKS: usize = 1024;
/// Rests remembered; over this the past ones are forgotten.
const MAX_RESTS: usize = 4096;
/// The first rest of a path after its verdict.
pub(super) const FIRST_REST: Duration = Duration::from_millis(100);
/// The longest rest of a path that keeps changing, unless looking at it takes longer than that.
pub(super) const LONGEST_REST: Duration = Duration::from_secs(5);

static ROOT: TreePath = TreePath::root();

/// The place of a scope.
pub(super) const fn path_of(scope: &Scope) -> &TreePath {
    match scope {
        Scope::All => &ROOT,
        Scope::Subtree(path) | Scope::Entry(path) => path,
    }
}

/// A place to look at, and since when that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) scope: Scope,
    pub(super) since: Duration,
}

/// The dirty set of a target.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    marks: BTreeMap<TreePath, Mark>,
    rests: BTreeMap<TreePath, Rest>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    subtree: bool,
    due: Duration,
    /// When the first of what it stands for was marked.
    since: Duration,
}

/// A path that just had its verdict is left alone for a while, longer each time it changes again soon.
#[derive(Clone, Copy, Debug)]
struct Rest {
    window: Duration,
    until: Duration,
}

impl Dirty {
    /// Marks a place, due at once or when its rest is over.
    pub(super) fn mark(&mut self, scope: Scope, now: Duration) {
        let rest = self.rests.get(path_of(&scope)).map_or(now, |rest| rest.until.max(now));
        self.mark_since(scope, rest, now);
    }

    /// Marks a place, due at `due`.
    pub(super) fn mark_due(&mut self, scope: Scope, due: Duration) {
        self.mark_since(scope, due, due);
    }

    /// Marks a place, due at `due`, of which is known `since` then that it has to be looked at.
    pub(super) fn mark_since(&mut self, scope: Scope, due: Duration, since: Duration) {
        let subtree = !matches!(scope, Scope::Entry(_));
        let path = path_of(&scope).clone();
        if self.is_covered(&path) {
            return;
        }
        self.insert(path, Mark { subtree, due, since });
        if self.marks.len() > MAX_MARKS {
            self.collapse();
        }
    }

    /// Takes every mark that is due.
    pub(super) fn take_due(&mut self, now: Duration) -> Vec<Taken> {
        self.marks
            .extract_if(.., |_, mark| mark.due <= now)
            .map(|(path, Mark { subtree, since, .. })| {
                let scope = match subtree {
                    true if path.is_root() => Scope::All,
                    true => Scope::Subtree(path),
                    false => Scope::Entry(path),
                };
                Taken { scope, since }
            })
            .collect()
    }

    /// The place that was marked first of those that still wait, and when.
    pub(super) fn oldest(&self) -> Option<(&TreePath, Duration)> {
        self.marks.iter().map(|(path, mark)| (path, mark.since)).min_by_key(|(_, since)| *since)
    }

    /// Whether everything is marked.
    pub(super) fn is_everything(&self) -> bool {
        self.marks.get(&ROOT).is_some_and(|mark| mark.subtree)
    }

    /// When the next mark is due.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.marks.values().map(|mark| mark.due).min()
    }

    /// Whether a place that was marked at `since` had its verdict just before.
    pub(super) fn keeps_changing(&self, path: &TreePath, since: Duration) -> bool {
        self.rests.get(path).is_some_and(|rest| since < rest.until + rest.window)
    }

    /// The places got their verdict, which took `took`: they rest at least as long as that.
    pub(super) fn settle<'a>(&mut self, scopes: impl Iterator<Item = &'a Scope>, now: Duration, took: Duration) {
        if self.rests.len() > MAX_RESTS {
            self.rests.retain(|_, rest| now < rest.until + rest.window);
        }
        if self.rests.len() > MAX_RESTS {
            // Forgetting a rest costs a verdict that comes earlier.
            self.rests.clear();
        }
        for scope in scopes {
            let path = path_of(scope);
            let rest = match self.rests.get(path) {
                Some(last) if now < last.until + last.window => (last.window * 2).min(LONGEST_REST),
                _ => FIRST_REST,
            };
            let until = now + rest.max(took);
            self.rests.insert(path.clone(), Rest { window: rest, until });
            if let Some(mark) = self.marks.get_mut(path) {
                mark.due = mark.due.max(until);
            }
        }
    }

    /// Whether an ancestor is marked with everything below it, or the path itself with no less.
    fn is_covered(&self, path: &TreePath) -> bool {
        let mut above = path.parent();
        while let Some(ancestor) = above {
            if self.marks.get(&ancestor).is_some_and(|mark| mark.subtree) {
                return true;
            }
            above = ancestor.parent();
        }
        false
    }

    fn insert(&mut self, path: TreePath, mut mark: Mark) {
        if let Some(there) = self.marks.get(&path) {
            mark.subtree |= there.subtree;
            mark.due = mark.due.min(there.due);
            mark.since = mark.since.min(there.since);
        }
        if mark.subtree {
            let below: Vec<TreePath> = self
                .marks
                .range(path.clone()..)
                .map(|(below, _)| below)
                .take_while(|below| below.is_within(&path))
                .cloned()
                .collect();
            for path in below {
                // What was due below is due now as part of the whole.
                if let Some(gone) = self.marks.remove(&path) {
                    mark.due = mark.due.min(gone.due);
                    mark.since = mark.since.min(gone.since);
                }
            }
        }
        self.marks.insert(path, mark);
    }

    /// Replaces the marks of whole directories by the directories, the fullest first, until half of the bound is free.
    fn collapse(&mut self) {
        while self.marks.len() > MAX_MARKS / 2 {
            let mut groups: BTreeMap<TreePath, usize> = BTreeMap::new();
            for path in self.marks.keys() {
                *groups.entry(path.parent().unwrap_or_default()).or_default() += 1;
            }
            let mut groups: Vec<(TreePath, usize)> = groups.into_iter().collect();
            // The fullest; among equals the deepest, so that what is looked at stays small.
            groups.sort_by_key(|(path, count)| std::cmp::Reverse((*count, path.depth())));
            for (parent, _) in groups {
                if self.marks.len() <= MAX_MARKS / 2 {
                    return;
                }
                let first = self.marks.range(parent.clone()..).next().filter(|(below, _)| below.is_within(&parent));
                if let Some((_, mark)) = first
                    && !self.is_covered(&parent)
                {
                    // What else is below comes to it.
                    self.insert(parent, Mark { subtree: true, ..*mark });
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.marks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn path(text: &str) -> TreePath {
        TreePath::new(text).unwrap()
    }

    fn take(dirty: &mut Dirty, now: Duration) -> Vec<Scope> {
        dirty.take_due(now).into_iter().map(|taken| taken.scope).collect()
    }

    fn covers(scopes: &[Scope], path: &TreePath) -> bool {
        scopes.iter().any(|scope| match scope {
            Scope::All => true,
            Scope::Subtree(top) => path.is_within(top),
            Scope::Entry(entry) => entry == path,
        })
    }

    #[test]
    fn a_path_that_keeps_changing_is_looked_at_less_and_less() {
        let mut dirty = Dirty::default();
        let scope = || Scope::Entry(path("a"));
        let mut at = ms(0);
        let mut gaps = Vec::new();
        for _ in 0..9 {
            dirty.mark(scope(), at);
            let due = dirty.next_due().unwrap();
            gaps.push((due - at).as_millis());
            at = due;
            assert_eq!(take(&mut dirty, at), [scope()]);
            dirty.settle([&scope()].into_iter(), at, ms(1));
        }
        assert_eq!(gaps, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        // A quiet time makes it fresh again.
        at += ms(20_000);
        dirty.mark(scope(), at);
        assert_eq!(take(&mut dirty, at), [scope()]);
    }

    #[test]
    fn a_slow_verdict_rests_as_long_as_it_took() {
        let mut dirty = Dirty::default();
        dirty.mark(Scope::All, ms(0));
        assert_eq!(take(&mut dirty, ms(0)), [Scope::All]);
        dirty.mark(Scope::All, ms(10));
        dirty.settle([&Scope::All].into_iter(), ms(30_000), ms(30_000));
        assert_eq!(dirty.next_due(), Some(ms(60_000)));
    }

    #[test]
    fn the_fullest_directory_collapses_first() {
        let mut dirty = Dirty::default();
        dirty.mark(Scope::Entry(path("etc/conf")), ms(0));
        for n in 0..MAX_MARKS {
            dirty.mark(Scope::Entry(path(&format!("var/cache/{n}"))), ms(1));
        }
        assert_eq!(take(&mut dirty, ms(1)), [Scope::Entry(path("etc/conf")), Scope::Subtree(path("var/cache"))]);
    }

    #[test]
    fn marks_everywhere_collapse_to_everything() {
        let mut dirty = Dirty::default();
        for n in 0..=MAX_MARKS {
            dirty.mark(Scope::Entry(path(&format!("d{n}/f"))), ms(0));
        }
        assert_eq!(take(&mut dirty, ms(0)), [Scope::All]);
    }

    #[test]
    fn what_was_marked_first_waits_longest() {
        let mut dirty = Dirty::default();
        for (at, name) in [(3, "a"), (5, "b"), (9, "a")] {
            dirty.mark(Scope::Entry(path(name)), ms(at));
        }
        assert_eq!(dirty.oldest(), Some((&path("a"), ms(3))));
        dirty.mark(Scope::Subtree(path("")), ms(10));
        assert_eq!(dirty.oldest(), Some((&path(""), ms(3))), "it stands for both");
        assert_eq!(dirty.take_due(ms(10)), [Taken { scope: Scope::All, since: ms(3) }]);
        assert_eq!(dirty.oldest(), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_was_marked_is_covered_by_what_is_taken(
            marks in prop::collection::vec((prop::collection::vec(0u8..12, 0..5), any::<bool>()), 1..3000)
        ) {
            let mut dirty = Dirty::default();
            let mut marked = Vec::new();
            for (names, subtree) in marks {
                let names: Vec<String> = names.iter().map(|n| format!("n{n}")).collect();
                let path = path(&names.join("/"));
                dirty.mark(if subtree { Scope::Subtree(path.clone()) } else { Scope::Entry(path.clone()) }, ms(0));
                prop_assert!(dirty.len() <= MAX_MARKS);
                marked.push(path);
            }
            let taken = take(&mut dirty, ms(0));
            for path in &marked {
                prop_assert!(covers(&taken, path), "{path:?} forgotten");
            }
            prop_assert_eq!(dirty.len(), 0);
        }
    }
}
