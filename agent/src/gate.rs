//! Owns which differences fail a comparison: all of them, or those that `--fail-on` names. Must not own finding or
//! showing them.
//!
//! What could not be verified fails always: a gap is never clean, so there is no word that takes it away.

use driftlock_common::drift::Change;
use driftlock_common::finding::Summary;
use driftlock_common::path::Escaped;
use driftlock_common::policy::Judged;

/// What fails. The default is every change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Gate {
    /// Bits of the changes that were named; `None` is all of them.
    named: Option<u8>,
}

/// Why a text names no changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// Not one of the words.
    #[error("--fail-on: \"{0}\" is no change; write one or more of {words}, with commas between them", words = words())]
    Unknown(String),
    /// Nothing named.
    #[error("--fail-on names no change; write one or more of {words}, with commas between them", words = words())]
    Empty,
}

impl Gate {
    /// Reads a list such as `removed,changed`. `unverifiable` may be named, and counts whether it is or not: alone, only
    /// what could not be verified fails.
    ///
    /// # Errors
    /// If a word is no change, or there is none.
    pub fn parse(list: &str) -> Result<Self, GateError> {
        if list.is_empty() {
            return Err(GateError::Empty);
        }
        let mut bits = Change::Unverifiable as u8;
        for word in list.split(',') {
            let change = Change::of_name(word);
            bits |= change.ok_or_else(|| GateError::Unknown(Escaped(word.as_bytes()).to_string()))? as u8;
        }
        Ok(Self { named: Some(bits) })
    }

    /// Whether a change fails.
    pub const fn fails_on(self, change: Change) -> bool {
        self.exit(change as u8) != 0
    }

    /// Whether a difference fails, for itself or for what of it could not be verified. What a policy tolerates does not.
    pub const fn fails(self, judged: &Judged<'_>) -> bool {
        self.exit(judged.exit_bits()) != 0
    }

    /// The exit code for what was found: its bits without those that do not fail.
    pub const fn exit(self, found: u8) -> u8 {
        match self.named {
            Some(bits) => found & bits,
            None => found,
        }
    }

    /// The changes that fail, if they were named; what could not be verified is among them.
    pub fn named(self) -> Vec<Change> {
        let all = if self.named.is_some() { &Change::ALL[..] } else { &[] };
        all.iter().copied().filter(|change| self.fails_on(*change)).collect()
    }
}

/// The differences of a result that were found and are not named, with how many paths they concern.
pub fn not_named(summary: &Summary) -> Vec<(Change, u64)> {
    let counts =
        [(Change::Added, summary.added), (Change::Removed, summary.removed), (Change::Changed, summary.changed)];
    let fails = |change: &Change| summary.fail_on.is_empty() || summary.fail_on.contains(change);
    counts.into_iter().filter(|(change, count)| *count > 0 && !fails(change)).collect()
}

fn words() -> String {
    Change::ALL.map(Change::name).join(", ")
}

#[cfg(test)]
mod tests {
    use driftlock_common::drift::{Attribute, Attributes, Delta, Drift, Unverified};
    use driftlock_common::gap::Reason;
    use driftlock_common::node::Node;
    use driftlock_common::path::TreePath;

    use super::*;

    #[test]
    fn only_named_bits_are_left_and_the_gap_always_is() {
        for (list, codes) in [
            ("added", [1, 0, 0, 8]),
            ("removed,changed", [0, 2, 4, 8]),
            ("unverifiable", [0, 0, 0, 8]),
            ("added,added", [1, 0, 0, 8]),
            ("added,removed,changed,unverifiable", [1, 2, 4, 8]),
        ] {
            let gate = Gate::parse(list).unwrap();
            assert_eq!(Change::ALL.map(|change| gate.exit(change as u8)), codes, "{list}");
            assert!(gate.named().contains(&Change::Unverifiable));
        }
        assert_eq!((0..16).map(|bits| Gate::default().exit(bits)).collect::<Vec<_>>(), (0..16).collect::<Vec<_>>());
        assert!(Gate::default().named().is_empty());
    }

    #[test]
    fn a_difference_that_is_not_named_fails_for_its_gap() {
        let added = |unverified| Drift {
            path: TreePath::new("new").unwrap(),
            delta: Delta::Added { observed: Node::implicit_directory(), unverified, collapsed: None },
        };
        let denied = Unverified { attributes: Attributes::of(Attribute::Content), reason: Reason::Denied };
        let gate = Gate::parse("removed").unwrap();
        assert!(!gate.fails(&added(None).into()));
        assert!(gate.fails(&added(Some(denied)).into()));
    }

    #[test]
    fn what_names_no_change_is_refused_with_the_words() {
        for list in ["", ",", "added,", "added removed", "Added", "a\x1b[31m", "content"] {
            let error = Gate::parse(list).unwrap_err().to_string();
            assert!(error.contains("added, removed, changed, unverifiable"), "{error}");
            assert!(!error.contains('\x1b'), "{error}");
        }
    }
}
