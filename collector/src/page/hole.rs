//! Owns the page of holes: what agents gave a sequence and the collector never got. Must not own what is done about it.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;

use super::compare::grouped;
use super::link::Link;
use super::shown::Shown;
use super::{Frame, Moment, render};
use crate::app::AppState;
use crate::clock::Timestamp;
use crate::error::ApiError;
use crate::query::{HoleParameters, Parameters, parsed};
use crate::store::{HoleKind, HoleRecord};

/// `/holes`.
#[derive(Template)]
#[template(path = "holes.html")]
struct Holes {
    frame: Frame,
    host: String,
    holes: Vec<HoleRow>,
    next: Option<Link>,
}

struct HoleRow {
    id: i64,
    host: Shown,
    host_link: Link,
    epoch: String,
    first: String,
    last: String,
    number: String,
    kind: HoleKind,
    noted: Moment,
}

pub(super) async fn list(
    State(state): State<Arc<AppState>>,
    parameters: Parameters<HoleParameters>,
) -> Result<Response, ApiError> {
    let parameters = parsed(parameters)?;
    let (host, cursor) = (parameters.host.clone(), parameters.cursor.clone());
    let now = state.now();
    let page = state.store.holes(parameters.query()?).await?;
    let link = Link::to("/holes").and_given("host", &host);
    render(&Holes {
        frame: Frame::of_part(&cursor, now),
        holes: page.items.into_iter().map(|record| HoleRow::new(record, now)).collect(),
        next: page.next.map(|id| link.and("cursor", id.to_string())),
        host,
    })
}

impl HoleRow {
    fn new(record: HoleRecord, now: Timestamp) -> Self {
        let HoleRecord { id, host, epoch, sequences, kind, noted_at } = record;
        let (first, last) = sequences.into_inner();
        Self {
            id,
            host_link: Link::host(&host),
            host: Shown::name(&host),
            epoch: epoch.chars().take(12).collect(),
            first: grouped(first),
            last: grouped(last),
            number: grouped((last - first).saturating_add(1)),
            kind,
            noted: Moment::new(noted_at, now),
        }
    }
}
