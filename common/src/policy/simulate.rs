//! Owns what another policy would have said of what was found: both are asked, and what they say is counted and compared.
//! Must not own where findings come from, or how the answer is shown.
//!
//! What an `append` rule says of a file that did not only appear depends on what became of its bytes, which no finding
//! holds. If the finding was judged by the same rule, that answer holds; else it is *not known without the file*, which
//! is counted and listed as such and never as silent.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::rotation::{Cut, Fate, Rotated};
use super::{Allow, Cause, Context, Moment, Policy, Rule, Ruling, Severity, Verdict};
use crate::drift::{Attribute, Attributes, Change, Drift};
use crate::finding::{Contradiction, Finding};

/// The most findings that are listed of each severity of a list, alike ones once. Others are counted.
pub const MAX_LISTED: usize = 10_000;
/// The most bytes of names and paths that are kept for each severity of a list.
pub const MAX_LISTED_BYTES: usize = 16 * 1024 * 1024;

/// Two policies, and what they said so far.
#[derive(Debug)]
pub struct Simulation<'p> {
    /// `None`: everything is an alert.
    before: Option<&'p Policy>,
    after: &'p Policy,
    /// What the `append` rules in force allow, by their ids.
    growing: HashMap<&'p str, &'p Allow>,
    /// How many findings were judged.
    replayed: u64,
    /// How many are alerts of another severity: quieter, louder.
    moved: [u64; 2],
    rules: HashMap<Option<&'p str>, Shift>,
    silent: List,
    unknown: List,
    loud: List,
}

/// A finding, and where it is from as far as that is known.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// What was found.
    pub finding: &'a Finding,
    /// The host; empty if not known.
    pub host: &'a str,
    /// The target; empty if not known.
    pub target: &'a str,
}

/// How many findings a rule decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Tally {
    /// Alerts.
    pub alerts: u64,
    /// Tolerated.
    pub tolerated: u64,
    /// Alerts, unless the file only grew or was rotated.
    pub unknown: u64,
}

/// What a rule said under both policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Shift {
    /// Under the one in force.
    pub before: Tally,
    /// Under the other one.
    pub after: Tally,
}

/// A finding of a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Listed {
    /// Empty if not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// Empty if not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// As in the finding: exact, or for display if its bytes stand beside it.
    pub path: String,
    /// As in the finding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<String>,
    /// What kind of difference.
    pub change: Change,
    /// What differs, as words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<&'static str>,
    /// The rule that decides now; `None`: none does.
    pub rule: Option<String>,
}

/// Findings of one kind, apart by severity. Memory is bounded by [`MAX_LISTED`] and [`MAX_LISTED_BYTES`].
#[derive(Clone, Debug, Default)]
pub struct List {
    parts: [Part; Severity::ALL.len()],
}

#[derive(Clone, Debug, Default)]
struct Part {
    count: u64,
    bytes: usize,
    listed: HashMap<Listed, u64>,
}

/// What a policy says without the file.
#[derive(Clone, Copy)]
enum Said {
    Alert(Severity),
    Unknown(Severity),
    Tolerated,
}

// === impl Simulation ===

impl<'p> Simulation<'p> {
    /// Of `after` in the place of `before`, which is the policy in force; without one everything is an alert.
    pub fn new(before: Option<&'p Policy>, after: &'p Policy) -> Self {
        let rules = before.map_or(&[][..], Policy::rules).iter();
        let growing = rules.filter(|rule| matches!(rule.allow, Allow::Append(_)));
        Self {
            before,
            after,
            growing: growing.map(|rule| (rule.id.as_str(), &rule.allow)).collect(),
            replayed: 0,
            moved: [0; 2],
            rules: HashMap::new(),
            silent: List::default(),
            unknown: List::default(),
            loud: List::default(),
        }
    }

    /// Asks both policies about a finding.
    ///
    /// # Errors
    /// If the finding contradicts itself; then it is not counted.
    pub fn replay(&mut self, found: Found<'_>) -> Result<(), Contradiction> {
        let drift = found.finding.drift()?;
        self.replayed += 1;
        let (old_rule, before) = match self.before {
            Some(policy) => self.say(policy, found.finding, &drift),
            None => (None, Said::Alert(Severity::default())),
        };
        let (rule, after) = self.say(self.after, found.finding, &drift);
        self.rules.entry(old_rule.map(|rule| rule.id.as_str())).or_default().before.count(before);
        self.rules.entry(rule.map(|rule| rule.id.as_str())).or_default().after.count(after);
        let listed = || Listed::new(found, rule);
        match (before, after) {
            (Said::Alert(severity) | Said::Unknown(severity), Said::Tolerated) => self.silent.add(severity, listed()),
            (Said::Alert(severity), Said::Unknown(_)) | (Said::Tolerated, Said::Unknown(severity)) => {
                self.unknown.add(severity, listed());
            }
            (Said::Tolerated, Said::Alert(severity)) => self.loud.add(severity, listed()),
            (Said::Alert(old) | Said::Unknown(old), Said::Alert(new)) | (Said::Unknown(old), Said::Unknown(new)) => {
                self.moved[0] += u64::from(new < old);
                self.moved[1] += u64::from(new > old);
            }
            (Said::Tolerated, Said::Tolerated) => {}
        }
        Ok(())
    }

    fn say(&self, policy: &'p Policy, finding: &Finding, drift: &Drift) -> (Option<&'p Rule>, Said) {
        let ask = |fate| policy.judge(drift, &Context { fate }, Moment::default());
        let rotated = || ask(Some(Fate::Rotated(Rotated::OldestGone)));
        let verdict = ask(None);
        let rule = verdict.rule();
        let verdict = match (rule.and_then(|rule| self.told(rule, finding)), verdict) {
            (Some(Ruling::Tolerated), Verdict::Alert { .. }) => rotated(),
            (Some(Ruling::Alert), Verdict::Tolerated { .. }) => ask(Some(Fate::Cut(Cut::Rewritten))),
            (None, Verdict::Alert { severity, cause: Cause::NotGrown | Cause::Cut, .. }) if !rotated().is_alert() => {
                return (rule, Said::Unknown(severity));
            }
            (_, verdict) => verdict,
        };
        (rule, verdict.severity().map_or(Said::Tolerated, Said::Alert))
    }

    /// What was said of the finding when it was made, if that depended on the file as `rule` does: it was said by the same
    /// rule of the policy in force.
    fn told(&self, rule: &Rule, finding: &Finding) -> Option<Ruling> {
        let same = finding.rule.as_ref() == Some(&rule.id) && self.growing.get(rule.id.as_str()) == Some(&&rule.allow);
        if same { finding.verdict } else { None }
    }

    /// How many findings were judged.
    pub const fn replayed(&self) -> u64 {
        self.replayed
    }

    /// How many are alerts before and after, but quieter or louder ones.
    pub const fn moved(&self) -> [u64; 2] {
        self.moved
    }

    /// What each rule said that said anything: in the order of the new policy, then those that only the old one has, then
    /// what no rule decided.
    pub fn rules(&self) -> Vec<(Option<&'p str>, Shift)> {
        let ids = |policy: &'p Policy| policy.rules().iter().map(|rule| rule.id.as_str());
        let new: HashSet<&str> = ids(self.after).collect();
        let old = self.before.into_iter().flat_map(ids).filter(|id| !new.contains(id));
        let all = ids(self.after).chain(old).map(Some).chain([None]);
        all.filter_map(|id| Some((id, *self.rules.get(&id)?))).collect()
    }

    /// The rules of the new policy that decided nothing, in order.
    pub fn never_hit(&self) -> Vec<&'p str> {
        let is_hit = |id: &str| self.rules.get(&Some(id)).is_some_and(|shift| shift.after != Tally::default());
        self.after.rules().iter().map(|rule| rule.id.as_str()).filter(|id| !is_hit(id)).collect()
    }

    /// What fell silent, by the severity that it had. What was not known before is in it too.
    pub const fn silent(&self) -> &List {
        &self.silent
    }

    /// What may fall silent or become loud, which is not known without the file: by the severity that it had, or has now.
    pub const fn unknown(&self) -> &List {
        &self.unknown
    }

    /// What became loud, by the severity that it has now.
    pub const fn loud(&self) -> &List {
        &self.loud
    }
}

// === impl Tally ===

impl Tally {
    const fn count(&mut self, said: Said) {
        match said {
            Said::Alert(_) => self.alerts += 1,
            Said::Unknown(_) => self.unknown += 1,
            Said::Tolerated => self.tolerated += 1,
        }
    }
}

// === impl Listed ===

impl Listed {
    fn new(found: Found<'_>, rule: Option<&Rule>) -> Self {
        let Found { finding, host, target } = found;
        Self {
            host: host.to_owned(),
            target: target.to_owned(),
            path: finding.path.clone(),
            path_b64: finding.path_b64.clone(),
            change: finding.change,
            attributes: words(finding.attributes),
            rule: rule.map(|rule| rule.id.clone()),
        }
    }

    fn bytes(&self) -> usize {
        let beside = self.path_b64.as_ref().map_or(0, String::len);
        self.host.len() + self.target.len() + self.path.len() + beside
    }
}

fn words(attributes: Attributes) -> Vec<&'static str> {
    attributes.iter().map(Attribute::name).collect()
}

// === impl List ===

impl List {
    fn add(&mut self, severity: Severity, listed: Listed) {
        let part = &mut self.parts[severity as usize];
        part.count += 1;
        let bytes = listed.bytes();
        let has_room = part.listed.len() < MAX_LISTED && part.bytes + bytes <= MAX_LISTED_BYTES;
        match part.listed.entry(listed) {
            Entry::Occupied(mut alike) => *alike.get_mut() += 1,
            Entry::Vacant(place) if has_room => {
                place.insert(1);
                part.bytes += bytes;
            }
            Entry::Vacant(_) => {}
        }
    }

    /// How many findings.
    pub fn count(&self) -> u64 {
        self.parts.iter().map(|part| part.count).sum()
    }

    /// How many findings of this severity.
    pub const fn count_of(&self, severity: Severity) -> u64 {
        self.parts[severity as usize].count
    }

    /// Those of this severity that are listed, each with how many are alike: by host, target and path.
    pub fn listed(&self, severity: Severity) -> Vec<(&Listed, u64)> {
        let mut listed: Vec<_> =
            self.parts[severity as usize].listed.iter().map(|(listed, count)| (listed, *count)).collect();
        listed.sort_unstable();
        listed
    }

    /// How many of this severity are not listed.
    pub fn more(&self, severity: Severity) -> u64 {
        let part = &self.parts[severity as usize];
        part.count - part.listed.values().sum::<u64>()
    }
}
