//! Owns what the form for people says in one line for many: findings of one kind below one directory. Must not own how a
//! line looks. The other forms have every finding.

use std::collections::BTreeMap;

use driftlock_common::drift::{Change, Delta};
use driftlock_common::gap::Reason;
use driftlock_common::path::TreePath;
use driftlock_common::policy::{Judged, Privilege, Severity};

/// So many findings of one kind at and below one directory are one line.
pub(super) const MANY: usize = 20;

/// What is said in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line<'f, 'p> {
    /// A finding.
    One(&'f Judged<'p>),
    /// Findings of one kind at and below a directory, in path order; [`MANY`] or more.
    Many(TreePath, Vec<&'f Judged<'p>>),
}

/// What findings have in common that are one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind<'p> {
    change: Change,
    /// Why something of it could not be established.
    reason: Option<Reason>,
    severity: Option<Severity>,
    /// The id of the rule that decided.
    rule: Option<&'p str>,
}

/// The lines of findings in path order; a directory's line stands where the directory does, before what is below it.
///
/// The lowest directory with enough of a kind has its line. In the root only what lies in it directly is folded: what is
/// scattered over everything has no place. What [stands out](stands_out) has a line of its own.
pub(super) fn fold<'f, 'p>(findings: impl IntoIterator<Item = &'f Judged<'p>>) -> Vec<Line<'f, 'p>> {
    let mut kinds: BTreeMap<Kind<'p>, Vec<&'f Judged<'p>>> = BTreeMap::new();
    let mut lines = Vec::new();
    for judged in findings {
        if stands_out(judged) {
            lines.push(Line::One(judged));
        } else {
            kinds.entry(Kind::of(judged)).or_default().push(judged);
        }
    }
    for alike in kinds.into_values() {
        if alike.len() < MANY {
            lines.extend(alike.into_iter().map(Line::One));
        } else {
            fold_kind(&alike, &mut lines);
        }
    }
    // Of one path the directory's line comes last: the directory itself may have another kind.
    lines.sort_by(|a, b| (a.path(), a.len()).cmp(&(b.path(), b.len())));
    lines
}

/// Findings of one kind, in path order.
fn fold_kind<'f, 'p>(alike: &[&'f Judged<'p>], lines: &mut Vec<Line<'f, 'p>>) {
    let path = |at: usize| &alike[at].drift.path;
    let mut folded = vec![false; alike.len()];
    // Keyed by depth first, so that the last is always a deepest one.
    let mut below: BTreeMap<(usize, TreePath), Vec<usize>> = BTreeMap::new();
    for at in 0..alike.len() {
        let Some(directory) = path(at).parent() else { continue };
        below.entry((directory.depth(), directory)).or_default().push(at);
    }
    while let Some(((depth, directory), mut these)) = below.pop_last() {
        these.retain(|at| !folded[*at] && (depth > 0 || path(*at).depth() == 1));
        // The directory itself, if it is one of them.
        these.extend(alike.binary_search_by(|judged| judged.drift.path.cmp(&directory)));
        if these.len() >= MANY {
            these.sort_unstable();
            these.iter().for_each(|at| folded[*at] = true);
            lines.push(Line::Many(directory, these.into_iter().map(|at| alike[at]).collect()));
        } else if let Some(above) = directory.parent() {
            these.retain(|at| *path(*at) != directory);
            below.entry((depth - 1, above)).or_default().append(&mut these);
        }
    }
    let rest = alike.iter().zip(&folded).filter(|(_, folded)| !**folded);
    lines.extend(rest.map(|(judged, _)| Line::One(judged)));
}

/// Whether a finding is never folded: it is critical, or about what gives rights, which whoever made it could else hide
/// among others, or it stands for others itself.
fn stands_out(judged: &Judged<'_>) -> bool {
    let gives_rights = |node| Privilege::ALL.into_iter().any(|privilege| privilege.is_given_by(node));
    let drift = &judged.drift;
    let stands_for_others = match &drift.delta {
        Delta::Added { collapsed, .. } => collapsed.is_some(),
        Delta::Unverifiable { covers, .. } => *covers > 1,
        Delta::Removed { .. } | Delta::Changed { .. } => false,
    };
    stands_for_others
        || judged.severity() == Some(Severity::Critical)
        || drift.observed().is_some_and(gives_rights)
        || drift.expected().is_some_and(|sealed| gives_rights(&sealed.node))
}

// === impl Kind ===

impl<'p> Kind<'p> {
    fn of(judged: &Judged<'p>) -> Self {
        let reason = match &judged.drift.delta {
            Delta::Added { unverified, .. } | Delta::Changed { unverified, .. } => unverified.map(|gap| gap.reason),
            Delta::Removed { .. } => None,
            Delta::Unverifiable { reason, .. } => Some(*reason),
        };
        let rule = judged.rule().map(|rule| rule.id.as_str());
        Self { change: judged.drift.change(), reason, severity: judged.severity(), rule }
    }
}

// === impl Line ===

impl Line<'_, '_> {
    /// How many findings it stands for.
    pub(super) const fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(_, these) => these.len(),
        }
    }

    const fn path(&self) -> &TreePath {
        match self {
            Self::One(judged) => &judged.drift.path,
            Self::Many(directory, _) => directory,
        }
    }
}

#[cfg(test)]
mod tests {
    use driftlock_common::drift::{Attribute, Attributes, Drift, Sealed, Unverified};
    use driftlock_common::node::{Kind as NodeKind, Node};
    use driftlock_common::policy::Policy;
    use driftlock_common::tree::Origin;
    use proptest::prelude::*;

    use super::*;
    use crate::judge::Judge;

    fn file(mode: u16) -> Node {
        Node { mode: Some(mode), ..Node::bare(NodeKind::File { size: Some(0), content: None }) }
    }

    fn added(path: &str) -> Drift {
        let delta = Delta::Added { observed: file(0o644), unverified: None, collapsed: None };
        Drift { path: TreePath::new(path).unwrap(), delta }
    }

    fn removed(path: &str, mode: u16) -> Drift {
        let expected = Sealed { node: file(mode), origin: Origin::default(), part: 0 };
        Drift { path: TreePath::new(path).unwrap(), delta: Delta::Removed { expected } }
    }

    fn judged<'p>(policy: Option<&'p Policy>, drifts: impl IntoIterator<Item = Drift>) -> Vec<Judged<'p>> {
        let mut drifts: Vec<Drift> = drifts.into_iter().collect();
        drifts.sort_by(|a, b| a.path.cmp(&b.path));
        drifts.into_iter().map(|drift| Judge::new(policy).judged(drift)).collect()
    }

    /// Each line as its path, and a number if it is many.
    fn lines(findings: &[Judged<'_>]) -> Vec<String> {
        let shown = |line: &Line<'_, '_>| match line {
            Line::One(judged) => judged.drift.path.escaped().to_string(),
            Line::Many(directory, these) => format!("{}/ {}", directory.escaped(), these.len()),
        };
        fold(findings).iter().map(shown).collect()
    }

    fn many(prefix: &str, n: usize) -> impl Iterator<Item = Drift> {
        (0..n).map(move |i| added(&format!("{prefix}{i:02}")))
    }

    #[test]
    fn the_lowest_directory_with_many_has_one_line() {
        for (drifts, expected) in [
            (many("a/", MANY).collect::<Vec<_>>(), vec!["a/ 20".to_owned()]),
            (many("a/", MANY - 1).collect(), (0..MANY - 1).map(|i| format!("a/{i:02}")).collect()),
            // The directory that came with them is one of them.
            (many("a/", MANY - 1).chain([added("a")]).collect(), vec!["a/ 20".to_owned()]),
            // Beside others, each where it belongs.
            (
                many("b/x/", 25).chain([added("b"), added("a"), added("b/y"), added("c")]).collect(),
                ["a", "b", "b/x/ 25", "b/y", "c"].map(str::to_owned).into(),
            ),
            // Spread below one directory, and over the whole.
            (many("a/x/", 10).chain(many("a/y/", 10)).collect(), vec!["a/ 20".to_owned()]),
            (many("", MANY).collect(), vec!["/ 20".to_owned()]),
            (
                many("a/x/", 18).chain(many("b/y/", 18)).collect(),
                ["a/x/", "b/y/"].iter().flat_map(|at| (0..18).map(move |i| format!("{at}{i:02}"))).collect(),
            ),
            // One kind is not another.
            (
                many("a/", 15).chain((20..35).map(|i| removed(&format!("a/{i}"), 0o644))).collect(),
                (0..15).chain(20..35).map(|i| format!("a/{i:02}")).collect(),
            ),
        ] {
            assert_eq!(lines(&judged(None, drifts)), expected);
        }
        assert_eq!(lines(&[]), [""; 0]);
    }

    #[test]
    fn nothing_hides_among_many() {
        let rights = |path: &str| {
            let delta = Delta::Added { observed: file(0o4755), unverified: None, collapsed: None };
            Drift { path: TreePath::new(path).unwrap(), delta }
        };
        let flood = Delta::Added { observed: Node::implicit_directory(), unverified: None, collapsed: Some(20_000) };
        let cut = |covers| Delta::Unverifiable { reason: Reason::Denied, covers, expected: None };
        let at = |path: &str, delta| Drift { path: TreePath::new(path).unwrap(), delta };
        let gap = Some(Unverified { attributes: Attributes::of(Attribute::Content), reason: Reason::Io });
        let unread = Delta::Added { observed: file(0o644), unverified: gap, collapsed: None };
        let drifts = many("a/", 30).chain([
            rights("a/su"),
            removed("a/sudo", 0o4755),
            at("a/flood", flood),
            at("a/cut", cut(7)),
            at("a/one", cut(1)),
            at("a/unread", unread),
        ]);
        let expected = ["a/ 30", "a/cut", "a/flood", "a/one", "a/su", "a/sudo", "a/unread"];
        assert_eq!(lines(&judged(None, drifts)), expected);
        // Gaps of one reason are of one kind.
        let gaps = (0..MANY).map(|i| at(&format!("a/{i}"), cut(1)));
        assert_eq!(lines(&judged(None, gaps)), ["a/ 20"]);

        let rule = |id: &str, path: &str, severity: &str| {
            format!(
                "[[rule]]\nid = '{id}'\npath = '{path}'\nallow = 'nothing'\nseverity = '{severity}'\nreason = 'x'\n"
            )
        };
        let rules =
            [rule("worst", "a/0*", "critical"), rule("one", "a/1*", "low"), rule("two", "a/2*", "low")].concat();
        let policy = Policy::parse(format!("version = 1\nname = 'p'\n{rules}").as_bytes()).unwrap();
        let tens = |tens: u32| (0..40).map(move |i| added(&format!("a/{tens}{i:02}")));
        let all = judged(Some(&policy), (0..4).flat_map(tens));
        let (many, one): (Vec<String>, Vec<String>) = lines(&all).into_iter().partition(|line| line.contains(' '));
        // By rule one, by rule two, and by none.
        assert_eq!(many, ["a/ 40"; 3]);
        assert_eq!(one, (0..40).map(|i| format!("a/0{i:02}")).collect::<Vec<_>>(), "critical is never folded");
    }

    fn some_drifts() -> impl Strategy<Value = Vec<Drift>> {
        let path = proptest::collection::vec(proptest::sample::select(vec!["a", "b", "c", "d"]), 1..5);
        let paths = proptest::collection::btree_map(path, any::<bool>(), 0..200);
        let drift = |(path, is_added): (Vec<&str>, bool)| match is_added {
            true => added(&path.join("/")),
            false => removed(&path.join("/"), 0o644),
        };
        paths.prop_map(move |paths| paths.into_iter().map(drift).collect())
    }

    proptest! {
        /// Each finding is said once, in a line for many only with its kind and below its directory, and no directory but
        /// the root has as many left.
        #[test]
        fn each_finding_is_said_once_and_no_directory_has_many_left(drifts in some_drifts()) {
            let findings = judged(None, drifts);
            let lines = fold(&findings);
            let mut said: Vec<&TreePath> = Vec::new();
            let mut left: Vec<&Drift> = Vec::new();
            for line in &lines {
                match line {
                    Line::One(judged) => {
                        said.push(&judged.drift.path);
                        left.push(&judged.drift);
                    }
                    Line::Many(directory, these) => {
                        prop_assert!(these.len() >= MANY);
                        prop_assert!(these.iter().all(|judged| judged.drift.path.is_within(directory)));
                        prop_assert!(these.iter().all(|judged| judged.drift.change() == these[0].drift.change()));
                        said.extend(these.iter().map(|judged| &judged.drift.path));
                    }
                }
            }
            said.sort();
            prop_assert_eq!(said, findings.iter().map(|judged| &judged.drift.path).collect::<Vec<_>>());
            for directory in findings.iter().filter_map(|judged| judged.drift.path.parent()) {
                for change in [Change::Added, Change::Removed] {
                    let below = left.iter().filter(|drift| drift.change() == change);
                    let here = match directory.is_root() {
                        true => below.filter(|drift| drift.path.depth() == 1).count(),
                        false => below.filter(|drift| drift.path.is_within(&directory)).count(),
                    };
                    prop_assert!(here < MANY, "{here} at {directory:?}");
                }
            }
        }
    }
}
