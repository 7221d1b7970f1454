//! Owns the JSON of the reading side: what `GET` and the stream answer with. The shapes are promises: keys are added,
//! never changed. Must not own queries.

use driftlock_common::coverage::Coverage;
use driftlock_common::event::Running;
use driftlock_common::finding::{Finding, ManifestView, PolicyView};
use serde::Serialize;

use std::collections::HashMap;

use crate::app::AppState;
use crate::clock::Timestamp;
use crate::fleet::{Facts, HostState, QuietTime, TargetFacts, Verdict};
use crate::roster::Entry;
use crate::store::{
    ConditionRecord, FindingRecord, GroupRecord, HoleKind, HoleRecord, HostQuery, HostRecord, Lifetime, StoreError,
    TargetRecord,
};
use crate::tally::{Alerts, Tally};

/// A list and where its next part begins.
#[derive(Debug, Serialize)]
pub struct Findings {
    /// In the order that was asked for.
    pub findings: Vec<FindingView>,
    /// `cursor` of the next part; null at the end.
    pub next: Option<String>,
}

/// A list and where its next part begins.
#[derive(Debug, Serialize)]
pub struct Conditions {
    /// The newest first.
    pub conditions: Vec<ConditionView>,
    /// `cursor` of the next part; null at the end.
    pub next: Option<String>,
}

/// A list and where its next part begins.
#[derive(Debug, Serialize)]
pub struct Holes {
    /// The newest first.
    pub holes: Vec<HoleView>,
    /// `cursor` of the next part; null at the end.
    pub next: Option<String>,
}

/// A list and where its next part begins.
#[derive(Debug, Serialize)]
pub struct Hosts {
    /// In order of their key.
    pub hosts: Vec<HostView>,
    /// `cursor` of the next part; null at the end.
    pub next: Option<String>,
}

/// A list and where its next part begins.
#[derive(Debug, Serialize)]
pub struct Groups {
    /// In the order that was asked for.
    pub groups: Vec<GroupView>,
    /// `cursor` of the next part; null at the end.
    pub next: Option<String>,
}

/// Open findings that are the same drift. Times are RFC 3339, by the collector's clock.
#[derive(Debug, Serialize)]
pub struct GroupView {
    /// What `group` of findings takes.
    group: String,
    hosts: u64,
    findings: u64,
    first_at: Timestamp,
    last_at: Timestamp,
    /// One of them, with what they have in common and what only it has.
    example: FindingView,
}

/// A finding with its lifetime. Times are RFC 3339; all but `received_at` are by the agent's clock.
#[derive(Debug, Serialize)]
pub struct FindingView {
    host: String,
    target: String,
    #[serde(flatten)]
    finding: Finding,
    state: Lifetime,
    opened_at: Timestamp,
    updated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    resolved_at: Option<Timestamp>,
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    flapping: Option<u64>,
    received_at: Timestamp,
}

/// A condition with its lifetime.
#[derive(Debug, Serialize)]
pub struct ConditionView {
    host: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    reason: &'static str,
    meaning: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    detail: String,
    state: Lifetime,
    opened_at: Timestamp,
    updated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    resolved_at: Option<Timestamp>,
}

/// Sequences of an epoch that never came, from `first` to `last`.
#[derive(Debug, Serialize)]
pub struct HoleView {
    host: String,
    epoch: String,
    first: u64,
    last: u64,
    kind: HoleKind,
    noted_at: Timestamp,
}

/// A host, what it last said, and what that means.
#[derive(Debug, Serialize)]
pub struct HostView {
    host: String,
    name: String,
    claimed_id: String,
    state: HostState,
    reasons: Vec<String>,
    /// The quiet time that it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    quiet: Option<QuietTime>,
    labels: serde_json::Value,
    version: String,
    ephemeral: bool,
    interval_s: u64,
    epoch: String,
    ack: u64,
    lost: u64,
    /// Absent if it was never heard of, as `last_seen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_seen: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped_at: Option<Timestamp>,
    /// What runs there, as its agent says.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<Running>,
    open_findings: u64,
    /// Of the open findings, those that somebody is to know of.
    alerts: Alerts,
    /// Of the open findings, the others.
    tolerated: u64,
    open_conditions: Vec<&'static str>,
    targets: Vec<TargetView>,
}

/// A target of a host.
#[derive(Debug, Serialize)]
pub struct TargetView {
    target: String,
    root: String,
    manifest: Option<ManifestView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<PolicyView>,
    coverage: Option<Coverage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified_at: Option<Timestamp>,
    open_findings: u64,
    alerts: Alerts,
    tolerated: u64,
    resync: bool,
}

impl From<FindingRecord> for FindingView {
    fn from(record: FindingRecord) -> Self {
        let FindingRecord {
            host,
            target,
            finding,
            state,
            opened_at,
            updated_at,
            resolved_at,
            count,
            flapping,
            received_at,
            ..
        } = record;
        Self { host, target, finding, state, opened_at, updated_at, resolved_at, count, flapping, received_at }
    }
}

impl From<ConditionRecord> for ConditionView {
    fn from(record: ConditionRecord) -> Self {
        Self {
            host: record.host,
            target: record.target,
            reason: record.reason.name(),
            meaning: record.reason.meaning(),
            path: record.path,
            detail: record.detail,
            state: record.state,
            opened_at: record.opened_at,
            updated_at: record.updated_at,
            resolved_at: record.resolved_at,
        }
    }
}

/// Hosts of a roster, with what they last said.
///
/// # Errors
/// If the store cannot be read.
pub async fn host_views(state: &AppState, entries: &[&Entry]) -> Result<Vec<HostView>, StoreError> {
    let mut records = records(state, entries).await?;
    Ok(entries.iter().map(|entry| HostView::new((*entry).clone(), records.remove(&entry.host))).collect())
}

/// What the hosts of a roster last said, by their keys.
pub(crate) async fn records(state: &AppState, entries: &[&Entry]) -> Result<HashMap<String, HostRecord>, StoreError> {
    let keys: Vec<String> = entries
        .iter()
        .filter(|entry| entry.verdict.state != HostState::Absent)
        .map(|entry| entry.host.clone())
        .collect();
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let limit = keys.len();
    let page = state.store.hosts(HostQuery { keys: Some(keys), limit, ..HostQuery::default() }).await?;
    Ok(page.items.into_iter().map(|record| (record.host.clone(), record)).collect())
}

impl From<HoleRecord> for HoleView {
    fn from(record: HoleRecord) -> Self {
        let HoleRecord { id: _, host, epoch, sequences, kind, noted_at } = record;
        Self { host, epoch, first: *sequences.start(), last: *sequences.end(), kind, noted_at }
    }
}

impl HostView {
    /// A host of a roster, and what it last said if it ever did.
    pub fn new(entry: Entry, record: Option<HostRecord>) -> Self {
        let Entry { host, verdict: Verdict { state, reasons, quiet }, .. } = entry;
        let open = record.as_ref().map(HostRecord::open).unwrap_or_default();
        let seen = record.as_ref().map(|record| (record.first_seen, record.last_seen));
        let record = record.unwrap_or_else(|| HostRecord { labels: serde_json::json!({}), ..HostRecord::default() });
        Self {
            host,
            state,
            reasons,
            quiet,
            open_findings: open.total(),
            alerts: open.alerts,
            tolerated: open.tolerated,
            open_conditions: record.conditions.iter().map(|reason| reason.name()).collect(),
            name: record.name,
            claimed_id: record.claimed,
            labels: record.labels,
            version: record.version,
            ephemeral: record.ephemeral,
            interval_s: record.interval_s,
            epoch: record.epoch,
            ack: record.ack,
            lost: record.lost,
            first_seen: seen.map(|(first, _)| first),
            last_seen: seen.map(|(_, last)| last),
            stopped_at: record.stopped_at,
            agent: record.agent,
            targets: record.targets.into_iter().map(TargetView::from).collect(),
        }
    }
}

impl From<GroupRecord> for GroupView {
    fn from(record: GroupRecord) -> Self {
        let GroupRecord { key, hosts, findings, first_at, last_at, example } = record;
        Self { group: key.to_string(), hosts, findings, first_at, last_at, example: example.into() }
    }
}

impl From<TargetRecord> for TargetView {
    fn from(record: TargetRecord) -> Self {
        Self {
            open_findings: record.open.total(),
            alerts: record.open.alerts,
            tolerated: record.open.tolerated,
            target: record.target,
            root: record.root,
            manifest: record.manifest,
            policy: record.policy,
            coverage: record.coverage,
            verified_at: record.verified_at,
            resync: record.resync,
        }
    }
}

impl TargetRecord {
    /// When the last complete look at it ended, by the agent's clock. A heartbeat says it late, the look itself at once.
    pub fn looked_at(&self) -> Option<Timestamp> {
        self.swept_at.max(self.verified_at)
    }
}

impl HostRecord {
    /// Its open findings.
    pub fn open(&self) -> Tally {
        self.targets.iter().map(|target| target.open).sum()
    }

    /// What a judgement of the host asks for.
    pub fn facts(&self) -> Facts {
        let open = self.open();
        let targets = self
            .targets
            .iter()
            .map(|target| TargetFacts {
                sealed: target.manifest.is_some(),
                looked_at: target.looked_at().is_some(),
                unverifiable: target.coverage.as_ref().map_or(0, |coverage| coverage.unverifiable),
                resync: target.resync,
            })
            .collect();
        Facts {
            last_seen: self.last_seen,
            interval_s: self.interval_s,
            ephemeral: self.ephemeral,
            stopped: self.stopped_at.is_some(),
            open_drift: open.drift(),
            open_unverifiable: open.unverifiable,
            conditions: self.conditions.clone(),
            targets,
        }
    }
}
