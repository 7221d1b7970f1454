//! Owns how a simulation is told, to people and as JSON. Must not own what it found.

use std::fmt::Write as _;

use driftlock_common::finding::PolicyView;
use driftlock_common::path::Escaped;
use driftlock_common::policy::simulate::{List, Listed, Shift, Simulation};
use driftlock_common::policy::{Policy, Severity};
use serde::Serialize;

use super::super::answer;
use crate::failure::Failure;
use crate::history::Gone;
use crate::output::Output;

/// What is told.
pub(super) struct Report<'a> {
    pub(super) before: Option<&'a Policy>,
    pub(super) after: &'a Policy,
    pub(super) simulation: &'a Simulation<'a>,
    pub(super) gone: &'a Gone,
    /// Whether too much fell silent.
    pub(super) fails: bool,
}

/// The JSON: keys are added, never changed.
#[derive(Serialize)]
struct Whole<'a> {
    policy: PolicyView,
    against: Option<PolicyView>,
    replayed: u64,
    rules: Vec<RuleView<'a>>,
    newly_silent: ListView<'a>,
    unknown: ListView<'a>,
    newly_loud: ListView<'a>,
    quieter: u64,
    louder: u64,
    never_hit: Vec<&'a str>,
    without_finding: u64,
    unreadable: u64,
    why_unreadable: &'a [String],
    fails: bool,
}

#[derive(Serialize)]
struct RuleView<'a> {
    rule: Option<&'a str>,
    #[serde(flatten)]
    shift: Shift,
}

#[derive(Serialize)]
struct ListView<'a> {
    count: u64,
    findings: Vec<FindingView<'a>>,
    more: u64,
}

#[derive(Serialize)]
struct FindingView<'a> {
    severity: Severity,
    #[serde(flatten)]
    listed: &'a Listed,
    count: u64,
}

impl Report<'_> {
    /// For people.
    pub(super) fn text(&self) -> Result<(), Failure> {
        let Self { simulation, gone, .. } = self;
        let mut text = String::new();
        // Writing to a string cannot fail.
        let mut line = |word: &str, rest: &str| {
            let _infallible = writeln!(text, "{word:<13} {rest}");
        };
        let named = |policy: &Policy| format!("{}, {}", policy.name(), policy.digest());
        line("policy", &named(self.after));
        line("against", &self.before.map_or_else(|| "nothing: everything was an alert".to_owned(), named));
        line("replayed", &format!("{} findings", simulation.replayed()));
        table(&mut text, &simulation.rules());
        list(&mut text, "newly silent", "", simulation.silent());
        list(&mut text, "not known", " without the file: whether it only grew or was rotated", simulation.unknown());
        list(&mut text, "newly loud", "", simulation.loud());
        let mut line = |word: &str, rest: &str| {
            let _infallible = writeln!(text, "{word:<13} {rest}");
        };
        let [quieter, louder] = simulation.moved();
        if quieter + louder > 0 {
            line("severity", &format!("{quieter} alerts quieter, {louder} louder"));
        }
        let never = simulation.never_hit();
        if !never.is_empty() {
            line("never hit", &never.join(", "));
        }
        if gone.unreadable > 0 {
            line("not read", &format!("{}: what it would say is not known", gone.unreadable));
            gone.said.iter().for_each(|why| line("", why));
        }
        if self.fails {
            line("fails", "more fell silent than may");
        }
        answer(&text)
    }

    /// One object.
    pub(super) fn json(&self) -> Result<(), Failure> {
        let Self { simulation, gone, .. } = self;
        let rules = simulation.rules().into_iter().map(|(rule, shift)| RuleView { rule, shift });
        let [quieter, louder] = simulation.moved();
        let whole = Whole {
            policy: self.after.into(),
            against: self.before.map(Into::into),
            replayed: simulation.replayed(),
            rules: rules.collect(),
            newly_silent: ListView::new(simulation.silent()),
            unknown: ListView::new(simulation.unknown()),
            newly_loud: ListView::new(simulation.loud()),
            quieter,
            louder,
            never_hit: simulation.never_hit(),
            without_finding: gone.passed,
            unreadable: gone.unreadable,
            why_unreadable: &gone.said,
            fails: self.fails,
        };
        let mut stdout = Output::stdout();
        stdout.write(&crate::output::to_json(&whole))?;
        stdout.write(b"\n")?;
        stdout.finish()?;
        Ok(())
    }
}

fn table(text: &mut String, rules: &[(Option<&str>, Shift)]) {
    if rules.is_empty() {
        return;
    }
    let width = rules.iter().filter_map(|(rule, _)| rule.map(str::len)).max().unwrap_or(0).max(13);
    let _infallible = writeln!(text, "{:width$}{:>21}{:>21}{:>21}", "", "alerts", "tolerated", "not known");
    let _infallible = writeln!(text, "{:width$}{}", "rule", format!("  {:>9} {:>9}", "before", "after").repeat(3));
    for (rule, Shift { before, after }) in rules {
        let _infallible = write!(text, "{:width$}", rule.unwrap_or("no rule"));
        let pairs =
            [(before.alerts, after.alerts), (before.tolerated, after.tolerated), (before.unknown, after.unknown)];
        for (before, after) in pairs {
            let _infallible = write!(text, "  {before:>9} {after:>9}");
        }
        text.push('\n');
    }
}

fn list(text: &mut String, word: &str, what: &str, list: &List) {
    if list.count() == 0 && word != "newly silent" {
        return;
    }
    let _infallible = writeln!(text, "{word:<13} {}{what}", list.count());
    for severity in Severity::ALL.into_iter().rev() {
        for (listed, count) in list.listed(severity) {
            let _infallible = write!(text, "  {:<11} {}", severity.name(), place(listed));
            let _infallible = write!(text, "  {}", listed.change);
            if !listed.attributes.is_empty() {
                let _infallible = write!(text, " {}", listed.attributes.join(", "));
            }
            let _infallible = write!(text, ", by {}", listed.rule.as_deref().map_or("no rule", |rule| rule));
            if count > 1 {
                let _infallible = write!(text, ", {count} times");
            }
            text.push('\n');
        }
        if list.more(severity) > 0 {
            let _infallible = writeln!(text, "  {:<11} and {} more", severity.name(), list.more(severity));
        }
    }
}

/// Host and target as far as they are known, and the path.
fn place(listed: &Listed) -> String {
    let path = if listed.path_b64.is_some() { listed.path.clone() } else { shown(&listed.path) };
    let path = if path.is_empty() { ".".to_owned() } else { path };
    let known = [&listed.host, &listed.target].into_iter().filter(|name| !name.is_empty());
    known.map(|name| format!("{} ", shown(name))).chain([path]).collect()
}

fn shown(text: &str) -> String {
    Escaped(text.as_bytes()).to_string()
}

impl<'a> ListView<'a> {
    fn new(list: &'a List) -> Self {
        let severities = Severity::ALL.into_iter().rev();
        let of = |severity| {
            list.listed(severity).into_iter().map(move |(listed, count)| FindingView { severity, listed, count })
        };
        let more = Severity::ALL.into_iter().map(|severity| list.more(severity)).sum();
        Self { count: list.count(), findings: severities.flat_map(of).collect(), more }
    }
}
