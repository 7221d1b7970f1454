//! Owns finding the rules whose patterns match a path, without asking every rule. Must not own what a rule says.
//!
//! A pattern lies in a tree of names at the end of its components without stars: only those on the way of a path can match
//! it. There it lies by a name that the path must have behind that place, or by the extension that its name must have, so
//! that only what holds neither is asked always.

use std::collections::HashMap;

use super::Rule;

#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    root: Place,
}

#[derive(Clone, Debug, Default)]
struct Place {
    below: HashMap<Box<[u8]>, Self>,
    here: Vec<Filed>,
    named: HashMap<Box<[u8]>, Vec<Filed>>,
    extensions: HashMap<Box<[u8]>, Vec<Filed>>,
}

/// The place of a rule in the policy, and that of one of its patterns. Lists of them are in the order of rules.
#[derive(Clone, Copy, Debug)]
struct Filed {
    rule: usize,
    pattern: usize,
}

impl Index {
    pub(super) fn new(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        let all = rules.iter().enumerate().flat_map(|(rule, of)| of.patterns().enumerate().map(move |at| (rule, at)));
        for (rule, (at, pattern)) in all {
            let place = pattern
                .literal_prefix()
                .fold(&mut index.root, |place, name| place.below.entry(name.into()).or_default());
            let list = if let Some(name) = pattern.literal_behind() {
                place.named.entry(name.into()).or_default()
            } else if let Some(extension) = pattern.suffix().and_then(extension) {
                place.extensions.entry(extension.into()).or_default()
            } else {
                &mut place.here
            };
            list.push(Filed { rule, pattern: at });
        }
        index
    }

    /// The first of the rules that it was made of, in order, that has a pattern which matches and that `covers` the rest.
    pub(super) fn first(&self, rules: &[Rule], path: &[&[u8]], mut covers: impl FnMut(usize) -> bool) -> Option<usize> {
        let mut best: Option<usize> = None;
        let mut ask = |list: &[Filed]| {
            for Filed { rule, pattern } in list {
                if best.is_some_and(|best| *rule >= best) {
                    break;
                }
                if rules[*rule].pattern(*pattern).matches_split(path) && covers(*rule) {
                    best = Some(*rule);
                }
            }
        };
        let last = path.last().and_then(|name| extension(name));
        let mut place = Some(&self.root);
        let mut names = path;
        while let Some(here) = place {
            ask(&here.here);
            if !here.named.is_empty() {
                names.iter().filter_map(|name| here.named.get(*name)).for_each(|list| ask(list));
            }
            if let Some(list) = last.filter(|_| !here.extensions.is_empty()).and_then(|last| here.extensions.get(last))
            {
                ask(list);
            }
            let Some((name, behind)) = names.split_first() else { break };
            place = here.below.get(*name);
            names = behind;
        }
        best
    }
}

/// What is behind the last dot. Of a name that ends in a text with a dot it is what it is of the text.
fn extension(name: &[u8]) -> Option<&[u8]> {
    name.iter().rposition(|byte| *byte == b'.').map(|dot| &name[dot + 1..])
}

#[cfg(test)]
mod tests {
    use super::super::Policy;
    use crate::path::TreePath;

    /// Every path of up to four of these names, asked of the index and of every rule.
    #[test]
    fn no_pattern_is_passed_over() {
        const NAMES: [&str; 7] = ["a", "b", "c.log", "d.log.1", ".log", "log", "e."];
        const PATTERNS: [&str; 24] = [
            "a",
            "**",
            "a/**",
            "**/a",
            "**/a/**",
            "*/a",
            "*/*",
            "**/*.log",
            "*.log",
            "a/*.log",
            "a/**/*.log",
            "**/a/*.1",
            "**/c.log",
            "*.log.1",
            "**/*.",
            "**/.*",
            "a/*/b",
            "a/**/b/**",
            "*a",
            "**/*log",
            "b/*/c.log/*",
            "b/**/a/b",
            "**/b/**/a",
            "**/*.log/**",
        ];
        let rule = |at: usize| {
            let pattern = PATTERNS[at];
            format!("[[rule]]\nid = 'r{at}'\npath = '{pattern}'\nallow = 'any'\nreason = 'x'\n")
        };
        // In both orders: what comes first hides what comes later.
        let orders: [Vec<usize>; 2] = [(0..PATTERNS.len()).collect(), (0..PATTERNS.len()).rev().collect()];
        let mut found = 0;
        for order in orders {
            let rules: String = order.iter().map(|at| rule(*at)).collect();
            let policy = Policy::parse(format!("version = 1\nname = 'p'\n{rules}").as_bytes()).unwrap();
            let mut paths = vec![String::new()];
            for depth in 0..4 {
                let longer = |path: &String| {
                    NAMES.map(|name| if depth == 0 { name.to_owned() } else { format!("{path}/{name}") })
                };
                paths = paths.iter().flat_map(longer).collect();
                for text in &paths {
                    let path = TreePath::new(text.as_str()).unwrap();
                    let split: Vec<&[u8]> = path.components().collect();
                    let matches = |at: &usize| policy.rules()[*at].paths.iter().any(|pattern| pattern.matches(&path));
                    let matching: Vec<usize> = (0..order.len()).filter(matches).collect();
                    // Each that matches for itself too: as if none before it covered.
                    for from in [0].into_iter().chain(matching.iter().map(|rule| rule + 1)) {
                        let plain = matching.iter().copied().find(|rule| *rule >= from);
                        assert_eq!(
                            policy.index.first(policy.rules(), &split, |rule| rule >= from),
                            plain,
                            "{text} from {from}"
                        );
                        found += usize::from(plain.is_some());
                    }
                }
            }
        }
        assert!(found > 10_000, "{found}");
    }
}
