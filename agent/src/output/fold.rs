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
