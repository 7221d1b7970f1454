//! Owns finding the rules whose patterns match a path, without asking every rule. Must not own what a rule says.
//!
//! A pattern lies in a tree of names at the end of its components without stars: only those on the way of a path can match
//! it. What begins with a star lies at the root and is asked always.

use std::collections::HashMap;

use super::Rule;
use crate::pattern::Pattern;

#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    root: Place,
}

#[derive(Clone, Debug, Default)]
struct Place {
    below: HashMap<Box<[u8]>, Self>,
    /// In the order of rules.
    here: Vec<Filed>,
}

/// A pattern, and the place of its rule in the policy.
#[derive(Clone, Debug)]
struct Filed {
    rule: usize,
    pattern: Pattern,
}

impl Index {
    pub(super) fn new(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (rule, pattern) in rules.iter().enumerate().flat_map(|(at, rule)| rule.patterns().map(move |p| (at, p))) {
            let place = pattern
                .literal_prefix()
                .fold(&mut index.root, |place, name| place.below.entry(name.into()).or_default());
            place.here.push(Filed { rule, pattern: pattern.clone() });
        }
        index
    }

    /// The first rule, in order, that has a pattern which matches and that `covers` the rest.
    pub(super) fn first(&self, path: &[&[u8]], mut covers: impl FnMut(usize) -> bool) -> Option<usize> {
        let mut best: Option<usize> = None;
        let mut place = Some(&self.root);
        let mut names = path.iter();
        while let Some(here) = place {
            for Filed { rule, pattern } in &here.here {
                if best.is_some_and(|best| *rule >= best) {
                    break;
                }
                if pattern.matches_split(path) && covers(*rule) {
                    best = Some(*rule);
                }
            }
            place = names.next().and_then(|name| here.below.get(*name));
        }
        best
    }
}
