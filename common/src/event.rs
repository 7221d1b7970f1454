//! Owns the events between agent and collector: CloudEvents 1.0 in JSON (cloudevents/spec v1.0.2, json-format.md),
//! sent in batches. Must not own transport, storage, or when an event arises.

use serde::{Deserialize, Serialize};

use crate::condition::ConditionReason;
use crate::coverage::Coverage;
use crate::digest::{Digest, OciDigest};
use crate::finding::{Finding, ManifestView, PolicyView, Summary};

/// Media type of a batch.
pub const BATCH_MEDIA_TYPE: &str = "application/cloudevents-batch+json";
/// Where batches go.
pub const EVENTS_PATH: &str = "/v1/events";
/// The most events in a batch.
pub const MAX_BATCH_EVENTS: usize = 500;
/// The largest batch, in bytes of JSON, before compression.
pub const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// Beginning of every `source`.
pub const SOURCE_PREFIX: &str = "urn:driftlock:host:";

/// One event. `sequence` is absent for heartbeats alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Always `1.0`.
    pub specversion: String,
    /// `<epoch>-<sequence>`; for heartbeats `<epoch>-h<n>`.
    pub id: String,
    /// [`SOURCE_PREFIX`] and the host's id.
    pub source: String,
    /// RFC 3339, UTC: when the agent saw it.
    pub time: String,
    /// 32 hexadecimal digits, made with the agent's state directory.
    pub epoch: String,
    /// 20 decimal digits, counting up by one within an epoch, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<String>,
    /// Always `application/json`.
    pub datacontenttype: String,
    /// `type` and `data`.
    #[serde(flatten)]
    pub body: Body,
}

/// The type of an event with its data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum Body {
    /// A path stopped being as sealed.
    #[serde(rename = "dev.driftlock.finding.opened.v1")]
    FindingOpened(FindingBody),
    /// An open finding's difference became another.
    #[serde(rename = "dev.driftlock.finding.updated.v1")]
    FindingUpdated(FindingBody),
    /// A path is as sealed again, or its target is no longer watched.
    #[serde(rename = "dev.driftlock.finding.resolved.v1")]
    FindingResolved(FindingResolved),
    /// Something became wrong with the watching itself.
    #[serde(rename = "dev.driftlock.condition.opened.v1")]
    ConditionOpened(ConditionBody),
    /// It is right again.
    #[serde(rename = "dev.driftlock.condition.resolved.v1")]
    ConditionResolved(ConditionBody),
    /// All open findings of a target, in parts.
    #[serde(rename = "dev.driftlock.target.snapshot.v1")]
    TargetSnapshot(Snapshot),
    /// A complete look at a target, and its result.
    #[serde(rename = "dev.driftlock.target.verified.v1")]
    TargetVerified(Verified),
    /// The agent lives. Neither sequenced nor spooled.
    #[serde(rename = "dev.driftlock.agent.heartbeat.v1")]
    Heartbeat(Heartbeat),
    /// The agent stopped as it was asked to.
    #[serde(rename = "dev.driftlock.agent.stopped.v1")]
    Stopped(Stopped),
}

/// An open finding of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingBody {
    /// The target's name.
    pub target: String,
    /// The difference.
    pub finding: Finding,
    /// RFC 3339: when it opened.
    pub opened_at: String,
    /// How many times the path was found different, this time included.
    pub count: u64,
    /// It opens and resolves again and again, so that it stays open and nothing is said of that until it is quiet: how
    /// often it did so unsaid. Absent if it does not flap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flapping: Option<u64>,
}

/// A finding that is no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingResolved {
    /// The target's name.
    pub target: String,
    /// As in a finding.
    pub path: String,
    /// As in a finding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<String>,
}

/// A condition, opened or resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConditionBody {
    /// The target's name; absent if it concerns the whole agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Why.
    pub reason: ConditionReason,
    /// A path it concerns, escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// One line for a person.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// One part of all open findings of a target. The collector resolves, at the last part, every finding of the target
/// that no part held; conditions of the target likewise, from the first part's list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The target's name.
    pub target: String,
    /// What it is compared with; absent while no manifest was ever accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<ManifestView>,
    /// Number of this part, from 0.
    pub part: u32,
    /// Whether it is the last one.
    pub last: bool,
    /// The findings of this part.
    pub findings: Vec<FindingBody>,
    /// Open conditions, those of the whole agent too; only in part 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<ConditionBody>,
}

/// The result of a complete look at a target. Not signed yet: it informs, it proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The target's name.
    pub target: String,
    /// The result.
    pub summary: Summary,
}

/// A sign of life, with what the agent can vouch for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The host's name, for people.
    pub host: String,
    /// Labels by which hosts are grouped.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub labels: std::collections::BTreeMap<String, String>,
    /// Whether a clean stop retires the host.
    #[serde(default)]
    pub ephemeral: bool,
    /// The agent's version.
    pub version: String,
    /// Seconds until the next one.
    pub interval_s: u64,
    /// The highest sequence given in this epoch; 0 if none.
    pub sequence: u64,
    /// What runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Running>,
    /// The targets.
    pub targets: Vec<TargetBeat>,
}

/// What an agent is that runs, and how it came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// BLAKE3 of its binary, as executed; absent if that cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<OciDigest>,
    /// BLAKE3 of the configuration in force: of its file, or of the digests of several, 32 bytes each, in the order in which
    /// they are read; absent if it was not read from anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<OciDigest>,
    /// RFC 3339: when it started.
    pub started_at: String,
    /// How often an agent was started with this state directory, this time included.
    pub starts: u64,
    /// Whether the one before stopped as it was asked to; absent if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_before: Option<bool>,
    /// The kernel's word for this boot (`/proc/sys/kernel/random/boot_id`), in hexadecimal digits; absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
}

/// What the agent can vouch for, of one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetBeat {
    /// The target's name.
    pub target: String,
    /// Its root, escaped.
    pub root: String,
    /// What it is compared with; absent while no manifest was ever accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<ManifestView>,
    /// What may change there; absent if nothing may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyView>,
    /// Number of open findings, tolerated ones too.
    pub open_findings: u64,
    /// See [`crate::finding::open_digest`].
    pub open_digest: OciDigest,
    /// What the agent can vouch for.
    pub coverage: Coverage,
}

/// A stop as asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// For example `SIGTERM`.
    pub reason: String,
    /// Whether the host is retired by it.
    pub ephemeral: bool,
}

/// The collector's answer to a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Answer {
    /// Events stored.
    pub accepted: u64,
    /// Events that were stored before.
    pub duplicates: u64,
    /// Events refused for good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<Rejected>,
    /// Everything of this epoch up to here is committed or rejected for good.
    pub ack: u64,
    /// Whether the collector wants a snapshot of every target.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resync: bool,
}

/// An event refused for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// Its `id`, cut to 128 characters.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// The sequence as written in an event.
pub fn sequence_text(sequence: u64) -> String {
    format!("{sequence:020}")
}

impl Event {
    /// The sequence as a number: `Ok(None)` for an event without one, `Err` if it is not 20 digits.
    pub fn sequence_number(&self) -> Result<Option<u64>, std::num::ParseIntError> {
        match &self.sequence {
            None => Ok(None),
            Some(text) if text.len() == 20 && text.bytes().all(|b| b.is_ascii_digit()) => text.parse().map(Some),
            Some(_) => "".parse().map(Some),
        }
    }

    /// The host's id out of `source`.
    pub fn host_id(&self) -> Option<&str> {
        self.source.strip_prefix(SOURCE_PREFIX).filter(|id| !id.is_empty())
    }
}

/// The digest of no open findings.
pub fn nothing_open() -> OciDigest {
    OciDigest::blake3(open_digest_of_none())
}

fn open_digest_of_none() -> Digest {
    crate::finding::open_digest([])
}
