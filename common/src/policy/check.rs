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
        // No rule matches the root, which comes first.
        for id in tree.iter().skip(1) {
            let (path, file_type) = (tree.path(id), tree.file_type(id));
            let path: Vec<&[u8]> = path.components().collect();
            let decides = |change: Change| {
                self.index.first(&self.rules, &path, |at| {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Kind, Node};
    use crate::path::TreePath;
    use crate::tree::Origin;

    /// Rules of `path | more keys`, with ids in order from `r0`.
    fn policy(rules: &[&str]) -> Policy {
        let mut text = String::from("version = 1\nname = 'p'\n");
        for (at, rule) in rules.iter().enumerate() {
            let (path, more) = rule.split_once('|').unwrap();
            text.push_str(
                &["[[rule]]\nid = 'r", &at.to_string(), "'\nreason = 'x'\npath = ", path, "\n", more, "\n"].concat(),
            );
        }
        Policy::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    fn said(policy: &Policy) -> Vec<String> {
        policy.check(None).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn shadowed_rules() {
        for (rules, shadowed) in [
            (vec!["'srv/**'|allow='any'", "'srv/a'|allow='nothing'"], vec![1]),
            (vec!["'srv/a'|allow='nothing'", "'srv/**'|allow='any'"], vec![]),
            (vec!["'srv/a'|allow='any'", "'srv/a'|allow='any'"], vec![1]),
            (vec!["'srv/**'|allow='any'\nchange='added'", "'srv/a'|allow='any'"], vec![]),
            (vec!["'srv/**'|allow='any'", "'srv/a'|allow='any'\nchange='added'"], vec![1]),
            (vec!["'srv/**'|allow='any'\ntype='file'", "'srv/a'|allow='nothing'\ntype='file'"], vec![]),
            (vec!["'srv/**'|allow='nothing'\ntype='file'", "'srv/a'|allow='any'\ntype='file'"], vec![1]),
            (vec!["'srv/**'|allow='nothing'\nattributes='mode'", "'srv/a'|allow='nothing'"], vec![]),
            (
                vec![
                    "'srv/**'|allow='nothing'\nattributes=['uid','mode']",
                    "'srv/a'|allow='nothing'\nattributes='mode'",
                ],
                vec![1],
            ),
            // Two rules together shadow the third: not found, as is said.
            (vec!["'srv/a'|allow='any'", "'srv/b'|allow='any'", "'srv/{a,b}'|allow='any'"], vec![]),
        ] {
            let policy = policy(&rules);
            let found: Vec<String> = policy
                .check(None)
                .iter()
                .filter(|warning| matches!(warning.about, About::Shadowed { .. }))
                .map(|warning| warning.rule.id.clone())
                .collect();
            let expected: Vec<String> = shadowed.iter().map(|at: &usize| format!("r{at}")).collect();
            assert_eq!(found, expected, "{rules:?}");
        }
    }

    #[test]
    fn tolerance_of_what_runs_code_or_grants_rights() {
        for (rule, place) in [
            ("'usr/bin/x'|allow='any'", Some("programs on PATH")),
            ("'**'|allow='content'\ntype='file'", Some("programs on PATH")),
            ("'usr/lib/**'|allow='any'", Some("libraries that the loader loads")),
            ("'etc/ld.so.preload'|allow='any'", Some("what the loader preloads and where it looks")),
            ("'etc/cron.d/*'|allow='any'", Some("cron and at")),
            ("'etc/sudoers.d/**'|allow='absent'", Some("who may become root")),
            ("'etc/systemd/system/*.service'|allow='any'", Some("units of systemd and init scripts")),
            ("'home/*/.ssh/authorized_keys'|allow='append'", Some("who may log in over ssh")),
            ("'root/**'|allow='any'", Some("who may log in over ssh")),
            ("'etc/pam.d/common-auth'|allow='content'", Some("authentication")),
            ("'etc/shadow'|allow='attributes'\nattributes='mode'", Some("accounts, passwords and groups")),
            ("'usr/bin/x'|allow='attributes'\nattributes='mtime'", None),
            ("'usr/bin/x'|allow='nothing'", None),
            ("'var/log/*.log'|allow='append'", None),
            ("'etc/hostname'|allow='content'", None),
        ] {
            let policy = policy(&[rule]);
            let warnings = policy.check(None);
            let first = warnings.iter().find_map(|warning| {
                if let About::Sensitive { place, .. } = warning.about { Some(place) } else { None }
            });
            assert_eq!(first, place, "{rule}");
        }
        // What an earlier alarm decides on is not tolerated behind it.
        let before =
            policy(&["'etc/sudoers'|allow='nothing'", "'etc/sudoers.d/**'|allow='nothing'", "'etc/sudo*'|allow='any'"]);
        assert!(!said(&before).iter().any(|line| line.contains("root")), "{:#?}", said(&before));
        let partly = policy(&["'etc/sudoers'|allow='nothing'\nchange='added'", "'etc/sudoers'|allow='any'"]);
        assert!(said(&partly)[0].contains("allows any of who may become root: etc/sudoers"), "{:#?}", said(&partly));
    }

    #[test]
    fn every_place_is_made_of_patterns() {
        for (place, patterns) in PLACES {
            patterns.iter().for_each(|text| assert!(text.parse::<Pattern>().is_ok(), "{place}: {text}"));
        }
    }

    #[test]
    fn rules_that_swallow_a_fifth() {
        let file = || Node::bare(Kind::File { size: None, content: None });
        let entries = ["a", "b", "c", "d", "d/e", "d/f", "d/g", "d/h", "d/i", "z"].map(|path| {
            let node = if path == "d" { Node::implicit_directory() } else { file() };
            (TreePath::new(path).unwrap(), node, Origin::default())
        });
        let tree = Tree::from_sorted(entries).unwrap();
        let count = |rules: &[&str]| -> Vec<String> {
            let policy = policy(rules);
            let warnings = policy.check(Some(&tree));
            let swallowing = warnings.iter().filter(|warning| matches!(warning.about, About::Swallows { .. }));
            swallowing.map(ToString::to_string).collect()
        };
        let tolerates = |line: usize, id: &str, share: &str| {
            format!("{line}: rule {id} tolerates changes of {share}: narrow its patterns")
        };
        assert_eq!(count(&["'d/**'|allow='any'"]), [tolerates(3, "r0", "5 of 10 sealed paths (50 %)")]);
        assert_eq!(count(&["'d/{e,f}'|allow='absent'"]), [tolerates(3, "r0", "2 of 10 sealed paths (20 %)")]);
        assert_eq!(count(&["'d/e'|allow='any'"]), [""; 0]);
        assert_eq!(count(&["'d/**'|allow='nothing'"]), [""; 0]);
        assert_eq!(count(&["'d/**'|allow='any'\ntype='directory'"]), [""; 0]);
        assert_eq!(count(&["'d/{e,f,g,h}'|allow='nothing'", "'d/**'|allow='any'"]), [""; 0]);
    }
}
