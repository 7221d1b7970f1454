//! Owns the pages: records to what a template shows, and the assets. Everything an agent said goes through `shown`
//! and the template engine's escaping. Must not own queries or judgement.

mod compare;
mod shown;

use std::collections::BTreeMap;
use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use driftlock_common::drift::Change;
use driftlock_common::finding::ManifestView;

use crate::app::AppState;
use crate::clock::Timestamp;
use crate::error::ApiError;
use crate::fleet::{HostState, duration, judge};
use crate::query::{FindingParameters, Parameters, parsed};
use crate::store::{ConditionQuery, FindingRecord, HostQuery, HostRecord, Lifetime, TargetRecord};
use compare::{Row, compare};
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
    open_findings: u64,
    hosts: Vec<HostRow>,
    hidden: usize,
    conditions: Vec<ConditionRow>,
}

#[derive(Template)]
#[template(path = "findings.html")]
struct Findings {
    version: &'static str,
    loaded: Moment,
    state: String,
    host: String,
    target: String,
    narrowed: bool,
    first_part: bool,
    findings: Vec<FindingRow>,
    next: Option<i64>,
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
    link: String,
    last_seen: Moment,
    targets: Vec<TargetRow>,
}

struct TargetRow {
    name: Shown,
    root: Shown,
    manifest: Option<Sealed>,
    open_findings: u64,
    watch: Shown,
    looked_at: Option<Moment>,
    unwatched: u64,
    excluded: usize,
    link: String,
}

struct Sealed {
    tree: String,
    short: String,
    trust: Shown,
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

struct FindingRow {
    id: i64,
    change: Change,
    path: Shown,
    host: Shown,
    host_link: String,
    target: Shown,
    attributes: Vec<&'static str>,
    unverified: Vec<&'static str>,
    reason: Option<&'static str>,
    covers: Option<u64>,
    collapsed: Option<u64>,
    manifest: Option<Shown>,
    layer: Option<u16>,
    meta_layer: Option<u16>,
    step: Option<Shown>,
    open: bool,
    since: Moment,
    updated: Moment,
    resolved: Option<Moment>,
    count: u64,
    was_sealed: bool,
    is_there: bool,
    /// Rows in which the sides differ, or all of them where there is one side.
    differing: Vec<Row>,
    equal: Vec<Row>,
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
    let now = Timestamp::now();
    let mut numbers: BTreeMap<HostState, u64> = HostState::ALL.into_iter().map(|state| (state, 0)).collect();
    let mut rows: Vec<HostRow> = Vec::new();
    let mut open_findings = 0;
    let mut hidden = 0;
    let mut after = None;
    loop {
        let page = state.store.hosts(HostQuery { host: None, after, limit: HOST_PAGE }).await?;
        for record in page.items {
            open_findings += record.open_findings();
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
        open_findings,
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
    let (host, target) = (parameters.host.clone(), parameters.target.clone());
    let shown_state = if parameters.state.is_empty() { "open".to_owned() } else { parameters.state.clone() };
    let first_part = parameters.cursor.is_empty();
    parameters.state = if shown_state == "all" { String::new() } else { shown_state.clone() };
    let page = state.store.findings(parameters.query()?).await?;
    let now = Timestamp::now();
    render(&Findings {
        version: env!("CARGO_PKG_VERSION"),
        loaded: Moment::new(now, now),
        narrowed: !host.is_empty() || !target.is_empty() || shown_state != "open",
        state: shown_state,
        host,
        target,
        first_part,
        findings: page.items.into_iter().map(|record| FindingRow::new(record, now)).collect(),
        next: page.next,
    })
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
            last_seen: Moment::new(record.last_seen, now),
            targets: record.targets.into_iter().map(|target| TargetRow::new(target, now)).collect(),
            link: record.host,
        }
    }
}

impl TargetRow {
    fn new(record: TargetRecord, now: Timestamp) -> Self {
        let coverage = record.coverage.clone().unwrap_or_default();
        Self {
            open_findings: record.open_findings(),
            name: Shown::name(&record.target),
            root: Shown::escaped_text(&record.root),
            manifest: record.manifest.as_ref().map(Sealed::new),
            watch: Shown::name(&coverage.watch_mode),
            looked_at: record.looked_at().map(|at| Moment::new(at, now)),
            unwatched: coverage.unwatched,
            excluded: coverage.excluded.len(),
            link: record.target,
        }
    }
}

impl Sealed {
    fn new(manifest: &ManifestView) -> Self {
        let tree = manifest.tree.to_string();
        // What a directory was when it was sealed is learned, not built.
        let origin = if manifest.origin == "dir" { "learned" } else { manifest.origin.as_ref() };
        Self {
            short: tree.chars().take(tree.find(':').unwrap_or(0) + 13).collect(),
            tree,
            trust: Shown::name(&manifest.trust),
            origin: Shown::name(origin),
            parts: manifest.parts.iter().map(|part| Shown::escaped_text(&part.name)).collect(),
        }
    }
}

impl FindingRow {
    fn new(record: FindingRecord, now: Timestamp) -> Self {
        let finding = &record.finding;
        let (differing, equal) = compare(finding).into_iter().partition(|row| row.differs);
        Self {
            id: record.id,
            change: finding.change,
            path: Shown::bytes(if record.path.is_empty() { b"." } else { &record.path }),
            host: Shown::name(&record.host),
            target: Shown::name(&record.target),
            attributes: finding.attributes.iter().map(driftlock_common::drift::Attribute::name).collect(),
            unverified: finding.unverified.iter().map(driftlock_common::drift::Attribute::name).collect(),
            reason: finding.reason.map(driftlock_common::gap::Reason::name),
            covers: finding.covers,
            collapsed: finding.collapsed,
            manifest: finding.manifest.as_deref().map(Shown::escaped_text),
            layer: finding.layer,
            meta_layer: finding.meta_layer,
            step: finding.step.as_deref().map(Shown::escaped_text),
            open: record.state == Lifetime::Open,
            since: Moment::new(record.opened_at, now),
            updated: Moment::new(record.updated_at, now),
            resolved: record.resolved_at.map(|at| Moment::new(at, now)),
            count: record.count,
            was_sealed: finding.change != Change::Added,
            is_there: finding.change != Change::Removed,
            differing,
            equal,
            host_link: record.host,
        }
    }
}
