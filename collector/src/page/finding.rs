//! Owns the page of findings: each with both sides, or many of one kind as one line. Must not own queries.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use driftlock_common::drift::{Attribute, Change};
use driftlock_common::gap::Reason;
use serde::Deserialize;

use super::compare::{Row, compare, grouped};
use super::filter::Filter;
use super::group::each_of;
use super::link::Link;
use super::shown::Shown;
use super::{Frame, Moment, mark, render};
use crate::app::AppState;
use crate::clock::Timestamp;
use crate::error::ApiError;
use crate::query::{FindingParameters, Parameters, bad, cursor_of, parsed};
use crate::store::{FOLD, FindingQuery, FindingRecord, Fold, GroupKey, GroupQuery, Lifetime, Line};

/// What the form offers: values of the query, and what they are called.
pub(super) const SEVERITIES: [(&str, &str); 9] = [
    ("critical", "critical"),
    ("high..", "high and louder"),
    ("medium..", "medium and louder"),
    ("low..", "low and louder"),
    ("info..", "info and louder"),
    ("high", "high alone"),
    ("medium", "medium alone"),
    ("low", "low alone"),
    ("info", "info alone"),
];

#[derive(Template)]
#[template(path = "findings.html")]
pub(super) struct Findings {
    pub(super) frame: Frame,
    pub(super) filter: Filter,
    pub(super) entries: Vec<Entry>,
    /// How many findings stand in lines of many, and in how many lines.
    pub(super) folded: Option<(String, usize)>,
    pub(super) next: Option<Link>,
}

/// `/finding`: one, by itself.
#[derive(Template)]
#[template(path = "finding.html")]
pub(super) struct Single {
    pub(super) frame: Frame,
    pub(super) finding: FindingRow,
    /// On how many hosts it is the same, and the list of them; absent if on this one alone.
    pub(super) alike: Option<(String, Link)>,
}

pub(super) enum Entry {
    One(Box<FindingRow>),
    Many(Box<ManyRow>),
}

/// What a finding is, whose it is, and what was said of it.
pub(super) struct Kind {
    /// Severity, or that it is tolerated.
    pub(super) mark: &'static str,
    pub(super) change: Change,
    pub(super) host: Shown,
    pub(super) host_link: Link,
    pub(super) target: Shown,
    pub(super) rule: Option<Shown>,
}

pub(super) struct FindingRow {
    pub(super) kind: Kind,
    pub(super) id: i64,
    /// By itself.
    pub(super) own: Link,
    pub(super) path: Shown,
    pub(super) explanation: Option<Shown>,
    pub(super) attributes: Vec<&'static str>,
    pub(super) unverified: Vec<&'static str>,
    pub(super) reason: Option<&'static str>,
    pub(super) covers: Option<u64>,
    pub(super) collapsed: Option<u64>,
    pub(super) manifest: Option<Shown>,
    pub(super) layer: Option<u16>,
    pub(super) meta_layer: Option<u16>,
    pub(super) step: Option<Shown>,
    pub(super) open: bool,
    pub(super) since: Moment,
    pub(super) updated: Moment,
    pub(super) resolved: Option<Moment>,
    pub(super) count: u64,
    pub(super) flapping: Option<u64>,
    pub(super) was_sealed: bool,
    pub(super) is_there: bool,
    /// Rows in which the sides differ, or all of them where there is one side.
    pub(super) differing: Vec<Row>,
    pub(super) equal: Vec<Row>,
}

/// Many findings of one kind below one directory.
pub(super) struct ManyRow {
    kind: Kind,
    id: i64,
    number: String,
    directory: Shown,
    in_root: bool,
    newest: Shown,
    since: Moment,
    each: Link,
}

/// What may be asked of the page of one finding.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FindingParameter {
    id: String,
}

pub(super) async fn list(
    State(state): State<Arc<AppState>>,
    parameters: Parameters<FindingParameters>,
) -> Result<Response, ApiError> {
    let mut parameters = parsed(parameters)?;
    let filter = Filter::of(&mut parameters);
    let now = state.now();
    let frame = Frame::of_part(&parameters.cursor, now);
    let query = parameters.query()?;
    let (lines, next) = if filter.folds() && query.path.is_none() {
        let page = state.store.lines(query).await?;
        (page.items, page.next)
    } else {
        let page = state.store.findings(query).await?;
        (page.items.into_iter().map(|newest| Line { newest, fold: None }).collect(), page.next)
    };
    let next = next.map(|order| filter.link().and("cursor", cursor_of(order)));
    render(&Findings { frame, next, ..Findings::new(filter, lines, now) })
}

pub(super) async fn show(
    State(state): State<Arc<AppState>>,
    parameters: Parameters<FindingParameter>,
) -> Result<Response, ApiError> {
    let FindingParameter { id } = parsed(parameters)?;
    let id = id.parse().map_err(|_| bad("id is the number of a finding"))?;
    let now = state.now();
    let query = FindingQuery { id: Some(id), limit: 1, ..FindingQuery::default() };
    let record = state.store.findings(query).await?.items.pop();
    let record = record.ok_or_else(|| {
        ApiError::not_found("there is no finding of this number; one that opens again has another number")
    })?;
    let alike = if record.state == Lifetime::Open {
        let key = Some(GroupKey::of(&record.finding)?);
        state.store.groups(GroupQuery { key, limit: 1, ..GroupQuery::default() }).await?.items.pop()
    } else {
        None
    };
    let alike = alike.filter(|group| group.hosts > 1).map(|group| (grouped(group.hosts), each_of(group.key)));
    render(&Single { frame: Frame::live(now), finding: FindingRow::new(record, now), alike })
}

impl Findings {
    fn new(filter: Filter, lines: Vec<Line>, now: Timestamp) -> Self {
        let many: Vec<u64> = lines.iter().filter_map(|line| Some(line.fold.as_ref()?.number)).collect();
        Self {
            frame: Frame::live(now),
            folded: (!many.is_empty()).then(|| (grouped(many.iter().sum()), many.len())),
            entries: lines.into_iter().map(|line| Entry::new(line, &filter, now)).collect(),
            filter,
            next: None,
        }
    }
}

impl Entry {
    fn new(line: Line, filter: &Filter, now: Timestamp) -> Self {
        let Line { newest, fold } = line;
        match fold {
            Some(fold) => Self::Many(Box::new(ManyRow::new(&newest, &fold, filter, now))),
            None => Self::One(Box::new(FindingRow::new(newest, now))),
        }
    }
}

impl Kind {
    pub(super) fn new(record: &FindingRecord) -> Self {
        Self {
            mark: mark(record.finding.severity()),
            change: record.finding.change,
            host: Shown::name(&record.host),
            host_link: Link::host(&record.host),
            target: Shown::name(&record.target),
            rule: record.finding.rule.as_deref().map(Shown::name),
        }
    }
}

impl ManyRow {
    fn new(record: &FindingRecord, fold: &Fold, filter: &Filter, now: Timestamp) -> Self {
        let Fold { directory, number } = fold;
        let below = record.path.strip_prefix(directory.as_slice()).unwrap_or_default();
        Self {
            kind: Kind::new(record),
            id: record.id,
            number: grouped(*number),
            in_root: directory.is_empty(),
            directory: Shown::bytes(if directory.is_empty() { b"." } else { directory }),
            newest: Shown::bytes(below.strip_prefix(b"/").unwrap_or(below)),
            since: Moment::new(record.opened_at, now),
            each: filter.each_like(record, directory),
        }
    }
}

impl FindingRow {
    pub(super) fn new(record: FindingRecord, now: Timestamp) -> Self {
        let kind = Kind::new(&record);
        let finding = &record.finding;
        let (differing, equal) = compare(finding).into_iter().partition(|row| row.differs);
        Self {
            kind,
            id: record.id,
            own: Link::to("/finding").and("id", record.id.to_string()),
            path: Shown::bytes(if record.path.is_empty() { b"." } else { &record.path }),
            explanation: finding.explanation.as_deref().map(Shown::escaped_text),
            attributes: finding.attributes.iter().map(Attribute::name).collect(),
            unverified: finding.unverified.iter().map(Attribute::name).collect(),
            reason: finding.reason.map(Reason::name),
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
            flapping: record.flapping,
            was_sealed: finding.change != Change::Added,
            is_there: finding.change != Change::Removed,
            differing,
            equal,
        }
    }
}
