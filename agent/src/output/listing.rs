//! Owns which lines the form for people has: one for each finding, or for many of one kind, or for what a rule tolerates. Must
//! not own what a line says of a finding.

use std::collections::BTreeMap;
use std::fmt;

use driftlock_common::drift::Change;
use driftlock_common::manifest::SealedIn;
use driftlock_common::path::TreePath;
use driftlock_common::policy::Judged;

use super::fold::{Line, fold};
use super::text::{TOLERATED, details, drift_line, head, shown};

/// How many of each change; as text for example `2 added, 1 changed`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts([usize; Change::ALL.len()]);

/// All findings of a scan, a line for each or for many, then one for each rule that tolerates some. `all` is for a line for
/// each without exception.
pub(super) fn lines<'a>(
    findings: &'a [Judged<'a>],
    sealed_in: SealedIn<'a>,
    all: bool,
    colour: bool,
) -> Box<dyn Iterator<Item = String> + 'a> {
    if all {
        return Box::new(findings.iter().map(move |judged| drift_line(judged, sealed_in, colour)));
    }
    let lines = fold(findings.iter().filter(|judged| judged.is_alert()));
    let folded: Vec<usize> = lines.iter().map(Line::len).filter(|len| *len > 1).collect();
    let shown = lines.into_iter().map(move |line| match line {
        Line::One(judged) => drift_line(judged, sealed_in, colour),
        Line::Many(directory, these) => folded_line(&directory, &these, sealed_in, colour),
    });
    Box::new(shown.chain(tolerated_lines(findings)).chain(not_listed(findings, &folded)))
}

/// Many differences of one kind at and below a directory.
fn folded_line(directory: &TreePath, these: &[&Judged<'_>], sealed_in: SealedIn<'_>, colour: bool) -> String {
    let Some(first) = these.first() else { return String::new() };
    let (path, example) = (shown(&first.drift.path), details(first, sealed_in));
    let (head, directory) = (head(first, colour), shown(directory));
    format!("{head}  {directory}/  {} of them, for example {path}: {example}\n", these.len())
}

/// A line for each rule that tolerates something.
fn tolerated_lines(findings: &[Judged<'_>]) -> impl Iterator<Item = String> + use<> {
    let mut rules: BTreeMap<&str, (Counts, String)> = BTreeMap::new();
    for judged in findings.iter().filter(|judged| !judged.is_alert()) {
        let (Some(rule), Some(verdict)) = (judged.rule(), &judged.verdict) else { continue };
        let (counts, _) = rules.entry(&rule.id).or_insert_with(|| (Counts::default(), verdict.to_string()));
        counts.extend([judged.drift.change()]);
    }
    let line = |(rule, (counts, reason))| format!("{TOLERATED:<9}  {counts}; rule {rule}: {reason}\n");
    rules.into_iter().map(line).collect::<Vec<_>>().into_iter()
}

/// How many findings have no line of their own, and how they get one.
fn not_listed(findings: &[Judged<'_>], folded: &[usize]) -> Option<String> {
    let tolerated = findings.iter().filter(|judged| !judged.is_alert()).count();
    let mut what = Vec::new();
    if !folded.is_empty() {
        what.push(format!("{} in {} lines for many", folded.iter().sum::<usize>(), folded.len()));
    }
    if tolerated > 0 {
        what.push(format!("{tolerated} tolerated"));
    }
    (!what.is_empty()).then(|| format!("not listed    {}: --all lists each\n", what.join(", ")))
}

impl Extend<Change> for Counts {
    fn extend<I: IntoIterator<Item = Change>>(&mut self, changes: I) {
        for change in changes {
            let counts = Change::ALL.iter().zip(&mut self.0);
            counts.filter(|(known, _)| **known == change).for_each(|(_, count)| *count += 1);
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = Change::ALL.iter().zip(&self.0).filter(|(_, count)| **count > 0);
        f.write_str(&counts.map(|(change, count)| format!("{count} {change}")).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use driftlock_common::drift::{Delta, Drift};
    use driftlock_common::node::{Kind, Node};

    use super::super::sample;
    use super::*;

    #[test]
    fn many_of_one_kind_are_one_line_and_the_rest_is_counted() {
        let file = |path: String| {
            let delta = Delta::Added {
                observed: Node::bare(Kind::File { size: Some(1), content: None }),
                unverified: None,
                collapsed: None,
            };
            Judged::from(Drift { path: TreePath::new(path).unwrap(), delta })
        };
        let findings: Vec<Judged<'_>> = (10..33).map(|i| file(format!("a\n/{i}"))).chain([file("b".into())]).collect();
        let text = |all| lines(&findings, (&sample::header()).into(), all, false).collect::<String>();
        assert_eq!(
            text(false),
            "added         a\\x0a/  23 of them, for example a\\x0a/10: file of 1 bytes\n\
             added         b  file of 1 bytes\n\
             not listed    23 in 1 lines for many: --all lists each\n"
        );
        assert_eq!(text(true).lines().count(), 24);
    }
}
