//! Owns the pages of hosts: the list, and one with all that it says and what came between. Must not own their state.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use driftlock_common::finding::{ManifestView, PolicyView};
use serde::Deserialize;

use super::compare::grouped;
use super::condition::ConditionRow;
use super::coverage::{Agent, Covered};
use super::enrolment::IdentityRow;
use super::link::Link;
use super::shown::Shown;
use super::{Frame, Marked, Moment, render, shortened};
use crate::app::AppState;
use crate::clock::Timestamp;
use crate::error::ApiError;
use crate::fleet::HostState;
use crate::query::{HostParameters, Parameters, parsed, worst_cursor, worst_order};
use crate::roster::{Entry, Roster, RosterQuery};
use crate::store::identity::IdentityQuery;
use crate::store::{ArrivalRecord, ConditionQuery, HostRecord, Lifetime, TargetRecord};
use crate::view::records;

/// Open conditions that the page of a host lists.
const SHOWN_CONDITIONS: usize = 100;

/// `/hosts`.
#[derive(Template)]
#[template(path = "hosts.html")]
struct Hosts {
    frame: Frame,
    filter: HostParameters,
    /// How many the filter takes.
    number: String,
    hosts: Vec<HostLine>,
    next: Option<Link>,
}

/// `/host`.
#[derive(Template)]
#[template(path = "host.html")]
struct Host {
    frame: Frame,
    line: HostLine,
    /// Absent if it was never heard of.
    known: Option<Known>,
    /// If it joined.
    identity: Option<IdentityRow>,
    conditions: Vec<ConditionRow>,
    more_conditions: Option<Link>,
    arrivals: Vec<ArrivalRow>,
}

/// What is known of a host that was heard of.
struct Known {
    /// For the stream.
    key: String,
    agent: Option<Agent>,
    claimed: Shown,
    epoch: String,
    ack: String,
    lost: Option<String>,
    interval_s: u64,
    ephemeral: bool,
    first_seen: Moment,
    stopped: Option<Moment>,
    targets: Vec<TargetRow>,
}

/// A host in a line.
pub(super) struct HostLine {
    pub(super) state: HostState,
    pub(super) reasons: Vec<String>,
    pub(super) quiet: Option<QuietTime>,
    pub(super) key: Shown,
    pub(super) link: Link,
    /// What the agent calls itself, if that is something else.
    pub(super) name: Option<Shown>,
    pub(super) labels: Vec<Shown>,
    pub(super) targets: Vec<Shown>,
    pub(super) open: Vec<Marked>,
    pub(super) last_seen: Option<Moment>,
}

/// A quiet time.
pub(super) struct QuietTime {
    pub(super) until: Timestamp,
    pub(super) reason: Shown,
}

struct TargetRow {
    name: Shown,
    root: Shown,
    manifest: Option<Sealed>,
    policy: Option<InForce>,
    open: Vec<Marked>,
    covered: Covered,
    looked_at: Option<Moment>,
    resync: bool,
}

/// A policy.
struct InForce {
    name: Shown,
    digest: String,
    short: String,
}

struct Sealed {
    tree: String,
    short: String,
    trust: Shown,
    /// The names of the keys that count.
    key: Option<Shown>,
    origin: Shown,
    /// Names of what was laid over each other.
    parts: Vec<Shown>,
}

struct ArrivalRow {
    word: &'static str,
    meaning: &'static str,
    at: Moment,
    from: Option<Shown>,
}

/// What may be asked of the page of a host.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HostParameter {
    /// Its key.
    name: String,
}

pub(super) async fn list(
    State(state): State<Arc<AppState>>,
    parameters: Parameters<HostParameters>,
) -> Result<Response, ApiError> {
    let filter = parsed(parameters)?;
    let query = filter.clone().query(worst_order(&filter.cursor)?)?;
    let outlook = state.outlook().await?;
    let roster = Roster::read(&state, &outlook).await?;
    let (page, number) = roster.page(&query);
    let mut records = records(&state, &page.items).await?;
    let link = Link::to("/hosts")
        .and_given("state", &filter.state)
        .and_given("label", &filter.label)
        .and_given("name", &filter.name);
    let line = |entry: &Entry| HostLine::new(entry, records.remove(&entry.host).as_ref(), outlook.now);
    render(&Hosts {
        frame: Frame::of_part(&filter.cursor, outlook.now),
        number: grouped(number as u64),
        hosts: page.items.into_iter().map(line).collect(),
        next: page.next.map(|order| link.and("cursor", worst_cursor(order))),
        filter,
    })
}

pub(super) async fn show(
    State(state): State<Arc<AppState>>,
    parameters: Parameters<HostParameter>,
) -> Result<Response, ApiError> {
    let HostParameter { name } = parsed(parameters)?;
    let outlook = state.outlook().await?;
    let now = outlook.now;
    let roster = Roster::read(&state, &outlook).await?;
    let query = RosterQuery { host: Some(name.clone()), limit: 1, ..RosterQuery::default() };
    let (page, _) = roster.page(&query);
    let entry = page.items.first().ok_or_else(|| ApiError::not_found("there is no host of this name"))?;
    let record = records(&state, &page.items).await?.remove(&name);
    let query = ConditionQuery {
        state: Some(Lifetime::Open),
        host: Some(name.clone()),
        limit: SHOWN_CONDITIONS,
        ..ConditionQuery::default()
    };
    let conditions = state.store.conditions(query).await?;
    let arrivals = state.store.arrivals(name.clone()).await?;
    let identity = match name.parse() {
        Ok(host) => {
            let query = IdentityQuery { host: Some(host), limit: 1, ..IdentityQuery::default() };
            state.store.identities(query).await?.items.pop()
        }
        Err(_) => None,
    };
    render(&Host {
        frame: Frame::live(now),
        line: HostLine::new(entry, record.as_ref(), now),
        identity: identity.map(|identity| IdentityRow::new(&identity, now)),
        known: record.map(|record| Known::new(record, now)),
        more_conditions: conditions.next.map(|_| Link::to("/conditions").and("host", name)),
        conditions: conditions.items.into_iter().map(|record| ConditionRow::new(record, now)).collect(),
        arrivals: arrivals.into_iter().map(|record| ArrivalRow::new(record, now)).collect(),
    })
}

impl HostLine {
    pub(super) fn new(entry: &Entry, record: Option<&HostRecord>, now: Timestamp) -> Self {
        let Entry { host, name, labels, verdict } = entry;
        let open = record.map(HostRecord::open).unwrap_or_default();
        let targets = record.map(|record| record.targets.as_slice()).unwrap_or_default();
        Self {
            state: verdict.state,
            reasons: verdict.reasons.clone(),
            quiet: verdict
                .quiet
                .as_ref()
                .map(|quiet| QuietTime { until: quiet.until, reason: Shown::name(&quiet.reason) }),
            key: Shown::name(host),
            link: Link::host(host),
            name: Some(name).filter(|name| !name.is_empty() && *name != host).map(|name| Shown::name(name)),
            labels: labels.iter().map(|(key, value)| Shown::name(&format!("{key}={value}"))).collect(),
            targets: targets.iter().map(|target| Shown::name(&target.target)).collect(),
            open: Marked::some(&open, &Link::findings_of(host)),
            last_seen: record.map(|record| Moment::new(record.last_seen, now)),
        }
    }
}

impl Known {
    fn new(record: HostRecord, now: Timestamp) -> Self {
        Self {
            agent: record.agent.as_ref().map(|running| Agent::new(&record.version, running, now)),
            claimed: Shown::name(&record.claimed),
            epoch: record.epoch.chars().take(12).collect(),
            ack: grouped(record.ack),
            lost: (record.lost > 0).then(|| grouped(record.lost)),
            interval_s: record.interval_s,
            ephemeral: record.ephemeral,
            first_seen: Moment::new(record.first_seen, now),
            stopped: record.stopped_at.map(|at| Moment::new(at, now)),
            targets: record.targets.into_iter().map(|target| TargetRow::new(&record.host, target, now)).collect(),
            key: record.host,
        }
    }
}

impl TargetRow {
    fn new(host: &str, record: TargetRecord, now: Timestamp) -> Self {
        let coverage = record.coverage.clone().unwrap_or_default();
        Self {
            open: Marked::some(&record.open, &Link::findings_of(host).and("target", &record.target)),
            policy: record.policy.as_ref().map(InForce::new),
            name: Shown::name(&record.target),
            root: Shown::escaped_text(&record.root),
            manifest: record.manifest.as_ref().map(Sealed::new),
            covered: Covered::new(&coverage, now),
            looked_at: record.looked_at().map(|at| Moment::new(at, now)),
            resync: record.resync,
        }
    }
}

impl InForce {
    fn new(policy: &PolicyView) -> Self {
        let digest = policy.digest.to_string();
        Self { name: Shown::name(&policy.name), short: shortened(&digest), digest }
    }
}

impl Sealed {
    fn new(manifest: &ManifestView) -> Self {
        let tree = manifest.tree.to_string();
        // What a directory was when it was sealed is learned, not built.
        let origin = if manifest.origin == "dir" { "learned" } else { manifest.origin.as_ref() };
        Self {
            short: shortened(&tree),
            tree,
            trust: Shown::name(&manifest.trust),
            key: manifest.key.as_deref().map(Shown::name),
            origin: Shown::name(origin),
            parts: manifest.parts.iter().map(|part| Shown::escaped_text(&part.name)).collect(),
        }
    }
}

impl ArrivalRow {
    fn new(record: ArrivalRecord, now: Timestamp) -> Self {
        Self {
            word: record.what.name(),
            meaning: record.what.meaning(),
            at: Moment::new(record.at, now),
            from: record.from.as_deref().map(Shown::name),
        }
    }
}
