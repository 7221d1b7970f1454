//! Owns the page of conditions: what is wrong with the watching itself. Must not own what a condition means.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;

use super::link::Link;
use super::shown::Shown;
use super::{Frame, Moment, render};
use crate::app::AppState;
use crate::clock::Timestamp;
use crate::error::ApiError;
use crate::query::{ConditionParameters, Parameters, parsed};
use crate::store::{ConditionRecord, Lifetime};

/// In the form: open and resolved.
const ALL: &str = "all";

/// `/conditions`.
#[derive(Template)]
#[template(path = "conditions.html")]
struct Conditions {
    frame: Frame,
    state: String,
    host: String,
    conditions: Vec<ConditionRow>,
    next: Option<Link>,
}

/// A condition.
pub(super) struct ConditionRow {
    pub(super) host: Shown,
    pub(super) host_link: Link,
    pub(super) target: Option<Shown>,
    pub(super) reason: &'static str,
    pub(super) meaning: &'static str,
    pub(super) path: Option<Shown>,
    pub(super) detail: Shown,
    pub(super) since: Moment,
    pub(super) resolved: Option<Moment>,
}

pub(super) async fn list(
    State(state): State<Arc<AppState>>,
    parameters: Parameters<ConditionParameters>,
) -> Result<Response, ApiError> {
    let mut parameters = parsed(parameters)?;
    if parameters.state.is_empty() {
        Lifetime::Open.name().clone_into(&mut parameters.state);
    }
    let (shown, host, cursor) = (parameters.state.clone(), parameters.host.clone(), parameters.cursor.clone());
    if parameters.state == ALL {
        parameters.state.clear();
    }
    let now = state.now();
    let page = state.store.conditions(parameters.query()?).await?;
    let link = Link::to("/conditions").and("state", &shown).and_given("host", &host);
    render(&Conditions {
        frame: Frame::of_part(&cursor, now),
        conditions: page.items.into_iter().map(|record| ConditionRow::new(record, now)).collect(),
        next: page.next.map(|id| link.and("cursor", id.to_string())),
        state: shown,
        host,
    })
}

impl ConditionRow {
    pub(super) fn new(record: ConditionRecord, now: Timestamp) -> Self {
        Self {
            host_link: Link::host(&record.host),
            host: Shown::name(&record.host),
            target: record.target.as_deref().map(Shown::name),
            reason: record.reason.name(),
            meaning: record.reason.meaning(),
            path: record.path.as_deref().map(Shown::escaped_text),
            detail: Shown::escaped_text(&record.detail),
            since: Moment::new(record.opened_at, now),
            resolved: record.resolved_at.map(|at| Moment::new(at, now)),
        }
    }
}
