//! Owns the pages: records to what a template shows, and the assets. Everything an agent said goes through `shown`
//! and the template engine's escaping. Must not own queries or judgement.

mod compare;
mod coverage;
mod filter;
mod finding;
mod shown;

use std::collections::BTreeMap;
use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use driftlock_common::finding::{ManifestView, PolicyView};
use driftlock_common::policy::{Ruling, Severity};

use crate::app::AppState;
use crate::clock::Timestamp;
use crate::error::ApiError;
use crate::fleet::{HostState, duration, judge};
use crate::query::{FindingParameters, Parameters, cursor_of, parsed};
use crate::store::{ConditionQuery, HostQuery, HostRecord, Lifetime, Line, TargetRecord};
use crate::tally::Tally;
use compare::grouped;
use coverage::{Agent, Covered};
use filter::{Filter, Link};
use finding::Findings;
use shown::Shown;

/// Hosts that the overview lists; beyond, it says how many more there are.
const SHOWN_HOSTS: usize = 500;
/// Conditions that the overview lists.
const SHOWN_CONDITIONS: usize = 100;
/// Hosts read at a time.
const HOST_PAGE: usize = 500;

/// The files a page refers to, compiled in: name, media type, content.
const ASSETS: [(&str, &str, &str); 3] = [
    ("style.css", "text/css; charset=utf-8", include_str!("../assets/style.css")),
    ("live.js", "text/javascript; charset=utf-8", include_str!("../assets/live.js")),
    ("icon.svg", "image/svg+xml", include_str!("../assets/icon.svg")),
];

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    version: &'static str,
    loaded: Moment,
    tiles: Vec<Tile>,
    open: Vec<Marked>,
    alerts: String,
    hosts: Vec<HostRow>,
    hidden: usize,
    conditions: Vec<ConditionRow>,
}

struct Tile {
    state: HostState,
    number: u64,
}

struct HostRow {
    state: HostState,
    reasons: Vec<String>,
    key: Shown,
    /// What the agent calls itself, if that is something else.
    name: Option<Shown>,
    labels: Vec<Shown>,
    agent: Option<Agent>,
    last_seen: Moment,
    targets: Vec<TargetRow>,
}

struct TargetRow {
    name: Shown,
    root: Shown,
    manifest: Option<Sealed>,
    policy: Option<InForce>,
    open: Vec<Marked>,
    covered: Covered,
    looked_at: Option<Moment>,
}

/// Open findings of one severity, or those that are tolerated.
struct Marked {
    mark: &'static str,
    number: String,
    none: bool,
    link: Link,
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

struct ConditionRow {
    host: Shown,
    target: Option<Shown>,
    reason: &'static str,
    meaning: &'static str,
    path: Option<Shown>,
    detail: Shown,
    since: Moment,
}

/// A point in time, exact and as a distance.
struct Moment {
    exact: Timestamp,
    ago: String,
}

impl Moment {
    fn new(exact: Timestamp, now: Timestamp) -> Self {
        Self { exact, ago: format!("{} ago", duration(now.seconds_since(exact))) }
    }
}

/// `/`: hosts, what they are compared with, and what is wrong with the watching.
pub(crate) async fn overview(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    let now = state.clock.now();
    let mut numbers: BTreeMap<HostState, u64> = HostState::ALL.into_iter().map(|state| (state, 0)).collect();
    let mut rows: Vec<HostRow> = Vec::new();
    let mut open = Tally::default();
    let mut hidden = 0;
    let mut after = None;
    loop {
        let page = state.store.hosts(HostQuery { host: None, after, limit: HOST_PAGE }).await?;
        for record in page.items {
            open = [open, record.open()].into_iter().sum();
            let row = HostRow::new(record, now);
            *numbers.entry(row.state).or_default() += 1;
            rows.push(row);
        }
        // The worst come first, and a large fleet does not become a large page.
        rows.sort_by_key(|row| row.state);
        hidden += rows.len().saturating_sub(SHOWN_HOSTS);
        rows.truncate(SHOWN_HOSTS);
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let query = ConditionQuery { state: Some(Lifetime::Open), limit: SHOWN_CONDITIONS, ..ConditionQuery::default() };
    let conditions = state.store.conditions(query).await?.items;
    render(&Overview {
        version: env!("CARGO_PKG_VERSION"),
        loaded: Moment::new(now, now),
        tiles: numbers.into_iter().map(|(state, number)| Tile { state, number }).collect(),
        open: Marked::all(&open, &Link::default()),
        alerts: grouped(open.alerts.total()),
        hosts: rows,
        hidden,
        conditions: conditions
            .into_iter()
            .map(|record| ConditionRow {
                host: Shown::name(&record.host),
                target: record.target.as_deref().map(Shown::name),
                reason: record.reason.name(),
                meaning: record.reason.meaning(),
                path: record.path.as_deref().map(Shown::escaped_text),
                detail: Shown::escaped_text(&record.detail),
                since: Moment::new(record.opened_at, now),
            })
            .collect(),
    })
}

/// `/findings`: what is not as sealed, both sides side by side.
pub(crate) async fn findings(
    State(state): State<Arc<AppState>>,
    parameters: Parameters<FindingParameters>,
) -> Result<Response, ApiError> {
    let mut parameters = parsed(parameters)?;
    let filter = Filter::of(&mut parameters);
    let first_part = parameters.cursor.is_empty();
    let query = parameters.query()?;
    let (lines, next) = if filter.folds() && query.path.is_none() {
        let page = state.store.lines(query).await?;
        (page.items, page.next)
    } else {
        let page = state.store.findings(query).await?;
        (page.items.into_iter().map(|newest| Line { newest, fold: None }).collect(), page.next)
    };
    let next = next.map(|order| filter.link().and("cursor", cursor_of(order)));
    render(&Findings { first_part, next, ..Findings::new(filter, lines, state.clock.now()) })
}

/// `/assets/NAME`.
pub(crate) async fn asset(Path(name): Path<String>) -> Result<Response, ApiError> {
    let (_, media_type, content) = ASSETS
        .into_iter()
        .find(|(known, ..)| *known == name)
        .ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is no such asset"))?;
    Ok(([(header::CONTENT_TYPE, media_type), (header::CACHE_CONTROL, "no-cache")], content).into_response())
}

fn render(page: &impl Template) -> Result<Response, ApiError> {
    let html = page.render().map_err(|error| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "page", "the page cannot be shown").because(error)
    })?;
    Ok(Html(html).into_response())
}

// === impl HostRow ===

impl HostRow {
    fn new(record: HostRecord, now: Timestamp) -> Self {
        let verdict = judge(&record.facts(), now);
        let labels = record.labels.as_object().map(|labels| {
            labels.iter().map(|(key, value)| Shown::name(&format!("{key}={}", value.as_str().unwrap_or_default())))
        });
        Self {
            state: verdict.state,
            reasons: verdict.reasons,
            key: Shown::name(&record.host),
            name: Some(&record.name)
                .filter(|name| !name.is_empty() && **name != record.host)
                .map(|name| Shown::name(name)),
            labels: labels.map(Iterator::collect).unwrap_or_default(),
            agent: record.agent.as_ref().map(|running| Agent::new(&record.version, running, now)),
            last_seen: Moment::new(record.last_seen, now),
            targets: record.targets.into_iter().map(|target| TargetRow::new(&record.host, target, now)).collect(),
        }
    }
}

impl TargetRow {
    fn new(host: &str, record: TargetRecord, now: Timestamp) -> Self {
        let coverage = record.coverage.clone().unwrap_or_default();
        let mut open = Marked::all(&record.open, &Link::host(host).and("target", &record.target));
        open.retain(|marked| !marked.none);
        Self {
            open,
            policy: record.policy.as_ref().map(InForce::new),
            name: Shown::name(&record.target),
            root: Shown::escaped_text(&record.root),
            manifest: record.manifest.as_ref().map(Sealed::new),
            covered: Covered::new(&coverage, now),
            looked_at: record.looked_at().map(|at| Moment::new(at, now)),
        }
    }
}

impl Marked {
    /// Every severity, the loudest first, and what is tolerated; each leads to its findings.
    fn all(open: &Tally, within: &Link) -> Vec<Self> {
        let alerts = open.alerts.loudest_first().map(|(severity, number)| (Some(severity), number));
        let all = alerts.chain([(None, open.tolerated)]).map(|(severity, number)| Self {
            mark: mark(severity),
            number: grouped(number),
            none: number == 0,
            link: match severity {
                Some(severity) => within.clone().and("severity", severity.name()),
                None => within.clone().and("verdict", Ruling::Tolerated.name()),
            },
        });
        all.collect()
    }
}

impl InForce {
    fn new(policy: &PolicyView) -> Self {
        let digest = policy.digest.to_string();
        Self { name: Shown::name(&policy.name), short: shortened(&digest), digest }
    }
}

/// The first digits of a digest.
fn shortened(digest: &str) -> String {
    digest.chars().take(digest.find(':').unwrap_or(0) + 13).collect()
}

/// The word of how loudly something is said.
const fn mark(severity: Option<Severity>) -> &'static str {
    match severity {
        Some(severity) => severity.name(),
        None => Ruling::Tolerated.name(),
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
