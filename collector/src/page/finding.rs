//! Owns the page of findings: each with both sides, or many of one kind as one line. Must not own queries.

use askama::Template;
use driftlock_common::drift::{Attribute, Change};
use driftlock_common::gap::Reason;

use super::compare::{Row, compare, grouped};
use super::filter::{Filter, Link};
use super::shown::Shown;
use super::{Moment, mark};
use crate::clock::Timestamp;
use crate::store::{FOLD, FindingRecord, Fold, Lifetime, Line};

/// What the form offers: values of the query, and what they are called.
const SEVERITIES: [(&str, &str); 9] = [
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
    pub(super) version: &'static str,
    pub(super) loaded: Moment,
    pub(super) filter: Filter,
    pub(super) first_part: bool,
    pub(super) entries: Vec<Entry>,
    /// How many findings stand in lines of many, and in how many lines.
    pub(super) folded: Option<(String, usize)>,
    pub(super) next: Option<Link>,
}

pub(super) enum Entry {
    One(Box<FindingRow>),
    Many(Box<ManyRow>),
}

/// What a finding is, whose it is, and what was said of it.
pub(super) struct Kind {
    /// Severity, or that it is tolerated.
    mark: &'static str,
    change: Change,
    host: Shown,
    host_link: Link,
    target: Shown,
    rule: Option<Shown>,
}

pub(super) struct FindingRow {
    kind: Kind,
    id: i64,
    path: Shown,
    explanation: Option<Shown>,
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
    flapping: Option<u64>,
    was_sealed: bool,
    is_there: bool,
    /// Rows in which the sides differ, or all of them where there is one side.
    differing: Vec<Row>,
    equal: Vec<Row>,
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

impl Findings {
    pub(super) fn new(filter: Filter, lines: Vec<Line>, now: Timestamp) -> Self {
        let many: Vec<u64> = lines.iter().filter_map(|line| Some(line.fold.as_ref()?.number)).collect();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            loaded: Moment::new(now, now),
            first_part: true,
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
    fn new(record: &FindingRecord) -> Self {
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
    fn new(record: FindingRecord, now: Timestamp) -> Self {
        let kind = Kind::new(&record);
        let finding = &record.finding;
        let (differing, equal) = compare(finding).into_iter().partition(|row| row.differs);
        Self {
            kind,
            id: record.id,
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
