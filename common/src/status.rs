//! Owns the JSON of what an agent says of itself on its own host: what it watches, how well, what is open, what it is doing.
//! Must not own how any of it is established. The shape is a promise: keys are added, never changed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::coverage::Coverage;
use crate::event::{ConditionBody, Running};
use crate::finding::{Finding, ManifestView, PolicyView, is_zero};
use crate::policy::Severity;

/// An agent at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The agent itself.
    pub agent: AgentStatus,
    /// What is wrong with the whole agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<ConditionBody>,
    /// What it watches, by name.
    pub targets: Vec<TargetStatus>,
}

/// The agent itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Its version.
    pub version: String,
    /// The host's id.
    pub host: String,
    /// The host's name, for people.
    pub name: String,
    /// Another one each time it starts.
    pub run: String,
    /// What runs, since when; absent while it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Running>,
    /// The way to the collector; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collector: Option<CollectorStatus>,
}

/// The way to the collector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectorStatus {
    /// Where it is.
    pub endpoint: String,
    /// RFC 3339: until when the certificate is good with which the host reports; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_until: Option<String>,
    /// Events that it has not acknowledged yet.
    pub undelivered: u64,
    /// RFC 3339: when it last answered as it should; absent before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_answer: Option<String>,
}

/// A target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// Its name.
    pub target: String,
    /// Its root, escaped.
    pub root: String,
    /// What it is compared with; absent while no manifest was ever accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<ManifestView>,
    /// What may change there; absent if nothing may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyView>,
    /// What the agent can vouch for.
    pub coverage: Coverage,
    /// What is open.
    pub open: Open,
    /// What is wrong with the watching of this target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<ConditionBody>,
    /// What the agent is doing about it now.
    pub activity: Activity,
    /// By when a change is found at the latest.
    pub bounds: Bounds,
    /// Complete looks that began since the agent started.
    pub looks: u64,
    /// The last complete look that came to its end; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_look: Option<Look>,
}

/// The open findings of a target in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Open {
    /// Alerts by the word of their severity.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub alerts: BTreeMap<String, u64>,
    /// What the policy tolerates.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tolerated: u64,
    /// The sum of 1 (added), 2 (removed), 4 (changed), 8 (not verified) over the alerts, as `scan` ends.
    pub exit: u8,
}

/// A complete look at a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Its number: the first one since the agent started is 1.
    pub number: u64,
    /// RFC 3339: when it came to its end.
    pub ended: String,
    /// Milliseconds that it took.
    pub duration_ms: u64,
    /// What it compared with.
    pub manifest: ManifestView,
    /// Whether everything in scope was established.
    pub complete: bool,
}

/// What the agent is doing about a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// What.
    pub doing: Doing,
    /// RFC 3339: since when, of what has a beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// RFC 3339: when the next complete look is due, unless one is under way or nothing can be looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_sweep: Option<String>,
}

/// What the agent is doing about a target. A closed table: the words are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    /// Nothing was ever accepted to compare with.
    NoManifest,
    /// The process of its root is not there.
    Away,
    /// It sets up the watching.
    Arming,
    /// It looks at everything.
    Sweeping,
    /// It looks at what may have changed.
    Looking,
    /// It waits for a change, or for the next complete look.
    Watching,
}

/// By when a change is found at the latest, in seconds, unless the host is overloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// What the watching sees; absent if nothing is watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_s: Option<u64>,
    /// What only a complete look sees.
    pub sweep_s: u64,
    /// What only reading everything sees.
    pub full_s: u64,
}

/// The number of complete looks at a moment: a look that begins later has a greater one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The [`AgentStatus::run`] that it is of: in any other run every look is later.
    pub run: String,
    /// The [`TargetStatus::looks`] at that moment.
    pub after: u64,
}

/// The answer to whoever wants targets to be looked at: what to wait with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tickets {
    /// See [`Ticket::run`].
    pub run: String,
    /// [`Ticket::after`] of each target.
    pub after: BTreeMap<String, u64>,
}

/// The answer to whoever waits for a look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waited {
    /// What the wait ends with, as `scan` ends; absent if it came to no end yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<u8>,
    /// With what to go on waiting.
    pub ticket: Ticket,
    /// The target.
    pub target: TargetStatus,
}

// === impl Status ===

impl Status {
    /// The target of this name.
    pub fn target(&self, name: &str) -> Option<&TargetStatus> {
        self.targets.iter().find(|target| target.target == name)
    }

    /// The ticket for a look at `target` that begins later than this moment.
    pub fn ticket(&self, target: &TargetStatus) -> Ticket {
        Ticket { run: self.agent.run.clone(), after: target.looks }
    }
}

// === impl TargetStatus ===

impl TargetStatus {
    /// What a wait for this target ends with, if the last look will do: it began after `ticket` was drawn, and compared with
    /// the manifest whose SHA-256 is `manifest`, if that is given, alone or as one of several.
    pub fn verdict(&self, run: &str, ticket: &Ticket, manifest: Option<&str>) -> Option<u8> {
        let look = self.last_look.as_ref()?;
        let later = run != ticket.run || look.number > ticket.after;
        let with = |wanted: &str| {
            let parts = look.manifest.parts.iter().map(|part| &part.sha256);
            parts.chain([&look.manifest.sha256]).any(|sha256| sha256.to_string() == wanted)
        };
        (later && manifest.is_none_or(with)).then_some(self.open.exit | if look.complete { 0 } else { NOT_VERIFIED })
    }
}

/// The bit of an exit code for what could not be verified.
pub const NOT_VERIFIED: u8 = crate::drift::Change::Unverifiable as u8;

// === impl Open ===

impl Open {
    /// Counts findings.
    pub fn count<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Self {
        let mut open = Self::default();
        let mut alerts = [0; Severity::ALL.len()];
        for finding in findings {
            match finding.severity() {
                Some(severity) => {
                    alerts[severity as usize] += 1;
                    open.exit |= finding.exit_bits();
                }
                None => open.tolerated += 1,
            }
        }
        let words = Severity::ALL.into_iter().map(|severity| (severity.name().to_owned(), alerts[severity as usize]));
        open.alerts = words.filter(|(_, number)| *number > 0).collect();
        open
    }

    /// All alerts.
    pub fn total(&self) -> u64 {
        self.alerts.values().sum()
    }
}

// === impl Doing ===

impl Doing {
    /// What it means for a person.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::NoManifest => "nothing: no manifest was accepted yet",
            Self::Away => "waiting for the process of the root",
            Self::Arming => "setting up the watching",
            Self::Sweeping => "looking at everything",
            Self::Looking => "looking at what may have changed",
            Self::Watching => "watching",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Digest, OciDigest};
    use crate::finding::PartView;
    use crate::profile::Profile;

    fn view(digest: u8, parts: Vec<PartView>) -> ManifestView {
        let digest = Digest::from_bytes([digest; 32]);
        let (trust, origin) = ("unsigned".into(), "dir".into());
        ManifestView { tree: OciDigest::blake3(digest), sha256: digest, trust, origin, key: None, parts }
    }

    fn part(digest: u8) -> PartView {
        let ManifestView { tree, sha256, trust, origin, .. } = view(digest, Vec::new());
        PartView { name: "p".to_owned(), tree, sha256, trust, origin, key: None, profile: Profile::Portable }
    }

    fn target(exit: u8, look: Option<(u64, bool, ManifestView)>) -> TargetStatus {
        TargetStatus {
            target: "app".to_owned(),
            root: "/srv".to_owned(),
            manifest: None,
            policy: None,
            coverage: Coverage::default(),
            open: Open { exit, ..Open::default() },
            conditions: Vec::new(),
            activity: Activity { doing: Doing::Watching, since: None, next_sweep: None },
            bounds: Bounds { event_s: None, sweep_s: 1, full_s: 1 },
            looks: 9,
            last_look: look.map(|(number, complete, manifest)| Look {
                number,
                ended: String::new(),
                duration_ms: 0,
                manifest,
                complete,
            }),
        }
    }

    #[test]
    fn a_wait_ends_with_a_later_look_at_the_wanted_manifest_alone() {
        let ticket = Ticket { run: "a".to_owned(), after: 3 };
        let hex = |digest: u8| Digest::from_bytes([digest; 32]).to_string();
        let one = || view(1, Vec::new());
        let several = || view(9, vec![part(1), part(2)]);
        for (what, target, run, manifest, expected) in [
            ("no look yet", target(0, None), "a", None, None),
            ("one that had begun", target(0, Some((3, true, one()))), "a", None, None),
            ("a later one", target(0, Some((4, true, one()))), "a", None, Some(0)),
            ("drift", target(5, Some((4, true, one()))), "a", None, Some(5)),
            ("drift, and not all was seen", target(5, Some((4, false, one()))), "a", None, Some(13)),
            ("another run", target(0, Some((1, true, one()))), "b", None, Some(0)),
            ("the wanted manifest", target(0, Some((4, true, one()))), "a", Some(1), Some(0)),
            ("another manifest", target(0, Some((4, true, one()))), "a", Some(2), None),
            ("one of several", target(0, Some((4, true, several()))), "a", Some(2), Some(0)),
            ("what several are together", target(0, Some((4, true, several()))), "a", Some(9), Some(0)),
            ("none of several", target(0, Some((4, true, several()))), "a", Some(3), None),
        ] {
            let manifest = manifest.map(hex);
            assert_eq!(target.verdict(run, &ticket, manifest.as_deref()), expected, "{what}");
        }
    }
}
