//! Owns the overview: how the fleet is, what needs a look, what is the same on many hosts. Must not own lists in full.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use driftlock_common::drift::Change;
use driftlock_common::policy::Ruling;

use super::compare::grouped;
use super::condition::ConditionRow;
use super::group::GroupRow;
use super::host::HostLine;
use super::link::Link;
use super::{Frame, Marked, Moment, Tile, render};
use crate::app::AppState;
use crate::error::ApiError;
use crate::fleet::HostState;
use crate::fleet::hearing::RETURN_S;
use crate::roster::{Roster, RosterOrder, RosterQuery};
use crate::store::{ConditionQuery, GroupQuery, Lifetime};
use crate::tally::Tally;
use crate::view::records;

/// Of each list.
const SHOWN: usize = 8;

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    frame: Frame,
    /// Whether there is any host.
    any: bool,
    number: String,
    tiles: Vec<Tile>,
    open: Vec<Marked>,
    alerts: String,
    /// Since when the collector is there again, while hosts may still be coming back.
    returned: Option<Moment>,
    worst: Vec<HostLine>,
    wide: Vec<GroupRow>,
    conditions: Vec<ConditionRow>,
    more_conditions: bool,
}

/// `/`.
pub(super) async fn show(State(state): State<Arc<AppState>>) -> Result<Response, ApiError> {
    let outlook = state.outlook().await?;
    let now = outlook.now;
    let roster = Roster::read(&state, &outlook).await?;
    let numbers = roster.numbers();
    let needing = RosterQuery { order: RosterOrder::Worst(None), limit: SHOWN, ..RosterQuery::default() };
    let (mut worst, _) = roster.page(&needing);
    worst.items.retain(|entry| !matches!(entry.verdict.state, HostState::Clean | HostState::Retired));
    let mut records = records(&state, &worst.items).await?;
    let wide = GroupQuery { verdict: Some(Ruling::Alert), limit: SHOWN, ..GroupQuery::default() };
    let mut wide = state.store.groups(wide).await?.items;
    wide.retain(|group| group.hosts > 1);
    let query = ConditionQuery { state: Some(Lifetime::Open), limit: SHOWN, ..ConditionQuery::default() };
    let conditions = state.store.conditions(query).await?;
    let mut open = Tally::default();
    for (change, severity, number) in state.store.totals().await?.findings {
        open.add(severity, change == Change::Unverifiable, number);
    }
    let began = outlook.hearing.came_back().filter(|began| now.seconds_since(*began) < RETURN_S);
    render(&Overview {
        frame: Frame::live(now),
        any: numbers.values().any(|number| *number > 0),
        number: grouped(numbers.values().sum()),
        tiles: numbers
            .into_iter()
            .map(|(state, number)| Tile {
                state,
                number: grouped(number),
                none: number == 0,
                link: Link::to("/hosts").and("state", state.name()),
            })
            .collect(),
        open: Marked::all(&open, &Link::to("/findings")),
        alerts: grouped(open.alerts.total()),
        returned: began.map(|began| Moment::new(began, now)),
        worst: worst
            .items
            .into_iter()
            .map(|entry| HostLine::new(entry, records.remove(&entry.host).as_ref(), now))
            .collect(),
        wide: wide.into_iter().map(|group| GroupRow::new(group, now)).collect(),
        more_conditions: conditions.next.is_some(),
        conditions: conditions.items.into_iter().map(|record| ConditionRow::new(record, now)).collect(),
    })
}
