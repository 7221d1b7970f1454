//! Owns what a reviewer of a policy would miss. Must not own refusing: a policy that only has warnings can be used.

use std::fmt;

use super::sensitive::PLACES;
use super::{Allow, Policy, Rule};
use crate::drift::{Attribute, Attributes, Change};
use crate::node::FileType;
use crate::pattern::Pattern;
use crate::tree::Tree;

/// A rule that tolerates at least one in this many entries of a manifest is worth a look.
pub const SWALLOWED: usize = 5;

/// Something worth a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning<'p> {
    /// The rule that it is about.
    pub rule: &'p Rule,
    /// What.
    pub about: About<'p>,
}

/// What is worth a look in a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About<'p> {
    /// It can tolerate something about so many entries of the manifest, a fifth or more.
    Swallows {
        /// Entries that it would decide on.
        entries: usize,
        /// Entries there are.
        of: usize,
    },
    /// It never decides: an earlier rule covers everything that it does.
    Shadowed {
        /// The earlier rule.
        by: &'p Rule,
    },
    /// It tolerates what runs code or grants rights.
    Sensitive {
        /// Its pattern.
        pattern: &'p Pattern,
        /// What lies there.
        place: &'static str,
    },
}

impl Policy {
    /// What a reviewer would miss, in the order of rules.
    ///
    /// Shadowed rules are found if one earlier rule covers each pattern of theirs by one of its own: every rule that is
    /// named never decides (sound), but one that only several rules together shadow is not named (not complete).
    /// Tolerance of sensitive places is found by whether the patterns have a path in common, which is exact, unless an
    /// earlier rule without restrictions decides on the whole place. Without a manifest nothing is counted.
    pub fn check(&self, manifest: Option<&Tree>) -> Vec<Warning<'_>> {
        let swallowed = manifest.map(|tree| (self.swallowed(tree), tree.len()));
        let mut places = Vec::new();
        for (place, patterns) in PLACES {
            places.extend(patterns.iter().filter_map(|text| Some((*place, text.parse::<Pattern>().ok()?))));
        }
        let mut warnings = Vec::new();
        for (at, rule) in self.rules.iter().enumerate() {
            let earlier = &self.rules[..at];
            let mut warn = |about| warnings.push(Warning { rule, about });
            if let Some(by) = earlier.iter().find(|earlier| shadows(earlier, rule)) {
                warn(About::Shadowed { by });
                continue;
            }
            if let Some((entries, of)) = swallowed.as_ref().map(|(swallowed, of)| (swallowed[at], *of))
                && entries > 0
                && entries * SWALLOWED >= of
            {
                warn(About::Swallows { entries, of });
            }
            if !grants(rule) {
                continue;
            }
            let decided = |place: &Pattern| {
                let whole = |earlier: &&Rule| unrestricted(earlier) && !earlier.tolerates();
                earlier.iter().filter(whole).any(|earlier| earlier.paths.iter().any(|path| path.covers(place)))
            };
            for pattern in &rule.paths {
                // A pattern that covers a place is worth one warning for each, and nothing is one twice.
                let met = places.iter().filter(|(_, place)| pattern.meets(place) && !decided(place));
                let mut said = None;
                for (place, _) in met {
                    if said.replace(*place) != Some(*place) {
                        warn(About::Sensitive { pattern, place });
                    }
                }
            }
        }
        warnings
    }

    /// For each rule, of how many entries it would tolerate a change or the absence.
    fn swallowed(&self, tree: &Tree) -> Vec<usize> {
        let mut counts = vec![0; self.rules.len()];
        for id in tree.iter() {
            let (path, file_type) = (tree.path(id), tree.node(id).file_type());
            let path: Vec<&[u8]> = path.components().collect();
            let decides = |change: Change| {
                self.index.first(&path, |at| {
                    let rule = &self.rules[at];
                    let of_type = rule.types.as_ref().is_none_or(|types| types.contains(&file_type));
                    let of_change = rule.changes.as_ref().is_none_or(|changes| changes.contains(&change));
                    // An alarm of some attributes leaves the others to the rules behind it.
                    of_type && of_change && !matches!(rule.allow, Allow::Nothing(Some(_)))
                })
            };
            let (changed, removed) = (decides(Change::Changed), decides(Change::Removed));
            for at in [changed, removed.filter(|_| removed != changed)].into_iter().flatten() {
                counts[at] += usize::from(self.rules[at].tolerates());
            }
        }
        counts
    }
}

/// Whether `later` never decides because of `earlier`.
fn shadows(earlier: &Rule, later: &Rule) -> bool {
    let all_paths = later.patterns().all(|path| earlier.patterns().any(|wider| wider.covers(path)));
    covers(earlier.changes.as_deref(), &changes(later))
        // Both types of a changed type must be of a tolerating rule, so that fewer of its drifts are covered: only if
        // the earlier one takes every type, or takes each that the later one takes, is nothing left.
        && match (&earlier.types, &later.types) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(earlier_types), Some(types)) => {
                types.iter().all(|file_type| earlier_types.contains(file_type))
                    && (later.tolerates() || !earlier.tolerates())
            }
        }
        && match (&earlier.allow, &later.allow) {
            (Allow::Nothing(Some(wider)), Allow::Nothing(Some(attributes))) => attributes.without(*wider).is_empty(),
            (Allow::Nothing(Some(_)), _) => false,
            _ => true,
        }
        && all_paths
}

fn changes(rule: &Rule) -> Vec<Change> {
    rule.changes.clone().unwrap_or_else(|| Change::ALL.to_vec())
}

fn covers<T: PartialEq>(wider: Option<&[T]>, values: &[T]) -> bool {
    wider.is_none_or(|wider| values.iter().all(|value| wider.contains(value)))
}

/// Whether it decides on every drift at its paths.
fn unrestricted(rule: &Rule) -> bool {
    covers(rule.changes.as_deref(), &Change::ALL)
        && covers(rule.types.as_deref(), &FileType::ALL)
        && !matches!(rule.allow, Allow::Nothing(Some(_)))
}

/// Whether what it tolerates can matter: not times alone.
fn grants(rule: &Rule) -> bool {
    match rule.allow {
        Allow::Nothing(_) => false,
        Allow::Attributes(attributes) => !attributes.without(Attributes::of(Attribute::Mtime)).is_empty(),
        Allow::Content | Allow::Append(_) | Allow::Absent | Allow::Any => true,
    }
}

impl fmt::Display for Warning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rule { id, allow, line, .. } = self.rule;
        write!(f, "{line}: rule {id} ")?;
        match &self.about {
            About::Swallows { entries, of } => {
                let percent = entries * 100 / (*of).max(1);
                write!(f, "tolerates changes of {entries} of {of} sealed paths ({percent} %): narrow its patterns")
            }
            About::Shadowed { by } => {
                write!(
                    f,
                    "never decides: rule {} on line {} covers all that it covers, and comes first",
                    by.id, by.line
                )
            }
            About::Sensitive { pattern, place } => {
                write!(f, "allows {} of {place}: {}", allow.name(), crate::path::Escaped(pattern.as_str().as_bytes()))
            }
        }
    }
}
