//! Owns the page of groups: findings that are the same drift, on how many hosts. Must not own what makes them the same.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use driftlock_common::drift::{Attribute, Change};
use driftlock_common::policy::Ruling;

use super::compare::{Row, compare, grouped};
use super::finding::SEVERITIES;
use super::link::Link;
use super::shown::Shown;
use super::{Frame, Moment, mark, render};
use crate::app::AppState;
use crate::clock::Timestamp;
use crate::error::ApiError;
use crate::query::{GroupParameters, Parameters, WIDEST, group_cursor, parsed};
use crate::store::{GroupKey, GroupRecord};

/// In the form: alerts and tolerated.
const ALL: &str = "all";

/// `/groups`.
#[derive(Template)]
#[template(path = "groups.html")]
struct Groups {
    frame: Frame,
    filter: GroupParameters,
    groups: Vec<GroupRow>,
    next: Option<Link>,
}

/// Findings that are the same drift.
pub(super) struct GroupRow {
    pub(super) key: GroupKey,
    pub(super) mark: &'static str,
    pub(super) change: Change,
    pub(super) path: Shown,
    pub(super) hosts: String,
    /// Whether it is on one host alone; then which.
    pub(super) alone: Option<(Shown, Link)>,
    /// How many findings, if more than hosts.
    pub(super) findings: Option<String>,
    pub(super) attributes: Vec<&'static str>,
    pub(super) reason: Option<&'static str>,
    pub(super) first: Moment,
    pub(super) last: Moment,
    /// The findings.
    pub(super) each: Link,
    /// Rows in which the sides differ, or all of them where there is one side.
    pub(super) differing: Vec<Row>,
    pub(super) was_sealed: bool,
    pub(super) is_there: bool,
}

pub(super) async fn list(
    State(state): State<Arc<AppState>>,
    parameters: Parameters<GroupParameters>,
) -> Result<Response, ApiError> {
    let mut parameters = parsed(parameters)?;
    for (value, default) in [(&mut parameters.verdict, Ruling::Alert.name()), (&mut parameters.sort, WIDEST)] {
        if value.is_empty() {
            default.clone_into(value);
        }
    }
    let filter = parameters.clone();
    if parameters.verdict == ALL {
        parameters.verdict.clear();
    }
    let now = state.now();
    let page = state.store.groups(parameters.query()?).await?;
    let link = Link::to("/groups")
        .and_given("verdict", &filter.verdict)
        .and_given("severity", &filter.severity)
        .and_given("change", &filter.change)
        .and_given("sort", &filter.sort);
    render(&Groups {
        frame: Frame::of_part(&filter.cursor, now),
        groups: page.items.into_iter().map(|group| GroupRow::new(group, now)).collect(),
        next: page.next.map(|order| link.and("cursor", group_cursor(order))),
        filter,
    })
}

/// The findings of a group, whatever a policy says of them.
pub(super) fn each_of(key: GroupKey) -> Link {
    Link::to("/findings").and("group", key.to_string()).and("verdict", ALL)
}

impl Groups {
    fn narrows(&self) -> bool {
        let GroupParameters { verdict, severity, change, .. } = &self.filter;
        verdict != Ruling::Alert.name() || !severity.is_empty() || !change.is_empty()
    }
}

impl GroupRow {
    pub(super) fn new(record: GroupRecord, now: Timestamp) -> Self {
        let GroupRecord { key, hosts, findings, first_at, last_at, example } = record;
        let finding = &example.finding;
        Self {
            key,
            mark: mark(finding.severity()),
            change: finding.change,
            path: Shown::bytes(if example.path.is_empty() { b"." } else { &example.path }),
            hosts: grouped(hosts),
            alone: (hosts == 1).then(|| (Shown::name(&example.host), Link::host(&example.host))),
            findings: (findings > hosts).then(|| grouped(findings)),
            attributes: finding.attributes.iter().map(Attribute::name).collect(),
            reason: finding.reason.map(driftlock_common::gap::Reason::name),
            first: Moment::new(first_at, now),
            last: Moment::new(last_at, now),
            each: each_of(key),
            differing: compare(finding).into_iter().filter(|row| row.differs).collect(),
            was_sealed: finding.change != Change::Added,
            is_there: finding.change != Change::Removed,
        }
    }
}
